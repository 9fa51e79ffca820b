/*
 * What bridge/qupath/image_data.py asks of QuPath's own classes in bulk. Compiled and run inside QuPath's Java machine:
 * thousands of calls through the bridge from Python would cost more than the work itself, and Java finds the
 * classes of a data file only from code that was loaded beside them.
 *
 * Last tested with QuPath 0.5.1, 0.6.0 and 0.7.0.
 */
import groovy.transform.CompileStatic
import org.locationtech.jts.io.WKTReader
import qupath.lib.io.GsonTools
import qupath.lib.io.PathIO
import qupath.lib.measurements.MeasurementList
import qupath.lib.measurements.MeasurementListFactory
import qupath.lib.objects.PathCellObject
import qupath.lib.objects.PathObject
import qupath.lib.objects.PathObjects
import qupath.lib.objects.PathTileObject
import qupath.lib.objects.classes.PathClass
import qupath.lib.regions.ImagePlane
import qupath.lib.roi.GeometryTools
import qupath.lib.roi.ROIs
import qupath.lib.roi.RectangleROI
import qupath.lib.roi.interfaces.ROI

import java.lang.reflect.Method
import java.nio.ByteBuffer
import java.security.MessageDigest

@CompileStatic
class HeroheData {
    static final String PROPOSED = 'proposed'

    private final Set<String> ownComponents
    private final String tileClass
    private final String measurementPrefix
    private final String mark
    // Asking for metadata makes a map for each object that has none; QuPath 0.6 can be asked whether it has.
    private final Method hasMetadata = PathObject.methods.find { it.name == 'hasMetadata' }

    HeroheData(Collection<String> ownComponents, String tileClass, String measurementPrefix, String mark) {
        this.ownComponents = new HashSet<>(ownComponents)
        this.tileClass = tileClass
        this.measurementPrefix = measurementPrefix
        this.mark = mark
    }

    /**
     * All objects of a data file in their order, the header first; fails unless the end mark is reached.
     * Not to be used inside a QuPath that has an image open: it forgets the classes that are known.
     */
    static List<Object> read(InputStream input) {
        forgetClasses()
        def stream = PathIO.createObjectInputStream(new BufferedInputStream(input, 1 << 20))
        List<Object> items = []
        items.add(stream.readUTF())
        while (true) {
            def item = stream.readObject()
            items.add(item)
            if ('EOF'.equals(item))
                return items
        }
    }

    // A class has one colour in a Java machine, that of the file it was first read from, and would be saved with
    // it in every other. Forgotten, it has the colour that each file gives it.
    private static void forgetClasses() {
        def reset = PathClass.declaredMethods.find { it.name == 'resetCaches' && it.parameterCount == 0 }
        if (reset != null) {
            reset.setAccessible(true)
            reset.invoke(null)
        }
    }

    /** Write what read() returned, down to the disk. */
    static void write(File file, List<Object> items) {
        new FileOutputStream(file).withCloseable { FileOutputStream output ->
            def stream = new ObjectOutputStream(new BufferedOutputStream(output, 1 << 20))
            stream.writeUTF((String) items.get(0))
            items.drop(1).each { stream.writeObject(it) }
            stream.flush()
            output.getFD().sync()
        }
    }

    /** The class without components of ours; the user's own components stay the very same objects. */
    private PathClass userClass(PathClass pathClass) {
        if (pathClass == null || pathClass.getName() == null)
            return null
        def parent = userClass(pathClass.getParentClass())
        if (ownComponents.contains(pathClass.getName()))
            return parent
        return parent === pathClass.getParentClass() ? pathClass :
            PathClass.getInstance(parent, pathClass.getName(), pathClass.getColor())
    }

    /** Derive the object's class by a component of ours; null restores the user's class. Returns the class. */
    String derive(PathObject object, String component, Integer rgb) {
        def pathClass = userClass(object.getPathClass())
        if (component != null)
            pathClass = pathClass == null ? PathClass.getInstance(component, rgb) :
                PathClass.getInstance(pathClass, component, rgb)
        // Setting a class makes QuPath forget the object's own colour and its class probability.
        def color = object.getColor()
        object.setPathClass(pathClass, object.getClassProbability())
        object.setColor(color)
        return pathClass == null ? '' : pathClass.toString()
    }

    /** The component of ours in an object's class, '' when there is none. */
    String ownComponent(PathObject object) {
        for (PathClass c = object.getPathClass(); c != null; c = c.getParentClass())
            if (ownComponents.contains(c.getName()))
                return c.getName()
        return ''
    }

