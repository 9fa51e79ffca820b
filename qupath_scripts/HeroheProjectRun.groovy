/*
 * Scores chosen images of the project that is open, one after another, and saves each.
 *
 * Last tested with QuPath 0.6.0 and 0.7.0.
 */
import groovy.transform.CompileStatic
import javafx.beans.InvalidationListener
import javafx.scene.control.ButtonBar
import javafx.scene.control.ButtonType
import javafx.scene.control.Dialog
import javafx.scene.control.TitledPane
import javafx.scene.layout.VBox
import org.slf4j.Logger
import org.slf4j.LoggerFactory
import qupath.lib.gui.QuPathGUI
import qupath.lib.gui.dialogs.ProjectDialogs
import qupath.lib.gui.viewer.QuPathViewer
import qupath.lib.images.ImageData
import qupath.lib.projects.Project
import qupath.lib.projects.ProjectImageEntry

import java.awt.image.BufferedImage
import java.util.function.Consumer

@CompileStatic
class HeroheProjectRun {
    private static final Logger LOG = LoggerFactory.getLogger('HER2-HE')
    private static final String OPEN = 'An open image is scored as it is, and saved unless it had unsaved changes.'

    private final Project<BufferedImage> project
    private final Map<String, Object> options
    private final HeroheRunWindow window
    private final List<String> results = []
    private int scored = 0, failed = 0

    private HeroheProjectRun(Project<BufferedImage> project, Map<String, Object> options, HeroheRunWindow window) {
        this.project = project
        this.options = options
        this.window = window
    }

    /** Ask which images and how, and begin. */
    static void ask(HerohePanel panel) {
        def qupath = panel.qupath
        def project = (Project<BufferedImage>) qupath.project
        def images = ProjectDialogs.createImageChoicePane(qupath, project.imageList, project.imageList, OPEN)
        images.prefHeight = 260d
        def form = new HeroheDialog(HeroheParameters.remembered(HeroheScore.home()))
        def how = new TitledPane('Parameters', form.pane)
        how.expanded = false
        def dialog = new Dialog<ButtonType>()
        dialog.initOwner(qupath.stage)
        dialog.title = 'HER2-HE: score project'
        dialog.resizable = true
        dialog.dialogPane.content = new VBox(8d, images, how)
        dialog.dialogPane.prefWidth = 640d
        def resize = { observable -> dialog.dialogPane.scene?.window?.sizeToScene() } as InvalidationListener
        how.heightProperty().addListener(resize)
        def score = new ButtonType('Score', ButtonBar.ButtonData.OK_DONE)
        form.addButtons(dialog, score)
        if (!dialog.showAndWait().orElse(null).is(score) || images.targetItems.empty)
            return
        def options = form.values()
        HeroheParameters.remember(HeroheScore.home(), options)
        def entries = new ArrayList<ProjectImageEntry<BufferedImage>>(images.targetItems)
        def log = { String line -> LOG.info(line) } as Consumer<String>
        def window = new HeroheRunWindow('HER2-HE: score project', entries.size(), log)
        def run = new HeroheProjectRun(project, options + [selected: (Object) false], window)
        def thread = new Thread({ -> run.over(entries) }, 'HER2-HE project')
        thread.daemon = true
        thread.start()
    }

    private void over(List<ProjectImageEntry<BufferedImage>> entries) {
        int cancelled = 0
        for (entry in entries) {
            if (window.cancelled)
                cancelled++
            else
                one(entry)
        }
        def words = "$scored of ${entries.size()} images scored"
        words += (failed ? ", $failed not: see the table" : '') + (cancelled ? ", $cancelled left when cancelled" : '')
        try {
            if (results)
                words += ". The report is under Extensions > HER2-HE > Report"
            HeroheReport.keep(project, results)
            project.syncChanges()
        } catch (IOException error) {
            words += ". The project could not be saved: $error.message"
        }
        window.finish("${words}.".toString())
        javafx.application.Platform.runLater { QuPathGUI.getInstance().refreshProject() }
    }

    private void one(ProjectImageEntry<BufferedImage> entry) {
        def row = window.begin('HER2-HE score', entry.imageName)
        ImageData<BufferedImage> imageData = null
        boolean ours = false
        try {
            imageData = opened(entry)
            ours = imageData == null
            imageData = imageData ?: entry.readImageData()
            boolean saves = ours || !imageData.changed
            def image = new HeroheImage(imageData, project)
            image.checkColours()
            def result = HeroheScore.score(image, options, row)
            if (saves)
                HeroheViewers.change(imageData) { entry.saveImageData(imageData) }
            results.add((String) result.remove(HeroheScore.TEXT))
            scored++
            def notes = ((List) result.get('warnings') ?: []).join(' ')
            def unsaved = saves ? '' : 'Not saved, because it had unsaved changes: press Ctrl+S in it. '
            row.ended('scored', result, unsaved + notes)
        } catch (Throwable error) {
            def words = HeroheActions.wordsFor(error)
            failed++
            if (error instanceof HeroheClient.Failure)
                LOG.warn(words)
            else
                LOG.error("$entry.imageName: $words".toString(), error)
            row.ended(error instanceof HeroheClient.Failure ? error.code.replace('_', ' ') : 'failed', null, words)
        } finally {
            if (ours)
                close(imageData)
        }
    }

    /** QuPath 0.5 cannot close an image, only what its pixels come from. */
    private static void close(ImageData<BufferedImage> imageData) {
        AutoCloseable closed = imageData instanceof AutoCloseable ? (AutoCloseable) imageData : imageData?.server
        closed?.close()
    }

    private static ImageData<BufferedImage> opened(ProjectImageEntry<BufferedImage> entry) {
        def qupath = QuPathGUI.getInstance()
        def shown = qupath.allViewers.findAll { QuPathViewer viewer -> viewer.hasServer() }.collect { it.imageData }
        return shown.find { qupath.project?.getEntry(it) == entry }
    }
}
