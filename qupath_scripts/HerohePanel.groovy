/*
 * The HER2-HE tab beside QuPath's own: what is known of the image that is open, work as it goes on, and the buttons
 * that begin it. It stays, and covers nothing of the slide.
 *
 * Last tested with QuPath 0.6.0 and 0.7.0.
 */
import groovy.transform.CompileStatic
import javafx.animation.PauseTransition
import javafx.application.Platform
import javafx.beans.InvalidationListener
import javafx.geometry.Insets
import javafx.scene.control.Button
import javafx.scene.control.Label
import javafx.scene.control.ScrollPane
import javafx.scene.control.Tab
import javafx.scene.control.Tooltip
import javafx.scene.layout.FlowPane
import javafx.scene.layout.VBox
import javafx.util.Duration
import qupath.lib.gui.QuPathGUI
import qupath.lib.images.ImageData
import qupath.lib.objects.PathObject
import qupath.lib.objects.hierarchy.events.PathObjectHierarchyEvent
import qupath.lib.objects.hierarchy.events.PathObjectHierarchyListener
import qupath.lib.projects.Project

import java.awt.image.BufferedImage
import java.util.function.Consumer

@CompileStatic
class HerohePanel implements PathObjectHierarchyListener {
    private static final String ID = 'herohe-panel'
    private static final String NOTICE = 'Research use only, not for diagnosis'
    private static final String HOW = 'Draw a region around the tumour, leave it selected, and press Score.'
    private static HerohePanel only

    final QuPathGUI qupath
    private final Tab tab = new Tab('HER2-HE')
    private final VBox work = new VBox(6d), problems = new VBox(6d), result = new VBox(6d), model = new VBox(4d)
    private final Label title = HeroheResultView.text('', '-fx-font-weight: bold;')
    private final Button score = new Button('Score'), options = new Button('Options...'), clear = new Button('Clear')
    private final HeroheHeatmapView heatmap
    private final PauseTransition soon = new PauseTransition(Duration.millis(250d))
    private final Map<ImageData, String> problemOf = new WeakHashMap<>()
    private final Map<ImageData, Integer> busy = new WeakHashMap<>()
    private ImageData<BufferedImage> followed

    /** The panel of QuPath's window; made when it is first asked for, by the thread of the window. */
    static HerohePanel of(QuPathGUI qupath) {
        if (only == null || !only.qupath.is(qupath))
            only = new HerohePanel(qupath)
        return only
    }

    private HerohePanel(QuPathGUI qupath) {
        this.qupath = qupath
        heatmap = new HeroheHeatmapView(qupath)
        score.defaultButton = false
        score.tooltip = new Tooltip('Score the selected annotations, or else those of the classes in the options')
        score.onAction = { HeroheActions.score(this) }
        options.onAction = { HeroheActions.ask(this) }
        clear.tooltip = new Tooltip('Remove what HER2-HE wrote onto this image')
        clear.onAction = { HeroheActions.clear(this) }
        def buttons = new FlowPane(6d, 4d, score, options, clear)
        def notice = HeroheResultView.text(NOTICE, '-fx-font-style: italic;')
        def content = new VBox(8d, title, buttons, work, problems, result, heatmap.node, model, notice)
        content.padding = new Insets(8d)
        def scroll = new ScrollPane(content)
        scroll.fitToWidth = true
        scroll.hbarPolicy = ScrollPane.ScrollBarPolicy.NEVER
        tab.content = scroll
        tab.id = ID
        tab.closable = false
        tab.selectedProperty().addListener({ observable -> soon.playFromStart() } as InvalidationListener)
        def tabs = qupath.analysisTabPane.tabs
        // One of a class that was loaded for an earlier script.
        tabs.removeIf { Tab other -> other.id == ID }
        // Before the last, so that it is seen where not all tabs have room.
        tabs.add(Math.max(0, tabs.size() - 1), tab)
        soon.onFinished = { refresh() }
        qupath.imageDataProperty().addListener({ observable -> follow(qupath.imageData) } as InvalidationListener)
        follow(qupath.imageData)
    }

    /** The image that is open, null for none. */
    HeroheImage getImage() {
        return followed == null ? null : new HeroheImage(followed, (Project<BufferedImage>) qupath.project)
    }

    /** Bring the tab to the front. */
    void reveal() {
        qupath.showAnalysisPaneProperty().set(true)
        tab.tabPane?.selectionModel?.select(tab)
    }

    void showHeatmap() {
        reveal()
        refresh()
        heatmap.on = true
    }

    /** Whether work on an image goes on. */
    boolean isBusy(ImageData<BufferedImage> imageData) {
        synchronized (busy) {
            return busy.containsKey(imageData)
        }
    }

    /** Begin to show work on an image; may be called from any thread. */
    HeroheProgress begin(String title, HeroheImage image, Consumer<String> log) {
        def progress = new HeroheProgress(title, log)
        synchronized (busy) {
            busy.put(image.imageData, 1)
        }
        Platform.runLater {
            problemOf.remove(image.imageData)
            work.children.add(progress.node)
            reveal()
            refresh()
        }
        return progress
    }

    /** Show that the work has ended, and what went wrong, '' for nothing. */
    void end(HeroheProgress progress, HeroheImage image, String problem) {
        synchronized (busy) {
            busy.remove(image.imageData)
        }
        Platform.runLater {
            work.children.remove(progress.node)
            say(image, problem)
        }
    }

    /** Say what goes wrong with an image, as long as that is shown. */
    void say(HeroheImage image, String problem) {
        if (problem && image != null)
            problemOf.put(image.imageData, problem)
        refresh()
        // A list that is sorted by what was just written.
        if (image?.entry != null)
            qupath.refreshProject()
    }

    @Override
    void hierarchyChanged(PathObjectHierarchyEvent event) {
        if (!event.changing)
            Platform.runLater { soon.playFromStart() }
    }

    private void follow(ImageData<BufferedImage> imageData) {
        followed?.hierarchy?.removeListener(this)
        followed = imageData
        followed?.hierarchy?.addListener(this)
        heatmap.follow(null)
        refresh()
    }

    private void refresh() {
        // What nobody sees need not be read; what is over the slide must follow.
        if (tab.tabPane != null && !tab.selected && !heatmap.on)
            return
        def image = image
        title.text = image == null ? 'No image is open' : image.name
        score.disable = image == null || isBusy(image.imageData)
        clear.disable = score.disable
        options.disable = score.disable
        def problem = problemOf.get(followed)
        problems.children.setAll(problem ? [HeroheResultView.text(problem, HeroheResultView.LOUD)] : [])
        def shown = image == null ? null : HeroheShown.of(image)
        if (shown == null) {
            result.children.setAll(score.disable || problem ? [] : [HeroheResultView.text(HOW, '')])
            model.children.clear()
            heatmap.follow(null)
        } else {
            result.children.setAll(HeroheResultView.nodes(shown) { PathObject annotation -> goTo(annotation) })
            model.children.setAll(HeroheResultView.ofModel(shown))
            heatmap.follow(image)
        }
        heatmap.node.visible = heatmap.node.managed = shown != null
    }

    private void goTo(PathObject annotation) {
        def viewer = qupath.viewer
        if (viewer != null && viewer.imageData.is(followed)) {
            viewer.setSelectedObject(annotation)
            viewer.setCenterPixelLocation(annotation.ROI.centroidX, annotation.ROI.centroidY)
        }
    }
}
