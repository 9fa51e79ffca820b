/*
 * The contributions of patches over the tissue, half-transparent: a layer of one viewer, which goes when that shows
 * another image. It changes no object, no selection and no preference.
 *
 * Last tested with QuPath 0.6.0 and 0.7.0.
 */
import groovy.transform.CompileStatic
import javafx.beans.value.ChangeListener
import javafx.beans.value.ObservableValue
import qupath.lib.gui.viewer.QuPathViewer
import qupath.lib.gui.viewer.overlays.AbstractOverlay
import qupath.lib.images.ImageData
import qupath.lib.objects.PathObject
import qupath.lib.regions.ImageRegion
import qupath.lib.roi.interfaces.ROI

import java.awt.BasicStroke
import java.awt.Color
import java.awt.Graphics2D
import java.awt.RenderingHints
import java.awt.geom.Rectangle2D
import java.awt.image.BufferedImage

@CompileStatic
class HeroheHeatmap extends AbstractOverlay implements ChangeListener<ImageData<BufferedImage>> {
    private static class Cell {
        final Rectangle2D box
        final double value, share

        Cell(ROI roi, double value, double share) {
            box = around(roi)
            this.value = value
            this.share = share
        }
    }

    private final QuPathViewer viewer
    private final ImageData<BufferedImage> imageData
    private volatile List<Cell> cells = []
    private volatile Rectangle2D marked = null
    private volatile boolean filled = false

    HeroheHeatmap(QuPathViewer viewer) {
        super(viewer.overlayOptions)
        this.viewer = viewer
        imageData = viewer.imageData
        viewer.imageDataProperty().addListener(this)
        viewer.customOverlayLayers.add(this)
    }

    boolean isOf(QuPathViewer viewer, ImageData<BufferedImage> imageData) {
        return this.viewer.is(viewer) && this.imageData.is(imageData)
    }

    /**
     * Show contributions.
     *
     * @param oneScale the same colour means the same number in all annotations; or else each has its own scale
     */
    void show(List<HeroheExplain.Ranked> ranked, boolean oneScale) {
        def all = HeroheColours.range(ranked.collectMany { it.values() })
        List<Cell> found = []
        for (one in ranked) {
            def range = oneScale ? all : HeroheColours.range(one.values())
            for (PathObject tile : one.tiles)
                found.add(new Cell(tile.ROI, one.value(tile), one.value(tile) / range))
        }
        cells = found
        repaint()
    }

    /** Whether the contributions are shown; the mark around a patch is in any case. */
    void setFilled(boolean filled) {
        this.filled = filled
        repaint()
    }

    /** Frame one patch, and only that. */
    void mark(ROI roi) {
        marked = roi == null ? null : around(roi)
        repaint()
    }

    void remove() {
        viewer.imageDataProperty().removeListener(this)
        viewer.customOverlayLayers.remove(this)
    }

    void repaint() {
        viewer.repaint()
    }

    @Override
    void changed(ObservableValue<? extends ImageData<BufferedImage>> value, ImageData<BufferedImage> before,
            ImageData<BufferedImage> now) {
        remove()
    }

    private static Rectangle2D around(ROI roi) {
        return new Rectangle2D.Double(roi.boundsX, roi.boundsY, roi.boundsWidth, roi.boundsHeight)
    }

    @Override
    void paintOverlay(Graphics2D g2d, ImageRegion region, double downsample, ImageData<BufferedImage> shown,
            boolean completely) {
        if (!shown.is(imageData))
            return
        def graphics = (Graphics2D) g2d.create()
        // Smoothed edges would leave seams between neighbours.
        graphics.setRenderingHint(RenderingHints.KEY_ANTIALIASING, RenderingHints.VALUE_ANTIALIAS_OFF)
        if (filled && visible) {
            setAlphaComposite(graphics)
            for (Cell cell : cells) {
                if (cell.box.intersects(region.x, region.y, region.width, region.height)) {
                    graphics.color = new Color(HeroheColours.argb(cell.share), true)
                    graphics.fill(cell.box)
                }
            }
        }
        def frame = marked
        if (frame != null) {
            graphics.composite = java.awt.AlphaComposite.SrcOver
            graphics.color = Color.WHITE
            graphics.stroke = new BasicStroke((float) (5 * downsample))
            graphics.draw(frame)
            graphics.color = Color.BLACK
            graphics.stroke = new BasicStroke((float) (2 * downsample))
            graphics.draw(frame)
        }
        graphics.dispose()
    }

    @Override
    String getLocationString(ImageData<BufferedImage> shown, double x, double y, int z, int t) {
        def cell = filled && shown.is(imageData) ? cells.find { it.box.contains(x, y) } : null
        return cell == null ? null : String.format(Locale.ROOT, 'contribution %+.2g', cell.value)
    }
}
