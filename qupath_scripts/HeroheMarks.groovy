/*
 * What the HER2-HE scripts write onto an image, and how it is taken away again: as bridge/projects/qupath_project.py
 * writes from outside. HeroheData, which that uses too, does it to single objects.
 *
 * Last tested with QuPath 0.5.1, 0.6.0 and 0.7.0.
 */
import com.google.gson.Gson
import groovy.transform.CompileStatic
import javafx.application.Platform
import qupath.lib.common.ColorTools
import qupath.lib.gui.QuPathGUI
import qupath.lib.objects.PathObject
import qupath.lib.objects.PathObjects
import qupath.lib.objects.classes.PathClass
import qupath.lib.objects.hierarchy.PathObjectHierarchy
import qupath.lib.plugins.workflow.WorkflowStep
import qupath.lib.regions.ImagePlane
import qupath.lib.roi.ROIs
import qupath.lib.roi.interfaces.ROI

@CompileStatic
class HeroheMarks {
    // As in bridge/annotations/classes.py and bridge/results/schema.py.
    static final String PREFIX = 'HER2-HE'
    static final String TILE_CLASS = "$PREFIX patch"
    static final String MARK = "_$PREFIX"
    static final String STEP = "$PREFIX score"
    static final String LAYOUT = "_$PREFIX composites"
    private static final String SAVED = "_$PREFIX saved"
    static final List<String> OWN_COMPONENTS =
        ['0', '1+', '2+', '3+'].collect { "$PREFIX $it".toString() } + [TILE_CLASS]

    /**
     * Text that does something in the moment that it is saved, and is read again as the text alone. Among an image's
     * properties, it knows when the image is saved: QuPath tells nobody. It saves no property of a class that is not
     * Java's own or its, so this lies in a list.
     */
    static class SavedText implements Serializable {
        private final String text
        final transient Runnable saved

        SavedText(String text, Runnable saved) {
            this.text = text
            this.saved = saved
        }

        @Override
        String toString() {
            return text
        }

        private Object writeReplace() {
            saved.run()
            return text
        }
    }

    static HeroheData data() {
        return new HeroheData(OWN_COMPONENTS, TILE_CLASS, "$PREFIX: ", MARK)
    }

    /** An object's class without what we derived. */
    static String userClassName(PathObject object) {
        List<String> names = []
        for (PathClass c = object.pathClass; c != null && c.name != null; c = c.parentClass)
            if (!OWN_COMPONENTS.contains(c.name))
                names.add(c.name)
        return names.reverse().join(': ')
    }

    /** The shapes that annotations have now, in their order: what must still be so when a result is written. */
    static Map<PathObject, ROI> shapes(Collection<PathObject> annotations) {
        // QuPath's objects are the same only if they are one, whatever their identifiers say.
        return annotations.collectEntries(new LinkedHashMap<PathObject, ROI>()) { [it, it.ROI] }
    }

    /**
     * Write a result, after everything of an earlier one was removed. All or nothing: whatever can fail is done
     * before the first change.
     *
     * @param markup what bridge.writing.for_script made
     * @param shapes what the annotations were when they were sent
     * @return the classes that were used
     */
    static Collection<PathClass> write(HeroheImage image, Map<String, Object> markup, Map<PathObject, ROI> shapes) {
        def data = image.data, hierarchy = image.hierarchy
        List<PathClass> used = []
        synchronized (hierarchy) {
            Set<PathObject> present = Collections.newSetFromMap(new IdentityHashMap<PathObject, Boolean>())
            present.addAll(data.userAnnotations(hierarchy.rootObject))
            // By their place in what was sent: two objects may have one identifier.
            def sent = new ArrayList<PathObject>(shapes.keySet())
            List<Map> planned = []
            List<PathObject> targets = []
            for (Map item : (List<Map>) markup.get('annotations')) {
                def object = sent[((Number) item.get('sent')).intValue()]
                boolean gone = !present.contains(object)
                if (gone || !object.ROI.is(shapes.get(object)))
                    throw new HeroheClient.Failure(
                        'entry_changed',
                        "An annotation was ${gone ? 'deleted' : 'changed'} while it was scored, so nothing was written"
                            .toString(),
                        'Run the script again'
                    )
                planned.add(item)
                targets.add(object)
            }
            int tileColour = packed(markup.get('tile_colour'))
            def tiles = planned.collect { tilesOf(data, it, tileColour) }
            def whole = (Map) markup.get('whole_image')
            def wholeObject = whole == null ? null : wholeImageAnnotation(image, whole)
            def wholeTiles = whole == null ? null : tilesOf(data, whole, tileColour)
            def layout = new Gson().toJson(markup.get('layout'))
            def metadata = (Map<String, String>) markup.get('metadata')

            take(image)
            for (int i = 0; i < planned.size(); i++)
                mark(data, targets[i], planned[i], tiles[i], used)
            if (wholeObject != null) {
                hierarchy.rootObject.addChildObject(wholeObject)
                mark(data, wholeObject, whole, wholeTiles, used)
            }
            image.imageData.setProperty(MARK, (String) markup.get('mark'))
            image.imageData.setProperty(LAYOUT, layout)
            def run = metadata.get("$PREFIX run".toString()) ?: ''
            image.imageData.setProperty(SAVED, [new SavedText(run, { putMetadata(image, metadata) })])
        }
        deselectRemoved(hierarchy)
        hierarchy.fireHierarchyChangedEvent(hierarchy.rootObject)
        return used
    }