    /** The measurements of ours on an object, by name. */
    Map<String, Double> ownMeasurements(PathObject object) {
        Map<String, Double> found = new TreeMap<>()
        if (object.hasMeasurements()) {
            def list = object.getMeasurementList()
            for (String name : list.getMeasurementNames())
                if (name.startsWith(measurementPrefix))
                    found.put(name, list.get(name))
        }
        return found
    }

    void removeOwnMeasurements(PathObject object) {
        ownMeasurements(object).keySet().each { object.getMeasurementList().remove(it) }
    }

    /** Objects as a GeoJSON list in their order; a shape that QuPath cannot express is left empty. */
    static String geoJson(List<PathObject> objects) {
        def gson = GsonTools.getInstance()
        def texts = objects.collect { PathObject object ->
            try {
                gson.toJson(object, PathObject)
            } catch (RuntimeException ignored) {
                def pathClass = object.getPathClass()
                gson.toJson([
                    type: 'Feature', id: object.getID().toString(), geometry: [:],
                    properties: [objectType: 'annotation', name: object.getName(),
                        classification: pathClass == null ? null : pathClass.toString()]
                ])
            }
        }
        return '[' + texts.join(',') + ']'
    }

    /** Whether an object is a tile that stands for a patch, even after its class was changed by hand. */
    boolean isOwnTile(PathObject object) {
        if (!(object instanceof PathTileObject))
            return false
        if (tileClass.equals(ownComponent(object)))
            return true
        return !ownMeasurements(object).isEmpty()
    }

    /**
     * Whether an object is the annotation that was made over the whole image. One that was given another
     * name, class or place is the user's: they made it their own.
     */
    boolean isOwnAnnotation(PathObject object) {
        if (!object.isAnnotation() || !metadataOf(object).containsKey(mark))
            return false
        def roi = object.getROI()
        return mark.equals('_' + object.getName()) && userClass(object.getPathClass()) == null &&
            roi instanceof RectangleROI && roi.getBoundsX() == 0 && roi.getBoundsY() == 0
    }

    /**
     * Whether an object is a region that a probe proposed. One that was given a class without "proposed" is the
     * user's: they made it their own.
     */
    boolean isProposal(PathObject object) {
        if (!object.isAnnotation() || !metadataOf(object).containsKey(mark + ' proposal'))
            return false
        def pathClass = userClass(object.getPathClass())
        return pathClass != null && PROPOSED.equals(pathClass.getName())
    }

    List<PathObject> proposals(PathObject root) {
        return descendants(root).findAll { isProposal(it) }
    }

    /** Regions that a probe proposes, at places in QuPath's px given as well-known text. */
    List<PathObject> propose(String[] ids, String[] shapes, String className, Integer rgb, String probe) {
        def parent = PathClass.fromString(className)
        def pathClass = PathClass.getInstance(parent, PROPOSED, rgb)
        def reader = new WKTReader()
        List<PathObject> made = []
        for (int i = 0; i < ids.length; i++) {
            def roi = GeometryTools.geometryToROI(reader.read(shapes[i]), ImagePlane.getDefaultPlane())
            def object = PathObjects.createAnnotationObject(roi, pathClass)
            object.setID(UUID.fromString(ids[i]))
            object.getMetadata().put(mark + ' proposal', probe)
            made.add(object)
        }
        return made
    }

    List<PathObject> ownTiles(PathObject root) {
        return descendants(root).findAll { isOwnTile(it) }
    }

    List<PathObject> ownAnnotations(PathObject root) {
        return descendants(root).findAll { isOwnAnnotation(it) }
    }

    List<PathObject> userAnnotations(PathObject root) {
        return descendants(root).findAll { it.isAnnotation() && !isOwnAnnotation(it) }
    }

    /** Remove objects; what the user put below them goes to the nearest parent that stays. */
    static void remove(Collection<PathObject> objects) {
        objects.groupBy { it.getParent() }.each { PathObject parent, List<PathObject> children ->
            List<PathObject> orphans = []
            children.each { orphans.addAll(it.getChildObjects()) }
            parent.removeChildObjects(children)
            if (orphans)
                parent.addChildObjects(orphans)
        }
    }

