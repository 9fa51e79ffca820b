/*
 * A user of the HER2-HE extension in QuPath's window, played by QuPath's startup script: uses the menu and the panel
 * as a mouse would, and writes what is then to be seen as JSON into the file of the property herohe.seen. The project
 * holds a scored image, which is open, a second one, and bare glass or an immunostain. The property herohe.tour says
 * what the user does: 'work', with everything in the menu, or 'change of mind', who keeps nothing and then quits.
 */
import com.google.gson.Gson
import javafx.application.Platform
import javafx.scene.Node
import javafx.scene.Parent
import javafx.scene.control.Button
import javafx.scene.control.CheckBox
import javafx.scene.control.DialogPane
import javafx.scene.control.Label
import javafx.scene.control.Labeled
import javafx.scene.control.ScrollPane
import javafx.scene.control.TableView
import javafx.scene.control.TitledPane
import javafx.stage.Stage
import javafx.stage.Window
import qupath.lib.gui.QuPathGUI
import qupath.lib.objects.PathObjects
import qupath.lib.regions.ImageRegion
import qupath.lib.roi.ROIs

import java.awt.image.BufferedImage
import java.security.MessageDigest
import java.util.concurrent.FutureTask
import java.util.prefs.Preferences

class Driver {
    static final long PATIENCE_NS = 120_000_000_000L
    final QuPathGUI qupath = QuPathGUI.getInstance()

    def fx(Closure action) {
        def work = new FutureTask<Object>(action)
        Platform.runLater(work)
        return work.get()
    }

    /** What the window shows by itself in the end. */
    def await(String what, Closure found) {
        long until = System.nanoTime() + PATIENCE_NS
        while (System.nanoTime() < until) {
            def value = fx(found)
            if (value)
                return value
            Thread.sleep(300)
        }
        throw new IllegalStateException("waited in vain for $what; the panel says ${fx { words() }}")
    }

    def panel() { qupath.analysisTabPane.tabs.find { it.id == 'herohe-panel' }.content }

    List<Node> all(Node node) {
        def children = node instanceof ScrollPane ? [node.content] : node instanceof TitledPane ? [node.content] :
            node instanceof DialogPane ? [node.header, node.content] + node.childrenUnmodifiable :
            node instanceof Parent ? node.childrenUnmodifiable : []
        return [node] + children.findAll { it != null }.collectMany { all(it) }
    }

    List<String> words() {
        all(panel()).findAll { it instanceof Labeled && !(it instanceof Button) && it.text && it.parent.visible }*.text
    }

    Button button(Node within, String text) { all(within).find { it instanceof Button && it.text == text } }

    /** As a click in the menu: it may open a dialog, and then does not return before that is closed. */
    void menu(String name) {
        Platform.runLater { qupath.getMenu('Extensions>HER2-HE', false).items.find { it.text == name }.fire() }
    }

    DialogPane dialog(String button) {
        def roots = Window.windows.findAll { it.showing }*.scene*.root
        return roots.collectMany { all(it) }.find { it instanceof DialogPane && it.buttonTypes*.text.contains(button) }
    }

    void press(DialogPane pane, String text) {
        pane.lookupButton(pane.buttonTypes.find { it.text == text }).fire()
    }

    List layers() { qupath.viewer.customOverlayLayers }

    /** How much of the slide the heat map covers, as a share. */
    double covered() {
        def server = qupath.viewer.server
        def picture = new BufferedImage(100, 100, BufferedImage.TYPE_INT_ARGB)
        def graphics = picture.createGraphics()
        graphics.scale(100d / server.width, 100d / server.height)
        def whole = ImageRegion.createInstance(0, 0, server.width, server.height, 0, 0)
        layers().each { it.paintOverlay(graphics, whole, 1d, qupath.imageData, true) }
        graphics.dispose()
        return (0..<10000).count { (picture.getRGB(it % 100, it.intdiv(100)) >>> 24) != 0 } / 10000d
    }