    /** Make a result's metadata the project's now, where the image is certain to be saved next. */
    static void publish(HeroheImage image) {
        def saved = image.imageData.getProperty(SAVED)
        if (saved instanceof List)
            ((List) saved).findAll { it instanceof SavedText }.each { ((SavedText) it).saved.run() }
    }

    // Not before the image is saved: a project must not say what its data do not hold.
    private static void putMetadata(HeroheImage image, Map<String, String> metadata) {
        if (image.entry == null)
            return
        ownMetadata(image).each { image.entry.removeMetadataValue(it) }
        metadata.each { key, value -> image.entry.putMetadataValue(key, value) }
        refreshList()
    }

    private static List<String> ownMetadata(HeroheImage image) {
        return image.entry == null ? [] : image.entry.metadataKeys.findAll { it.startsWith("$PREFIX ") }.toList()
    }

    /** The list of images may be sorted by what was changed. */
    private static void refreshList() {
        def qupath = QuPathGUI.getInstance()
        if (qupath != null)
            Platform.runLater { qupath.refreshProject() }
    }

    /** Remove everything of ours and restore the classes; false when there was nothing. */
    static boolean clear(HeroheImage image) {
        boolean any = false
        synchronized (image.hierarchy) {
            any = take(image)
            def proposals = image.data.proposals(image.hierarchy.rootObject)
            any |= !proposals.empty
            image.data.remove(proposals)
        }
        if (any) {
            deselectRemoved(image.hierarchy)
            image.hierarchy.fireHierarchyChangedEvent(image.hierarchy.rootObject)
        }
        if (ownMetadata(image)) {
            any = true
            def saved = {
                putMetadata(image, [:])
                image.imageData.removeProperty(SAVED)
            }
            image.imageData.setProperty(SAVED, [new SavedText('', saved)])
        }
        def workflow = image.imageData.historyWorkflow
        workflow.steps.findAll { WorkflowStep step -> step.name == STEP }
            .each { WorkflowStep step -> workflow.removeStep(step) }
        return any
    }

    /** The composites of the last result, by region; null when there is none. */
    static Map layout(HeroheImage image) {
        def text = image.imageData.getProperty(LAYOUT)
        return text instanceof String ? (Map) new Gson().fromJson((String) text, Map) : null
    }

    private static boolean take(HeroheImage image) {
        def data = image.data, root = image.hierarchy.rootObject
        boolean any = false
        for (List<PathObject> ours : [data.ownTiles(root), data.ownAnnotations(root)]) {
            any |= !ours.empty
            data.remove(ours)
        }
        for (PathObject object : data.userAnnotations(root)) {
            if (data.ownMeasurements(object)) {
                data.removeOwnMeasurements(object)
                any = true
            }
            if (data.ownComponent(object)) {
                data.derive(object, null, null)
                any = true
            }
        }
        for (String key : image.imageData.properties.keySet().findAll { it.startsWith(MARK) }) {
            image.imageData.removeProperty(key)
            any = true
        }
        return any
    }

    // QuPath would go on showing selected objects, and measuring them, after they are gone.
    private static void deselectRemoved(PathObjectHierarchy hierarchy) {
        def removed = hierarchy.selectionModel.selectedObjects
            .findAll { PathObject object -> object.parent == null && !object.rootObject }
        if (removed)
            hierarchy.selectionModel.deselectObjects(removed)
    }

    private static void mark(
        HeroheData data, PathObject object, Map item, List<PathObject> tiles, List<PathClass> used
    ) {
        def list = object.measurementList
        ((Map<String, Number>) item.get('measurements')).each { name, value -> list.put(name, value.doubleValue()) }
        list.close()
        def component = (String) item.get('component')
        if (component != null) {
            data.derive(object, component, packed(item.get('colour')))
            used.add(object.pathClass)
        }
        if (tiles) {
            object.addChildObjects(tiles)
            used.add(tiles.first().pathClass)
        }
    }

    private static List<PathObject> tilesOf(HeroheData data, Map item, int colour) {
        def tiles = (Map) item.get('tiles')
        def ids = (List<String>) tiles.get('ids'), names = (List<String>) tiles.get('names')
        def squares = (List<List<Number>>) tiles.get('squares'), values = (List<List<Number>>) tiles.get('values')
        return data.tiles(ids as String[], rows(squares), names as String[], rows(values), colour)
    }

    private static double[][] rows(List<List<Number>> rows) {
        def found = new double[rows.size()][]
        for (int i = 0; i < found.length; i++) {
            def row = rows[i]
            found[i] = new double[row.size()]
            for (int j = 0; j < row.size(); j++)
                found[i][j] = row[j] == null ? Double.NaN : row[j].doubleValue()
        }
        return found
    }

    private static PathObject wholeImageAnnotation(HeroheImage image, Map item) {
        def roi = ROIs.createRectangleROI(0, 0, image.server.width, image.server.height, ImagePlane.defaultPlane)
        def object = PathObjects.createAnnotationObject(roi)
        object.setID(UUID.fromString((String) item.get('id')))
        object.setName((String) item.get('name'))
        object.metadata.put(MARK, (String) item.get('run'))
        object.setLocked(true)
        return object
    }

    private static int packed(Object colour) {
        def rgb = (List<Number>) colour
        return ColorTools.packRGB(rgb[0].intValue(), rgb[1].intValue(), rgb[2].intValue())
    }
}
