/*
 * The part of the panel that shows what carried the grade: the heat map's switch, its step, opacity, scale and legend,
 * and the patches at both ends.
 *
 * Last tested with QuPath 0.6.0 and 0.7.0.
 */
import groovy.transform.CompileStatic
import javafx.beans.InvalidationListener
import javafx.embed.swing.SwingFXUtils
import javafx.geometry.Pos
import javafx.scene.control.CheckBox
import javafx.scene.control.ComboBox
import javafx.scene.control.Label
import javafx.scene.control.Slider
import javafx.scene.image.ImageView
import javafx.scene.layout.BorderPane
import javafx.scene.layout.HBox
import javafx.scene.layout.Priority
import javafx.scene.layout.Region
import javafx.scene.layout.VBox
import qupath.lib.gui.QuPathGUI
import qupath.lib.gui.viewer.QuPathViewer
import qupath.lib.objects.PathObject

@CompileStatic
class HeroheHeatmapView {
    private static final String OF_GRADE = 'of the grade'
    private static final String ONE_SCALE = 'One scale for all annotations'
    private static final double CLOSE_PX = 220d

    private final QuPathGUI qupath
    private final CheckBox toggle = new CheckBox('Heat map')
    private final ComboBox<String> step = new ComboBox<>()
    private final Slider opacity = new Slider(0d, 1d, 0.6d)
    private final CheckBox oneScale = new CheckBox(ONE_SCALE)
    private final Label low = new Label(), high = new Label()
    private final HerohePatches patches = new HerohePatches()
    private final Label nothing = HeroheResultView.text('There are no patches: score with tiles = sampled.', '')
    private final VBox controls
    final VBox node

    private HeroheImage image
    private HeroheHeatmap heatmap
    private boolean updating = false

    HeroheHeatmapView(QuPathGUI qupath) {
        this.qupath = qupath
        oneScale.selected = true
        step.maxWidth = Double.MAX_VALUE
        HBox.setHgrow(step, Priority.ALWAYS)
        HBox.setHgrow(opacity, Priority.ALWAYS)
        def changed = { observable -> if (!updating) refresh() } as InvalidationListener
        toggle.selectedProperty().addListener(changed)
        step.valueProperty().addListener(changed)
        oneScale.selectedProperty().addListener(changed)
        opacity.valueProperty().addListener({ observable -> fade() } as InvalidationListener)
        controls = new VBox(5d, row('Step', step), row('Opacity', opacity), oneScale, legend())
        node = new VBox(5d, HeroheResultView.heading('What carried the grade'), toggle, controls, patches.node, nothing)
    }

    /** Follow the image that is open, null for none. */
    void follow(HeroheImage image) {
        if (image == null || !image.imageData.is(this.image?.imageData))
            leave()
        this.image = image
        updating = true
        def steps = image == null ? [] : HeroheExplain.steps(image)
        def chosen = step.value
        step.items.setAll([OF_GRADE] + steps)
        step.value = steps.contains(chosen) ? chosen : OF_GRADE
        updating = false
        refresh()
    }

    boolean isOn() {
        return toggle.selected
    }

    void setOn(boolean on) {
        toggle.selected = on
    }

    private void refresh() {
        List<HeroheExplain.Ranked> ranked = []
        if (image != null) {
            try {
                ranked = HeroheExplain.rank(image, [], step.value == OF_GRADE ? '' : step.value)
            } catch (HeroheClient.Failure ignored) {
                // Nothing is scored, or there are no tiles.
            }
        }
        for (part in [toggle, controls, patches.node]) {
            part.visible = part.managed = !ranked.empty
        }
        nothing.visible = nothing.managed = ranked.empty && image != null
        def viewer = viewer()
        if (ranked.empty || viewer == null) {
            leave()
            patches.clear()
            return
        }
        def all = ranked.collectMany { it.values() }
        boolean several = ranked.size() > 1
        oneScale.visible = oneScale.managed = several
        def range = HeroheColours.range(all)
        boolean numbers = !several || oneScale.selected
        low.text = numbers ? String.format(Locale.ROOT, 'lowers (-%.2g)', range) : 'lowers'
        high.text = numbers ? String.format(Locale.ROOT, 'raises (+%.2g)', range) : 'raises'
        def layer = layer(viewer)
        layer.show(ranked, numbers)
        layer.filled = toggle.selected
        fade()
        patches.show(image, ranked) { PathObject tile -> goTo(tile) }
    }

    private HeroheHeatmap layer(QuPathViewer viewer) {
        if (heatmap == null || !heatmap.isOf(viewer, image.imageData)) {
            leave()
            heatmap = new HeroheHeatmap(viewer)
        }
        return heatmap
    }

    private void leave() {
        heatmap?.remove()
        heatmap?.repaint()
        heatmap = null
    }

    private void fade() {
        heatmap?.setOpacity(opacity.value)
        heatmap?.repaint()
    }

    /** Centre a patch, near enough to be looked at, and frame it. */
    private void goTo(PathObject tile) {
        def viewer = viewer()
        if (viewer == null)
            return
        def roi = tile.ROI
        double near = roi.boundsWidth / CLOSE_PX
        if (viewer.downsampleFactor > near)
            viewer.setDownsampleFactor(near)
        viewer.setCenterPixelLocation(roi.centroidX, roi.centroidY)
        layer(viewer).mark(roi)
    }

    private QuPathViewer viewer() {
        return HeroheViewers.of(image?.imageData)
    }

    private BorderPane legend() {
        def picture = new ImageView(SwingFXUtils.toFXImage(HeroheColours.legend(240, 12), null))
        def words = new BorderPane()
        words.left = low
        words.right = high
        def box = new BorderPane(picture)
        box.bottom = words
        picture.fitWidthProperty().bind(box.widthProperty().subtract(2d))
        box.minWidth = 60d
        return box
    }

    private static HBox row(String name, Region control) {
        def label = new Label(name)
        label.minWidth = 60d
        def row = new HBox(6d, label, control)
        row.alignment = Pos.CENTER_LEFT
        return row
    }
}
