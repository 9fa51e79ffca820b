/*
 * What herohe_score.groovy, herohe_clear.groovy and herohe_explain.groovy do.
 *
 * Last tested with QuPath 0.5.1, 0.6.0 and 0.7.0.
 */
import groovy.transform.CompileStatic
import javafx.application.Platform
import qupath.fx.dialogs.Dialogs
import qupath.lib.color.ColorMaps
import qupath.lib.gui.QuPathGUI
import qupath.lib.gui.UserDirectoryManager
import qupath.lib.gui.tools.MeasurementMapper
import qupath.lib.gui.viewer.QuPathViewer
import qupath.lib.objects.PathObject
import qupath.lib.objects.classes.PathClass
import qupath.lib.plugins.workflow.DefaultScriptableWorkflowStep

import javax.imageio.ImageIO
import java.awt.image.BufferedImage

@CompileStatic
class HeroheScripts {
    private static final String TITLE = 'HER2-HE'
    private static final String CONTRIBUTION = "$HeroheMarks.PREFIX: contribution "
    private static final String SCORED = "$HeroheMarks.PREFIX: P(positive)"

    /** Score the image's annotations; parameters as in herohe_score.groovy. */
    static void score(Script script, Map<String, Object> defaults, boolean readArguments = true) {
        run(script, "$TITLE score") { HeroheImage image, HeroheWindow window ->
            def options = readArguments ? withArguments(script, defaults) : defaults
            def work = regions(image, options)
            def home = UserDirectoryManager.getInstance().userPath.resolve('herohe-bridge').toFile()
            def server = new HeroheServer(home, { String text -> window.say(text) }, { window.cancelled })
            def found = server.connect((String) options.model, { window.askModel() })
            def request = image.request(found.info.get('paths') == true && !options.pixelsFromQuPath, found.local ? 'raw' : 'png')
            request.putAll([sample: work.sample, region_classes: options.regionClasses, exclude_classes: options.excludeClasses])
            request.put('options', scoreOptions(image, options, (String) work.sample))
            request.put('write', [tiles: options.tiles, classify: options.classify])
            def objects = (List<PathObject>) work.objects
            def shapes = HeroheMarks.shapes(objects)
            boolean shown = isShown(image)

            window.onCancel { found.client.cancel() }
            def answer = found.client.scoreSlide(request, image.geoJson(objects), { box -> image.read((Map) box) }) { String stage, int done, int total ->
                window.progress(stage == 'composites' ? 'Scoring composites' : stage == 'foreground' ? 'Finding tissue' : 'Waiting for the server', done, total)
            }
            if (window.cancelled)
                throw HeroheClient.stopped()
            def result = (Map<String, Object>) answer.result
            ((List) result.warnings)?.each { window.say("Note: $it") }
            if (result.outcome != 'scored')
                throw new HeroheClient.Failure((String) result.outcome, "$image.name was not scored, and nothing was written: ${result.message}".toString())
            if (shown && !isShown(image))
                throw new HeroheClient.Failure('entry_changed', "$image.name was closed while it was scored, so nothing was written".toString(), 'Open it and run the script again')

            def classes = HeroheMarks.write(image, (Map<String, Object>) answer.markup, shapes)
            listClasses(image, classes)
            addStep(image, options, objects, (String) work.sample)
            saved(script, image)
            window.finished(summary(result))
        }
    }

    /** Remove what was written. */
    static void clear(Script script) {
        run(script, "$TITLE clear") { HeroheImage image, HeroheWindow window ->
            def any = HeroheMarks.clear(image)
            removeColour(image)
            saved(script, image)
            window.finished(any ? "What HER2-HE wrote onto $image.name was removed." : "There was nothing of HER2-HE on $image.name.")
        }
    }

