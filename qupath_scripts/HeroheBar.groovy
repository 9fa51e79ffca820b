/*
 * A probability as a bar from 0 to 1: its spread as a bracket, the threshold of a decision as a line across.
 */
import groovy.transform.CompileStatic
import javafx.scene.control.Tooltip
import javafx.scene.layout.Region
import javafx.scene.paint.Color
import javafx.scene.shape.Line
import javafx.scene.shape.Rectangle

@CompileStatic
class HeroheBar extends Region {
    private static final double BEYOND = 3d
    // Black, or white where QuPath's theme is dark.
    private static final String INK = '-fx-stroke: -fx-text-base-color;'

    private final double value
    private final Double spread, threshold
    private final double thickness
    private final Rectangle track = new Rectangle(), part = new Rectangle()
    private final Line range = new Line(), from = new Line(), to = new Line(), limit = new Line()

    HeroheBar(double value, Double spread, Double threshold, double thickness) {
        this.value = value
        this.spread = spread
        this.threshold = threshold
        this.thickness = thickness
        track.fill = Color.gray(0.5d, 0.25d)
        track.stroke = Color.gray(0.5d, 0.7d)
        part.fill = threshold != null && value >= threshold ? Color.rgb(200, 50, 50) : Color.rgb(90, 90, 180)
        for (Line line : [range, from, to]) {
            line.style = INK
            line.strokeWidth = 1.5d
        }
        limit.style = INK
        limit.strokeWidth = 3d
        children.addAll(track, part)
        if (threshold != null)
            children.add(limit)
        if (spread != null && spread > 0)
            children.addAll(range, from, to)
        children.each { it.managed = false }
        setMinHeight(thickness + 2 * BEYOND)
        setPrefHeight(thickness + 2 * BEYOND)
        setMaxWidth(Double.MAX_VALUE)
        def words = String.format(Locale.ROOT, 'P(positive) = %.3f', value) +
            (spread == null ? '' : String.format(Locale.ROOT, ', SD over composites %.3f', spread)) +
            (threshold == null ? '' : String.format(Locale.ROOT, '; positive from %.3f', threshold))
        Tooltip.install(this, new Tooltip(words))
    }

    @Override
    protected void layoutChildren() {
        double wide = getWidth() - 2
        for (Rectangle box : [track, part]) {
            box.x = 1
            box.y = BEYOND
            box.height = thickness
        }
        track.width = wide
        part.width = wide * value
        double middle = BEYOND + thickness / 2
        if (spread != null) {
            double left = 1 + wide * Math.max(0d, value - spread), right = 1 + wide * Math.min(1d, value + spread)
            place(range, left, middle, right, middle)
            place(from, left, middle - thickness / 4, left, middle + thickness / 4)
            place(to, right, middle - thickness / 4, right, middle + thickness / 4)
        }
        if (threshold != null)
            place(limit, 1 + wide * threshold, 0, 1 + wide * threshold, thickness + 2 * BEYOND)
    }

    private static void place(Line line, double x1, double y1, double x2, double y2) {
        line.startX = x1
        line.startY = y1
        line.endX = x2
        line.endY = y2
    }
}
