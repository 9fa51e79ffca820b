/*
 * A user of the HER2-HE extension in QuPath's window, played by QuPath's startup script: uses the menu and the panel
 * as a mouse would, writes what is then to be seen as JSON into the file of the property herohe.seen, and ends QuPath
 * without saving. The project holds a scored image, which is open, a second one, and bare glass.
 */
import com.google.gson.Gson
import javafx.application.Platform
import javafx.scene.Node
import javafx.scene.Parent
import javafx.scene.control.Button
import javafx.scene.control.CheckBox
import javafx.scene.control.DialogPane
import javafx.scene.control.Labeled
import javafx.scene.control.ScrollPane
import javafx.scene.control.TableView
import javafx.scene.control.TitledPane
import javafx.stage.Stage
import javafx.stage.Window
import qupath.lib.gui.QuPathGUI
import qupath.lib.regions.ImageRegion

import java.awt.image.BufferedImage
import java.security.MessageDigest
import java.util.concurrent.FutureTask
import java.util.prefs.Preferences

class Driver {
    static final long PATIENCE_NS = 600_000_000_000L
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

        seen.dialog = scoreByDialog()
        seen.scored = await('a result') { words().any { it.startsWith('P(positive)') } ? words() : null }
        seen.pictures = await('pictures of patches') {
            all(panel()).count { it instanceof javafx.scene.image.ImageView && it.image != null }
        }
        fx { button(panel(), 'Clear').fire() }
        seen.cleared = await('nothing') { words().any { it.startsWith('P(positive)') } ? null : words() }
        seen.project = scoreProject()
        return seen
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
        seen = driver.look()
    } catch (Throwable problem) {
        seen = [problem: problem.toString()]
        problem.printStackTrace()
    }
    new File(System.getProperty('herohe.seen')).setText(new Gson().toJson(seen), 'UTF-8')
    Runtime.runtime.halt(0)
})
thread.daemon = true
thread.start()