    /** Show which patches carried a grade; parameters as in herohe_explain.groovy. */
    static void explain(Script script, Map<String, Object> defaults) {
        run(script, "$TITLE explain") { HeroheImage image, HeroheWindow window ->
            def options = withArguments(script, defaults)
            def everything = image.annotations() + image.data.ownAnnotations(image.hierarchy.rootObject)
            def scored = everything.findAll { image.data.ownMeasurements(it).containsKey(SCORED) }
            def marked = scored.findAll { image.hierarchy.selectionModel.isSelected(it) } ?: scored
            if (marked.empty)
                throw new HeroheClient.Failure('not_scored', "Nothing on $image.name was scored".toString(), 'Run herohe_score.groovy first')
            List<PathObject> top = []
            List<PathObject> tiles = []
            List<String> lines = []
            String measurement = null
            for (PathObject annotation : marked) {
                def own = image.data.ownTiles(annotation).findAll { it.parent.is(annotation) }
                def grade = image.data.ownComponent(annotation).replace("$HeroheMarks.PREFIX ".toString(), '')
                def names = own.collectMany { image.data.ownMeasurements(it).keySet() }.unique().findAll { it.startsWith(CONTRIBUTION) }
                if (names.empty)
                    continue
                measurement = stepOf(names, grade, (String) options.step)
                def name = measurement
                boolean lowest = grade == '0' && !options.step
                def ranked = own.findAll { image.data.ownMeasurements(it).containsKey(name) }
                    .sort(false) { PathObject tile -> (lowest ? 1 : -1) * tile.measurementList.get(name) }
                def best = ranked.take((int) options.top)
                tiles.addAll(own)
                top.addAll(best)
                lines.add("${annotation.displayedName}: ${best.size()} patches with the ${lowest ? 'lowest' : 'highest'} ${name.substring(HeroheMarks.PREFIX.length() + 2)}".toString())
                lines.addAll(export(image, window, annotation, best, options))
            }
            if (top.empty)
                throw new HeroheClient.Failure('no_tiles', "There are no patches on $image.name".toString(), "Run herohe_score.groovy with tiles = 'sampled'")
            image.hierarchy.selectionModel.setSelectedObjects(top, top.first())
            colour(image, tiles, measurement)
            window.finished(lines.join('\n'))
        }
    }

    /** Run an action with a window around it, and say what goes wrong in words. */
    private static void run(Script script, String title, Closure action) {
        def log = { String line -> script.println(line) }
        HeroheWindow window = null
        boolean shown = true
        try {
            def image = HeroheImage.current()
            // Run for project goes on with the next image: it must not wait for somebody to press OK.
            shown = isShown(image)
            image.checkColours()
            window = new HeroheWindow(title, image.name, log)
            action.call(image, window)
        } catch (Throwable problem) {
            window?.close()
            if (shown && problem instanceof HeroheClient.Failure && problem.code == 'cancelled') {
                // Thrown, QuPath would print it as an error to seek help for.
                log("$title: $problem.message")
                return
            }
            report(title, problem, shown)
            throw problem
        }
        window.close()
    }

    private static void report(String title, Throwable problem, boolean dialog) {
        def known = problem instanceof HeroheClient.Failure ? (HeroheClient.Failure) problem : null
        if (QuPathGUI.getInstance() != null && dialog)
            Dialogs.showErrorMessage(title, known ? known.message : "Unexpected: $problem".toString())
    }

    private static boolean isShown(HeroheImage image) {
        return !viewersOf(image).empty
    }

    private static List<QuPathViewer> viewersOf(HeroheImage image) {
        def viewers = QuPathGUI.getInstance()?.allViewers ?: [] as List<QuPathViewer>
        return viewers.findAll { QuPathViewer viewer -> viewer.imageData.is(image.imageData) } as List<QuPathViewer>
    }

    /** Parameters with the script's arguments, such as seed=3 or regionClasses=Tumor, in their place. */
    private static Map<String, Object> withArguments(Script script, Map<String, Object> defaults) {
        Map<String, Object> options = new LinkedHashMap<>(defaults)
        def given = variable(script, 'args')
        Set<String> lists = []
        for (String argument : (given instanceof String[] ? (String[]) given : new String[0])) {
            def parts = argument.split('=', 2)
            def name = parts[0], text = parts.length == 2 ? parts[1] : null
            def before = defaults.get(name)
            if (text == null || !defaults.containsKey(name))
                throw new HeroheClient.Failure('option', "The argument '$argument' is not understood".toString(), "Use name=value with one of ${defaults.keySet().join(', ')}".toString())
            if (before instanceof List) {
                def list = lists.add(name) ? [] : (List) options.get(name)
                options.put(name, text ? list + [text] : list)
            } else if (before instanceof Boolean) {
                options.put(name, text == 'true')
            } else if (before instanceof Number && text.isNumber()) {
                options.put(name, text.isLong() ? text.toLong() : (Object) text.toDouble())
            } else {
                options.put(name, text)
            }
        }
        return options
    }