    /** Names of what is changed from now on, of an open image, in another thread than the window's. */
    Set<String> changedElsewhere() {
        Set<String> found = Collections.synchronizedSet(new TreeSet<String>())
        def hear = { String what -> if (!Platform.isFxApplicationThread()) found.add(what) }
        fx {
            qupath.imageData.addPropertyChangeListener { hear(it.propertyName) }
            qupath.imageData.hierarchy.addListener { hear('hierarchy') }
        }
        return found
    }

    static String preferences() {
        def out = new ByteArrayOutputStream()
        Preferences.userRoot().exportSubtree(out)
        return out.toString('UTF-8')
    }

    String files() {
        def folder = qupath.project.path.parent.toFile()
        def digest = MessageDigest.getInstance('SHA-256')
        folder.eachFileRecurse { if (it.file) digest.update((it.path + it.bytes.encodeBase64()).getBytes('UTF-8')) }
        return digest.digest().encodeHex()
    }

    Map look() {
        Map seen = [:]
        await('an image') { qupath.imageData }
        seen.menu = fx { qupath.getMenu('Extensions>HER2-HE', false).items.findAll { it.text }*.text }
        // QuPath itself may find something to save in an image that was just opened.
        boolean fresh = fx { qupath.imageData.changed }
        def before = fx { [preferences(), files(), qupath.viewer.overlayOptions.fillDetections] }

        menu('Show result')
        seen.reopened = await('the result of before') { words().any { it.startsWith('P(positive)') } ? words() : null }
        menu('Explain')
        seen.covered = await('a heat map') { layers() ? covered() : 0 }
        seen.selected = fx { qupath.imageData.hierarchy.selectionModel.selectedObjects.size() }
        seen.mapper = fx { qupath.viewer.overlayOptions.measurementMapper != null }
        def second = fx { qupath.project.imageList.find { it.imageName == 'second.tif' } }
        seen.touched = fx { qupath.imageData.changed } != fresh
        Platform.runLater { qupath.openImageEntry(second) }
        if (fresh) {
            def asked = await('whether to save') { dialog('No') }
            Platform.runLater { press(asked, 'No') }
        }
        seen.second = await('the second image') { words().contains('second.tif') && !layers() ? words() : null }
        seen.unchanged = fx { [preferences(), files(), qupath.viewer.overlayOptions.fillDetections] } == before

        def elsewhere = changedElsewhere()
        seen.dialog = scoreByDialog()
        seen.scored = await('a result') { words().any { it.startsWith('P(positive)') } ? words() : null }
        seen.pictures = await('pictures of patches') {
            all(panel()).count { it instanceof javafx.scene.image.ImageView && it.image != null }
        }
        fx { button(panel(), 'Clear').fire() }
        seen.cleared = await('nothing') { words().any { it.startsWith('P(positive)') } ? null : words() }
        seen.project = scoreProject()
        seen.elsewhere = elsewhere
        menu('Report')
        def page = new File(qupath.project.path.parent.toFile(), 'herohe-bridge/inside-qupath/report.html')
        seen.report = await('the report') { page.file && page.text.contains('</html>') }
        return seen
    }

