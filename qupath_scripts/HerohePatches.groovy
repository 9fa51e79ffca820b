/*
 * Patches as pictures: those that speak most for a step, and those that speak least for it. A click shows where a
 * patch lies on the slide.
 *
 * Last tested with QuPath 0.6.0 and 0.7.0.
 */
import groovy.transform.CompileStatic
import javafx.application.Platform
import javafx.embed.swing.SwingFXUtils
import javafx.scene.control.Label
import javafx.scene.control.Tooltip
import javafx.scene.image.ImageView
import javafx.scene.layout.FlowPane
import javafx.scene.layout.StackPane
import javafx.scene.layout.VBox
import qupath.lib.objects.PathObject

import java.util.concurrent.ExecutorService
import java.util.concurrent.Executors
import java.util.function.Consumer

@CompileStatic
class HerohePatches {
    private static final int PX = 72
    private static final int EACH = 8

    private final ExecutorService reader = Executors.newSingleThreadExecutor { Runnable work ->
        def thread = new Thread(work, 'HER2-HE pictures')
        thread.daemon = true
        return thread
    }
    private volatile int round = 0
    private List<Object> ends = []
    final VBox node = new VBox(3d)

    /** Show the patches at both ends; in as far as they fit, each only once. */
    void show(HeroheImage image, List<HeroheExplain.Ranked> ranked, Consumer<PathObject> chosen) {
        def values = new IdentityHashMap<PathObject, Double>()
        for (one in ranked)
            one.tiles.each { PathObject tile -> values.put(tile, one.value(tile)) }
        def sorted = values.keySet().sort { PathObject tile -> -values.get(tile) }
        int most = Math.min(EACH, (sorted.size() + 1).intdiv(2)), least = Math.min(EACH, sorted.size() - most)
        def top = sorted.take(most), bottom = sorted.takeRight(least).reverse()
        // Pictures that are there already need not be read again each time that something is drawn.
        def now = (top + bottom) as List<Object>
        now.addAll(ranked.collect { it.measurement })
        if (same(now))
            return
        ends = now
        int mine = ++round
        node.children.setAll(new Label('Speak most for it'), row(image, top, values, chosen, mine))
        if (bottom)
            node.children.addAll(new Label('Speak least for it'), row(image, bottom, values, chosen, mine))
    }

    private boolean same(List<Object> now) {
        return now.size() == ends.size() && (0..<now.size()).every { int i -> now[i] == ends[i] }
    }

    void clear() {
        round++
        ends = []
        node.children.clear()
    }

    private FlowPane row(HeroheImage image, List<PathObject> tiles, Map<PathObject, Double> values,
            Consumer<PathObject> chosen, int mine) {
        def row = new FlowPane(4d, 4d)
        for (PathObject tile : tiles) {
            def shown = tile
            def view = new ImageView()
            view.fitWidth = PX
            view.fitHeight = PX
            def frame = new StackPane(view)
            frame.setMinSize(PX, PX)
            frame.setPrefSize(PX, PX)
            frame.style = '-fx-background-color: #8884; -fx-cursor: hand;'
            frame.onMouseClicked = { chosen.accept(shown) }
            def words = String.format(
                Locale.ROOT, 'contribution %+.2g; click to see it on the slide', values.get(shown))
            Tooltip.install(frame, new Tooltip(words))
            row.children.add(frame)
            reader.submit({ read(image, shown, view, mine) } as Runnable)
        }
        return row
    }

    private void read(HeroheImage image, PathObject tile, ImageView view, int mine) {
        // Meanwhile other patches are asked for.
        if (mine != round)
            return
        try {
            def roi = tile.ROI
            def picture = image.read([
                x: (Number) (int) roi.boundsX, y: (Number) (int) roi.boundsY, width: (Number) (int) roi.boundsWidth,
                height: (Number) (int) roi.boundsHeight, out_width: (Number) (2 * PX), out_height: (Number) (2 * PX)
            ])
            Platform.runLater {
                if (mine == round)
                    view.image = SwingFXUtils.toFXImage(picture, null)
            }
        } catch (Exception ignored) {
            // The slide is gone, or was closed: its place stays empty.
        }
    }
}