    /** Tiles of one size, at upper left corners in QuPath's px; values has a row of measurements a tile. */
    List<PathObject> tiles(String[] ids, double[][] squares, String[] names, double[][] values, Integer rgb) {
        def pathClass = PathClass.getInstance(tileClass, rgb)
        List<PathObject> made = new ArrayList<>(ids.length)
        for (int i = 0; i < ids.length; i++) {
            // The only type that keeps a double as it is; FLOAT and, by an oversight, DOUBLE round to float.
            def list = MeasurementListFactory.createMeasurementList(names.length,
                MeasurementList.MeasurementListType.GENERAL)
            for (int j = 0; j < names.length; j++)
                if (!Double.isNaN(values[i][j]))
                    list.put(names[j], values[i][j])
            list.close()
            def square = squares[i]
            def roi = ROIs.createRectangleROI(square[0], square[1], square[2], square[2], ImagePlane.getDefaultPlane())
            def tile = PathObjects.createTileObject(roi, pathClass, list)
            tile.setID(UUID.fromString(ids[i]))
            made.add(tile)
        }
        return made
    }

    /**
     * Digest of everything that is the user's: each object with its parent, class, name, colour, lock, shape,
     * measurements and metadata, but without what we wrote onto it. The same before and after we wrote.
     */
    String userDigest(PathObject root) {
        def sum = new long[4]
        long count = 0
        for (PathObject object : [root] + descendants(root)) {
            if (isOwnTile(object) || isOwnAnnotation(object) || isProposal(object))
                continue
            // Added up, because removing an annotation of ours moves what lay below it to another place.
            def hash = ByteBuffer.wrap(MessageDigest.getInstance('SHA-256').digest(describe(object)))
            for (int i = 0; i < 4; i++)
                sum[i] += hash.getLong()
            count++
        }
        return count + ':' + sum.collect { String.format(Locale.ROOT, '%016x', it) }.join('')
    }

    private byte[] describe(PathObject object) {
        def bytes = new ByteArrayOutputStream(256)
        def out = new DataOutputStream(bytes)
        out.writeUTF(object.getClass().getName())
        out.writeUTF(object.getID().toString())
        def parent = object.getParent()
        while (parent != null && (isOwnAnnotation(parent) || isOwnTile(parent) || isProposal(parent)))
            parent = parent.getParent()
        out.writeUTF(parent == null ? '' : parent.getID().toString())
        writeText(out, Objects.toString(userClass(object.getPathClass())))
        out.writeDouble(object.getClassProbability())
        writeText(out, Objects.toString(object.getName()))
        writeText(out, Objects.toString(object.getColor()))
        out.writeBoolean(object.isLocked())
        writeShape(out, object.getROI())
        if (object instanceof PathCellObject)
            writeShape(out, ((PathCellObject) object).getNucleusROI())
        if (object.hasMeasurements()) {
            def list = object.getMeasurementList()
            for (String name : list.getMeasurementNames()) {
                if (!name.startsWith(measurementPrefix)) {
                    writeText(out, name)
                    out.writeDouble(list.get(name))
                }
            }
        }
        def metadata = metadataOf(object)
        for (String key : metadata.keySet().sort(false)) {
            writeText(out, key)
            writeText(out, Objects.toString(metadata.get(key)))
        }
        return bytes.toByteArray()
    }

    private static void writeShape(DataOutputStream out, ROI roi) {
        if (roi == null) {
            out.writeByte(0)
            return
        }
        out.writeUTF(roi.getClass().getName())
        out.writeInt(roi.getZ())
        out.writeInt(roi.getT())
        out.writeInt(roi.getC())
        for (double v : [roi.getBoundsX(), roi.getBoundsY(), roi.getBoundsWidth(), roi.getBoundsHeight()])
            out.writeDouble(v)
        for (point in roi.getAllPoints()) {
            out.writeDouble(point.getX())
            out.writeDouble(point.getY())
        }
    }

    // writeUTF() takes 64 kB at most, and a description may be longer.
    private static void writeText(DataOutputStream out, String text) {
        def encoded = text.getBytes('UTF-8')
        out.writeInt(encoded.length)
        out.write(encoded)
    }

    private Map<String, String> metadataOf(PathObject object) {
        if (hasMetadata != null && !((Boolean) hasMetadata.invoke(object)))
            return Collections.emptyMap()
        return object.getMetadata()
    }

    private static List<PathObject> descendants(PathObject root) {
        List<PathObject> found = new ArrayList<>()
        root.getDescendantObjects(found)
        return found
    }
}
