/*
 * Colours of what is signed: blue lowers, orange raises, and what does neither is pale. The two are told apart by
 * everybody, and neither is a colour of H&E.
 */
import groovy.transform.CompileStatic

import java.awt.image.BufferedImage

@CompileStatic
class HeroheColours {
    private static final List<Integer> LOWERS = [20, 70, 200], NEITHER = [250, 250, 250], RAISES = [240, 120, 0]
    private static final int FAINT = 70, STRONG = 255
    // A single patch far out must not make all others pale.
    private static final double SHARE_INSIDE = 0.98d

    /** The colour of a value between -1 and 1, as ARGB: the nearer to 0, the more it lets through. */
    static int argb(double value) {
        double strength = Math.min(1d, Math.abs(value))
        def end = value < 0 ? LOWERS : RAISES
        int packed = (int) Math.round(FAINT + (STRONG - FAINT) * strength)
        for (int i = 0; i < 3; i++)
            packed = (packed << 8) | (int) Math.round(NEITHER[i] + (end[i] - NEITHER[i]) * Math.sqrt(strength))
        return packed
    }

    /** The value that gets the full colour. */
    static double range(Collection<Double> values) {
        def sizes = values.collect { Math.abs(it) }.sort()
        if (sizes.empty)
            return 1d
        return Math.max(1e-9d, sizes[(int) Math.floor(SHARE_INSIDE * (sizes.size() - 1))])
    }

    /** The whole scale from left to right, over white. */
    static BufferedImage legend(int width, int height) {
        def picture = new BufferedImage(width, height, BufferedImage.TYPE_INT_RGB)
        for (int x = 0; x < width; x++) {
            int argb = argb(2d * x / (width - 1) - 1d)
            double cover = (argb >>> 24) / 255d
            int rgb = 0
            for (int shift : [16, 8, 0])
                rgb = (rgb << 8) | (int) Math.round(255 + (((argb >> shift) & 0xff) - 255) * cover)
            for (int y = 0; y < height; y++)
                picture.setRGB(x, y, rgb)
        }
        return picture
    }
}