    private static Map<String, Object> regions(HeroheImage image, Map<String, Object> options) {
        def wanted = (List<String>) options.regionClasses, excluded = (List<String>) options.excludeClasses
        def ids = (List<String>) (options.get('annotations') ?: [])
        def all = image.annotations()
        def chosen = ids ? all.findAll { ids.contains(it.ID.toString()) } : image.selected()
        if (ids && chosen.size() < ids.size())
            throw new HeroheClient.Failure('no_matching_annotation', "$image.name does not have the annotations that this step of the workflow scored".toString(), 'Select others, and run herohe_score.groovy')
        if (chosen)
            return [sample: (Object) 'all', objects: (chosen + all.findAll { HeroheImage.isOfClass(it, excluded) }).unique()]
        if (!wanted)
            return [sample: (Object) 'slide', objects: all]
        if (!all.any { HeroheImage.isOfClass(it, wanted) })
            throw new HeroheClient.Failure('no_matching_annotation', "$image.name has no annotation of the class ${wanted.join(' or ')}, and none is selected".toString(), "Classes present: ${image.classesPresent()}".toString())
        return [sample: (Object) 'classes', objects: all]
    }

    private static Map<String, Object> scoreOptions(HeroheImage image, Map<String, Object> options, String sample) {
        return [
            composites: options.composites == 'all' ? null : options.composites, seed: options.seed,
            min_patches: options.minPatches, min_coverage: options.minCoverage,
            per_annotation: (Object) (options.perAnnotation && sample != 'slide'), mpp: image.usersMpp(),
            keep_unsampled: (Object) (options.tiles == 'all')
        ]
    }

