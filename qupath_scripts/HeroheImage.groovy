/*
 * What the HER2-HE scripts read of an image that is open in QuPath: which annotations are meant, where the
 * slide's file is, and pixels for a server that cannot open it.
 *
 * Last tested with QuPath 0.5.1, 0.6.0 and 0.7.0.
 */
import com.google.gson.Gson
import groovy.transform.CompileStatic
import qupath.lib.gui.scripting.QPEx
import qupath.lib.images.ImageData
import qupath.lib.images.servers.ImageServer
import qupath.lib.images.servers.ImageServerBuilder
import qupath.lib.images.servers.ImageServerMetadata
import qupath.lib.io.GsonTools
import qupath.lib.objects.PathObject
import qupath.lib.objects.classes.PathClass
import qupath.lib.objects.hierarchy.PathObjectHierarchy
import qupath.lib.projects.Project
import qupath.lib.projects.ProjectImageEntry
import qupath.lib.regions.RegionRequest
import qupath.lib.roi.interfaces.ROI

import java.awt.RenderingHints
import java.awt.image.BufferedImage
import java.nio.ByteBuffer
import java.nio.file.Path
import java.nio.file.Paths
import java.security.MessageDigest

@CompileStatic
class HeroheImage {
    // One made of very many images is no slide, and would not fit into a message.
    private static final int LONGEST_BUILDER = 100_000
    private static final double PLAUSIBLE_LOW = 0.01d, PLAUSIBLE_HIGH = 100d

    final ImageData<BufferedImage> imageData
    final ImageServer<BufferedImage> server
    final PathObjectHierarchy hierarchy
    final Project<BufferedImage> project
    final ProjectImageEntry<BufferedImage> entry
    final HeroheData data = HeroheMarks.data()

    HeroheImage(ImageData<BufferedImage> imageData, Project<BufferedImage> project) {
        this.imageData = imageData
        this.server = imageData.server
        this.hierarchy = imageData.hierarchy
        this.project = project
        this.entry = project?.getEntry(imageData)
    }

    /** The image that the script runs for. */
    static HeroheImage current() {
        def imageData = QPEx.getCurrentImageData()
        if (imageData == null)
            throw new HeroheClient.Failure('no_image', 'No image is open', 'Open a slide and run the script again')
        return new HeroheImage((ImageData<BufferedImage>) imageData, (Project<BufferedImage>) QPEx.getProject())
    }

    /** Refuse what cannot be a slide stained with H&E. */
    void checkColours() {
        if (!server.RGB)
            throw new HeroheClient.Failure(
                'unsuitable', "$name is no colour image of 8 bits".toString(), 'HER2-HE is for slides stained with H&E'
            )
    }

    /** Refuse an image whose type says that it is not H&E; one without a type is judged by its colours. */
    void checkStain() {
        def type = imageData.imageType
        if (type != null && !(type in [ImageData.ImageType.UNSET, ImageData.ImageType.BRIGHTFIELD_H_E]))
            throw new HeroheClient.Failure(
                'unsuitable', "The image type of $name is $type, and HER2-HE reads H&E only".toString(),
                'If it is H&E, set its type in the Image tab, or use anyStain = true to score it all the same'
            )
    }

    String getName() {
        return entry?.imageName ?: server.metadata.name
    }

    List<PathObject> annotations() {
        return data.userAnnotations(hierarchy.rootObject)
    }

    /** The selected annotations with an area. */
    List<PathObject> selected() {
        def selected = new HashSet<PathObject>(hierarchy.selectionModel.selectedObjects)
        return annotations().findAll { selected.contains(it) && it.ROI?.area }
    }

    /** Whether an object's class is one of these, or derived from one; a proposed one is only if asked for. */
    static boolean isOfClass(PathObject object, Collection<String> classes) {
        def proposed = ": $HeroheData.PROPOSED".toString()
        for (PathClass c = object.pathClass; c != null; c = c.parentClass) {
            if (classes.contains(c.toString()))
                return true
            if (c.toString().endsWith(proposed))
                return false
        }
        return false
    }

    /** The user's classes on this image with their numbers, as a sentence's part; '' where nothing is drawn. */
    String classesPresent() {
        def counts = annotations().countBy { HeroheMarks.userClassName(it) ?: 'unclassified' }
        return counts.collect { name, count -> "$name ($count)" }.join(', ')
    }