    /** Everything is begun, and nothing kept. */
    Map changeMinds() {
        Map seen = [:]
        await('an image') { qupath.imageData }
        def before = fx { files() }
        menu('Explain')
        await('a heat map') { layers() ? covered() : 0 }
        fx { button(panel(), 'Clear').fire() }
        await('nothing') { graded() ? null : words() }
        open('brown.tif')
        seen.cleared = fx { files() } == before

        fx { button(panel(), 'Score').fire() }
        seen.refused = await('a refusal') { words().find { it.contains('H&E') } }
        open('second.tif')
        remember([composites: 1000])
        fx { button(panel(), 'Score').fire() }
        def cancel = await('work that can be cancelled') { button(panel(), 'Cancel') }
        fx { cancel.fire() }
        seen.cancelled = await('the end of the work') { button(panel(), 'Cancel') ? null : words() }
        remember([composites: 4])
        fx { button(panel(), 'Score').fire() }
        await('a result') { graded() }

        menu('Model and server...')
        def pane = await('the dialog') { dialog('Close') }
        seen.server = await('a server') { all(pane).findAll { it instanceof Label }*.text.find { it.contains('idle') } }
        Platform.runLater { press(pane, 'Close') }
        // As it was opened first: what Clear took is still there, and so it is after the image scored just now.
        open('first.tif')
        seen.kept = await('the result of before') { graded() ? words() : null }
        seen.unchanged = fx { files() } == before

        def picture = new File(qupath.project.path.parent.parent.toFile(), 'second.tif')
        Platform.runLater {
            qupath.project = null
            qupath.openImage(qupath.viewer, picture.path, false, false)
        }
        def asked = await('which type of image it is') { dialog('Apply') }
        Platform.runLater { press(asked, 'Apply') }
        await('the image alone') { qupath.project == null && qupath.imageData }
        fx {
            def region = PathObjects.createAnnotationObject(ROIs.createRectangleROI(64, 64, 400, 400, null))
            qupath.imageData.hierarchy.addObject(region)
            qupath.imageData.hierarchy.selectionModel.selectedObject = region
        }
        await('its panel') { words().any { it.contains('second.tif') } }
        fx { button(panel(), 'Score').fire() }
        await('a result') { graded() }
        menu('Explain')
        seen.alone = await('a heat map') { layers() ? covered() : 0 }
        return seen
    }

    boolean graded() { words().any { it.startsWith('P(positive)') } }

    /** Open another image of the project, and keep nothing of this one. */
    void open(String name) {
        boolean changed = fx { qupath.imageData.changed }
        def entry = fx { qupath.project.imageList.find { it.imageName == name } }
        Platform.runLater { qupath.openImageEntry(entry) }
        if (changed)
            refuseToSave()
        await(name) { words().contains(name) }
    }

    void refuseToSave() {
        def asked = await('whether to save') { dialog('No') }
        Platform.runLater { press(asked, 'No') }
    }

    void remember(Map changed) {
        HeroheParameters.remember(HeroheScore.home(), HeroheParameters.remembered(HeroheScore.home()) + changed)
    }

    /** By the window's own button to close it. */
    void quit() {
        boolean changed = fx { qupath.imageData.changed }
        Platform.runLater { qupath.sendQuitRequest() }
        if (changed)
            refuseToSave()
    }

    List<String> scoreByDialog() {
        menu('Score annotations...')
        def pane = await('the dialog') { dialog('Score') }
        def found = fx { all(pane).findAll { it instanceof Labeled && it.text }*.text }
        fx { all(pane).find { it instanceof CheckBox && it.text == 'Each annotation for itself' }.selected = false }
        Platform.runLater { press(pane, 'Score') }
        return found
    }

    /** Score all images; returns the table in the end. */
    List<List<String>> scoreProject() {
        menu('Score project...')
        def pane = await('the dialog') { dialog('Score') }
        fx {
            def view = all(pane).find { it.class.simpleName == 'ListSelectionView' }
            view.with { targetItems.addAll(sourceItems); sourceItems.clear() }
        }
        Platform.runLater { press(pane, 'Score') }
        def table = await('the table in the end') {
            def root = Window.windows.find {
                it instanceof Stage && it.showing && it.title == 'HER2-HE: score project' &&
                    button(it.scene.root, 'Close')
            }?.scene?.root
            root == null ? null : all(root).find { it instanceof TableView }
        }
        return fx { table.items.collect { it.cells.collect { cell -> String.valueOf(cell) } } }
    }
}

def driver = new Driver()
def thread = new Thread({ ->
    def seen
    try {
        seen = System.getProperty('herohe.tour') == 'work' ? driver.look() : driver.changeMinds()
    } catch (Throwable problem) {
        seen = [problem: problem.toString()]
        problem.printStackTrace()
    }
    new File(System.getProperty('herohe.seen')).setText(new Gson().toJson(seen), 'UTF-8')
    if (System.getProperty('herohe.tour') == 'work' || seen.problem)
        Runtime.runtime.halt(0)
    driver.quit()
})
thread.daemon = true
thread.start()