    private static String summary(Map<String, Object> result) {
        def provenance = (Map) result.provenance
        def parts = ((List<Map>) result.annotations) ?: [(Map) result.union]
        def lines = parts.collect { Map part ->
            def prediction = (Map) part.prediction
            def name = [part.name, part.class_name].find { it } ?: 'Whole image'
            prediction == null ? "$name: ${part.message}".toString() :
                "$name: $prediction.grade, $prediction.status (P = ${String.format(Locale.ROOT, '%.3f', prediction.p_positive)})".toString()
        }
        lines.add(String.valueOf(provenance.note))
        return lines.join('\n')
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

    private static void addStep(HeroheImage image, Map<String, Object> options, List<PathObject> objects, String sample) {
        def parameters = new LinkedHashMap<String, Object>(options)
        if (sample == 'all')
            parameters.put('annotations', objects.collect { it.ID.toString() })
        def text = """\
            // HER2-HE score, from herohe_score.groovy. Research use only.
            new GroovyClassLoader(getClass().classLoader).with { loader ->
                def home = qupath.lib.gui.UserDirectoryManager.getInstance().getUserPath().resolve('herohe-bridge').toFile()
                def compiled = new File(home, 'herohe-scripts.jar')
                loader.addClasspath(compiled.file ? compiled.path : home.path)
                loader.loadClass('HeroheScripts').score(this, ${literal(parameters)}, false)
            }""".stripIndent()
        def step = new DefaultScriptableWorkflowStep(HeroheMarks.STEP, parameters, text)
        def workflow = image.imageData.historyWorkflow
        if (workflow.lastStep != step)
            workflow.addStep(step)
    }

    /** A value as Groovy would write it. */
    private static String literal(Object value) {
        if (value instanceof Map)
            return '[' + ((Map) value).collect { key, item -> "$key: ${literal(item)}" }.join(', ') + ']'
        if (value instanceof Collection)
            return '[' + ((Collection) value).collect { literal(it) }.join(', ') + ']'
        if (value instanceof CharSequence)
            return "'" + value.toString().replace('\\', '\\\\').replace("'", "\\'").replace('\n', '\\n') + "'"
        return String.valueOf(value)
    }

    /** Run for project, and 'QuPath script -s' of 0.5, save the image's data but not the project with the metadata. */
    private static void saved(Script script, HeroheImage image) {
        def context = variable(script, 'context')
        def saves = context instanceof javax.script.ScriptContext && ((javax.script.ScriptContext) context).getAttribute('qupath.script.batchSave') == true
        if (saves)
            image.project?.syncChanges()
    }

    /** A variable that QuPath gives to scripts, null when it does not. */
    private static Object variable(Script script, String name) {
        try {
            return script.binding.getVariable(name)
        } catch (MissingPropertyException ignored) {
            return null
        }
    }

    private static String stepOf(List<String> names, String grade, String asked) {
        if (asked) {
            def found = names.find { it == CONTRIBUTION + asked }
            if (found == null)
                throw new HeroheClient.Failure('option', "There is no step '$asked'".toString(), "Use one of ${names.collect { it.substring(CONTRIBUTION.length()) }.join(', ')}".toString())
            return found
        }
        def step = ['0': '>=1+', '3+': '3+'].get(grade) ?: ">=$grade".toString()
        return names.find { it == CONTRIBUTION + step } ?: names.last()
    }

    /** A map that can be told from one that the user chose. */
    private static class ContributionMap extends MeasurementMapper {
        ContributionMap(String measurement, List<PathObject> tiles) {
            super(ColorMaps.defaultColorMap, measurement, tiles)
        }
    }

    private static void colour(HeroheImage image, List<PathObject> tiles, String measurement) {
        def viewers = viewersOf(image)
        if (viewers)
            Platform.runLater {
                def map = new ContributionMap(measurement, tiles)
                viewers.each { QuPathViewer viewer ->
                    viewer.overlayOptions.showDetections = true
                    viewer.overlayOptions.fillDetections = true
                    viewer.overlayOptions.measurementMapper = map
                }
            }
    }

    private static void removeColour(HeroheImage image) {
        viewersOf(image).each { QuPathViewer viewer ->
            Platform.runLater {
                // By its name: each run of a script loads the class anew.
                if (viewer.overlayOptions.measurementMapper?.class?.name == ContributionMap.name)
                    viewer.overlayOptions.resetMeasurementMapper()
            }
        }
    }

    /** Write composites as the model saw them: the one with the most of the best patches, or those asked for. */
    private static List<String> export(HeroheImage image, HeroheWindow window, PathObject annotation, List<PathObject> best, Map<String, Object> options) {
        if (options.composite == 'none')
            return []
        def layout = HeroheMarks.layout(image)
        def regions = (Map) layout?.get('regions')
        def composites = (List<List<List<Number>>>) (regions?.get(annotation.ID.toString()) ?: regions?.get('slide'))
        if (!composites)
            return ['Its composites were scored outside QuPath: score it again here to export them.']
        def corners = best.collect { [(int) it.ROI.boundsX, (int) it.ROI.boundsY] }.toSet()
        def hits = composites.collect { cells -> cells.count { corners.contains([it[0].intValue(), it[1].intValue()]) } }
        List<Integer> numbers
        if (options.composite == 'all')
            numbers = (0..<composites.size()).toList()
        else if (options.composite instanceof Number)
            numbers = [Math.min(((Number) options.composite).intValue(), composites.size()) - 1]
        else
            numbers = [hits.indexOf(hits.max())]
        def folder = folderFor(image, (String) options.folder)
        int size = ((Number) layout.get('size')).intValue(), px = ((Number) layout.get('patch_px')).intValue()
        return numbers.collect { int number ->
            window.progress('Writing composites', numbers.indexOf(number), numbers.size())
            def name = "$image.name ${annotation.name ?: annotation.ID.toString().take(8)} composite ${number + 1}.png".toString().replaceAll(/[^\p{L}\p{N} ._-]/, '_')
            def file = new File(folder, name)
            ImageIO.write(composite(image, composites[number], size, px), 'png', file)
            "Composite ${number + 1} of ${composites.size()}: $file".toString()
        }
    }

    private static File folderFor(HeroheImage image, String named) {
        if (!named && image.project == null)
            throw new HeroheClient.Failure('option', 'There is no project to put composites into', "Say where by the parameter folder, or use composite = 'none'")
        def folder = named ? new File(named) : new File(image.project.path.parent.toFile(), 'herohe-bridge/composites')
        folder.mkdirs()
        if (!folder.directory)
            throw new HeroheClient.Failure('option', "The folder $folder cannot be made".toString(), 'Say another by the parameter folder')
        return folder
    }

    private static BufferedImage composite(HeroheImage image, List<List<Number>> cells, int size, int px) {
        int side = Math.round(Math.sqrt(cells.size())) as int
        def picture = new BufferedImage(side * px, side * px, BufferedImage.TYPE_INT_RGB)
        def graphics = picture.createGraphics()
        cells.eachWithIndex { List<Number> corner, int cell ->
            def patch = image.read([x: corner[0], y: corner[1], width: (Number) size, height: (Number) size, out_width: (Number) px, out_height: (Number) px])
            graphics.drawImage(patch, (cell % side) * px, cell.intdiv(side) * px, null)
        }
        graphics.dispose()
        return picture
    }
}