    String geoJson(List<PathObject> objects) {
        return '{"type":"FeatureCollection","features":' + data.geoJson(objects) + '}'
    }

    /**
     * How a server gets at the pixels: by the slide's file, if it is one, and by asking.
     *
     * @param mayNameFiles whether the server reads files that this process names
     * @param encoding how pixels are sent: raw, png or jpeg
     */
    Map<String, Object> request(boolean mayNameFiles, String encoding) {
        def metadata = server.metadata
        def calibration = metadata.pixelCalibration
        Map<String, Object> source = [
            name: (Object) name, width: metadata.width, height: metadata.height,
            level_downsamples: levels(), fingerprint: fingerprint(), encoding: encoding
        ]
        def mpp = micronsPerPixel(metadata)
        if (mpp != null)
            source.put('mpp', mpp)
        Map<String, Object> request = [slide: (Object) name, entry: entry?.ID ?: '', source: (Object) source]
        def text = GsonTools.getInstance().toJson(server.builder, ImageServerBuilder.ServerBuilder)
        if (text.length() > LONGEST_BUILDER)
            return request
        def builder = new Gson().fromJson(text, Map)
        if (builder != null)
            request.put('builder', builder)
        def file = fileOf(innermost(builder))
        if (mayNameFiles && file != null)
            request.put('path', file.toString())
        return request
    }

    /** µm/px as the user set it, null when it is the file's own. */
    Double usersMpp() {
        def mpp = micronsPerPixel(server.metadata), own = micronsPerPixel(server.originalMetadata)
        if (mpp == null || mpp < PLAUSIBLE_LOW || mpp > PLAUSIBLE_HIGH)
            return null
        return own != null && Math.abs(mpp - own) <= 1e-6d * own ? null : mpp
    }

    /** Pixels of a box in level-0 px, scaled to its out_width x out_height. */
    BufferedImage read(Map<String, Number> box) {
        int width = box.get('width').intValue()
        int outWidth = box.get('out_width').intValue(), outHeight = box.get('out_height').intValue()
        def region = RegionRequest.createInstance(
            server.path, width / (double) outWidth,
            box.get('x').intValue(), box.get('y').intValue(), width, box.get('height').intValue()
        )
        def image = server.readRegion(region)
        if (image == null)
            throw new IOException("QuPath has no pixels of $region")
        return image.width == outWidth && image.height == outHeight ? image : scaled(image, outWidth, outHeight)
    }

    private static BufferedImage scaled(BufferedImage image, int width, int height) {
        def out = new BufferedImage(width, height, BufferedImage.TYPE_INT_RGB)
        def graphics = out.createGraphics()
        graphics.setRenderingHint(RenderingHints.KEY_INTERPOLATION, RenderingHints.VALUE_INTERPOLATION_BILINEAR)
        graphics.drawImage(image, 0, 0, width, height, null)
        graphics.dispose()
        return out
    }

    /** The builder that reads the file, whatever was done to its image then. */
    private static Map innermost(Map builder) {
        while (builder?.get('builder') instanceof Map)
            builder = (Map) builder.get('builder')
        return builder
    }

    private static Path fileOf(Map builder) {
        if (builder?.get('builderType') != 'uri')
            return null
        try {
            def uri = URI.create(String.valueOf(builder.get('uri')))
            return uri.scheme == 'file' ? Paths.get(uri) : null
        } catch (IllegalArgumentException ignored) {
            return null
        }
    }

    private List<Double> levels() {
        def levels = server.preferredDownsamples.toList().findAll { it >= 1d }.sort()
        return levels && levels[0] == 1d ? levels : [1d] + levels
    }

    /** What the pixels are, whatever the image is called: a digest of its size and its smallest picture. */
    private String fingerprint() {
        def digest = MessageDigest.getInstance('SHA-256')
        digest.update(ByteBuffer.allocate(8).putInt(server.width).putInt(server.height).array())
        digest.update(HeroheClient.encode(server.getDefaultThumbnail(0, 0), 'raw'))
        return 'qupath-' + digest.digest().encodeHex().toString()
    }

    private static Double micronsPerPixel(ImageServerMetadata metadata) {
        def calibration = metadata.pixelCalibration
        if (!calibration.hasPixelSizeMicrons())
            return null
        return (calibration.pixelWidthMicrons + calibration.pixelHeightMicrons) / 2d
    }
}
