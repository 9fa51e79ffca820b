/*
 * Scores the annotations of one image: the request, the answer written onto the image, and the step of the workflow
 * that does it again. Knows no window.
 *
 * Last tested with QuPath 0.6.0 and 0.7.0.
 */
import groovy.transform.CompileStatic
import javafx.application.Platform
import qupath.lib.gui.QuPathGUI
import qupath.lib.gui.UserDirectoryManager
import qupath.lib.objects.PathObject
import qupath.lib.objects.classes.PathClass
import qupath.lib.plugins.workflow.DefaultScriptableWorkflowStep

@CompileStatic
class HeroheScore {
    /** Key under which a result holds its own text, as the server sent it. */
    static final String TEXT = 'text'
    private static final Map<String, String> STAGES = [
        composites: 'Scoring composites', foreground: 'Finding tissue', patches: 'Embedding patches'
    ]

    /**
     * Score the image's annotations, and write the result onto it.
     *
     * @param options as the parameters in herohe_score.groovy; with annotations, the IDs of those to be scored; with
     *     selected false, never those that are selected
     * @return the result, see bridge.results.schema.SlideResult
     */
    static Map<String, Object> score(HeroheImage image, Map<String, Object> options, HeroheTask task) {
        if (!options.anyStain)
            image.checkStain()
        def work = regions(image, options)
        def server = new HeroheServer(home(), { String text -> task.say(text) }, { task.cancelled })
        def found = server.connect((String) options.model, { task.askModel() })
        boolean byFile = found.info.get('paths') == true && !options.pixelsFromQuPath
        def request = image.request(byFile, found.local ? 'raw' : 'png')
        request.put('sample', work.sample)
        request.putAll([region_classes: options.regionClasses, exclude_classes: options.excludeClasses])
        request.put('options', scoreOptions(image, options, (String) work.sample))
        request.put('write', [tiles: options.tiles, classify: options.classify])
        def objects = (List<PathObject>) work.objects
        def shapes = HeroheMarks.shapes(objects)
        boolean shown = HeroheViewers.of(image.imageData) != null

        task.onCancel { found.client.cancel() }
        def reader = { box -> image.read((Map) box) } as HeroheClient.Reader
        def listener = { String stage, int done, int total ->
            task.progress(STAGES.getOrDefault(stage, 'Waiting for the server'), done, total)
        } as HeroheClient.Listener
        def answer = found.client.scoreSlide(request, image.geoJson(objects), reader, listener)
        if (task.cancelled)
            throw HeroheClient.stopped()
        def result = (Map<String, Object>) answer.result
        if (result.outcome != 'scored')
            throw new HeroheClient.Failure((String) result.outcome,
                "$image.name was not scored, and nothing was written: ${result.message}".toString())
        HeroheViewers.change(image.imageData) {
            if (shown && HeroheViewers.of(image.imageData) == null)
                throw new HeroheClient.Failure('entry_changed',
                    "$image.name was closed while it was scored, so nothing was written".toString(),
                    'Open it and score it again')
            def classes = HeroheMarks.write(image, (Map<String, Object>) answer.markup, shapes)
            HeroheShown.keep(image.imageData, result, (Map) found.info.get('card'))
            listClasses(image, classes)
            addStep(image, options, objects, (String) work.sample)
        }
        result.put(TEXT, answer.text)
        return result
    }

    /** Where the settings are that 'herohe-bridge qupath install' wrote. */
    static File home() {
        return UserDirectoryManager.getInstance().userPath.resolve('herohe-bridge').toFile()
    }

    /** A line for each annotation, and the notice that belongs to every result. */
    static String summary(Map<String, Object> result) {
        def parts = ((List<Map>) result.annotations) ?: [(Map) result.union]
        def lines = parts.collect { Map part ->
            def prediction = (Map) part.prediction
            def name = HeroheShown.nameOf(part)
            if (prediction == null)
                return "$name: ${part.message}".toString()
            def said = [prediction.call, prediction.grade, prediction.status].findAll().join(', ')
            return "$name: $said (P = ".toString() + String.format(Locale.ROOT, '%.3f)', prediction.p_positive)
        }
        // What a demo or random model says means nothing, and its first warning says so.
        if (((Map) result.provenance).knowledge in ['demo', 'random'])
            lines.add(0, String.valueOf(((List) result.warnings).first()))
        lines.add(String.valueOf(((Map) result.provenance).note))
        return lines.join('\n')
    }

    private static Map<String, Object> regions(HeroheImage image, Map<String, Object> options) {
        def wanted = (List<String>) options.regionClasses, excluded = (List<String>) options.excludeClasses
        def ids = (List<String>) (options.get('annotations') ?: [])
        def all = image.annotations()
        def chosen = ids ? all.findAll { ids.contains(it.ID.toString()) } :
            options.selected == false ? [] : image.selected()
        if (ids && chosen.size() < ids.size())
            throw new HeroheClient.Failure('no_matching_annotation',
                "$image.name does not have the annotations that this step of the workflow scored".toString(),
                'Select others, and score them')
        if (chosen)
            return [
                sample: (Object) 'all',
                objects: (chosen + all.findAll { HeroheImage.isOfClass(it, excluded) }).unique()
            ]
        if (!wanted)
            return [sample: (Object) 'slide', objects: all]
        if (!all.any { HeroheImage.isOfClass(it, wanted) })
            throw new HeroheClient.Failure('no_matching_annotation',
                "$image.name has no annotation of the class ${wanted.join(' or ')}, and none is selected".toString(),
                image.classesPresent() ? "Classes present: ${image.classesPresent()}".toString() :
                    'Draw a region around the tumour, and leave it selected')
        return [sample: (Object) 'classes', objects: all]
    }

    private static Map<String, Object> scoreOptions(HeroheImage image, Map<String, Object> options, String sample) {
        return [
            composites: options.composites == 'all' ? null : options.composites, seed: options.seed,
            min_patches: options.minPatches, min_coverage: options.minCoverage,
            per_annotation: (Object) (options.perAnnotation && sample != 'slide'), mpp: image.usersMpp(),
            keep_unsampled: (Object) (options.tiles == 'all'), any_stain: (Object) (options.anyStain == true),
            artefacts: options.artefacts ?: 'leave-out'
        ]
    }

    /** Append the classes to the project's list, as QuPath does with those of the window. */
    private static void listClasses(HeroheImage image, Collection<PathClass> used) {
        def qupath = QuPathGUI.getInstance()
        if (qupath != null) {
            Platform.runLater {
                def list = qupath.availablePathClasses
                list.addAll(used.toSet().findAll { !list.contains(it) })
            }
        } else if (image.project != null && !image.project.pathClasses.empty) {
            def list = image.project.pathClasses
            image.project.setPathClasses(list + used.toSet().findAll { !list.contains(it) })
        }
    }

    private static void addStep(HeroheImage image, Map<String, Object> options, List<PathObject> objects,
            String sample) {
        def parameters = new LinkedHashMap<String, Object>(options)
        if (sample == 'all')
            parameters.put('annotations', objects.collect { it.ID.toString() })
        def step = new DefaultScriptableWorkflowStep(HeroheMarks.STEP, parameters, HeroheParameters.script(parameters))
        def workflow = image.imageData.historyWorkflow
        if (workflow.lastStep != step)
            workflow.addStep(step)
    }
}
