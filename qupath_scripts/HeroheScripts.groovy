/*
 * What herohe_score.groovy, herohe_clear.groovy and herohe_explain.groovy do: with Run, with Run for project, and from
 * a terminal.
 *
 * Last tested with QuPath 0.6.0 and 0.7.0.
 */
import groovy.transform.CompileStatic
import qupath.fx.dialogs.Dialogs
import qupath.lib.gui.QuPathGUI
import qupath.lib.objects.PathObject

import javax.script.ScriptContext
import java.util.function.Consumer

@CompileStatic
class HeroheScripts {
    private static final String TITLE = 'HER2-HE'

    /** Score the image's annotations; parameters as in herohe_score.groovy. */
    static void score(Script script, Map<String, Object> defaults, boolean readArguments = true) {
        run(script, "$TITLE score") { HeroheImage image, HeroheTask task ->
            def options = readArguments ? withArguments(script, defaults) : defaults
            def result = HeroheScore.score(image, options, task)
            ((List) result.warnings)?.each { task.say("Note: $it") }
            saved(script, image)
            return result
        }
    }

    /** Remove what was written. */
    static void clear(Script script) {
        run(script, "$TITLE clear") { HeroheImage image, HeroheTask task ->
            boolean any = HeroheViewers.change(image.imageData) { HeroheMarks.clear(image) }
            saved(script, image)
            return any ? "What HER2-HE wrote onto $image.name was removed." :
                "There was nothing of HER2-HE on $image.name."
        }
    }

    /** Say which patches carried a grade; parameters as in herohe_explain.groovy. */
    static void explain(Script script, Map<String, Object> defaults) {
        run(script, "$TITLE explain") { HeroheImage image, HeroheTask task ->
            def options = withArguments(script, defaults)
            List<String> lines = []
            for (ranked in HeroheExplain.rank(image, image.selected(), (String) options.step)) {
                boolean lowest = HeroheExplain.gradeOf(image, ranked.annotation) == '0' && !options.step
                def best = (lowest ? ranked.tiles.reverse() : ranked.tiles).take((int) options.top)
                def what = ranked.measurement.substring(HeroheMarks.PREFIX.length() + 2)
                def end = lowest ? 'lowest' : 'highest'
                lines.add("${ranked.annotation.displayedName}: ${best.size()} patches with the $end $what".toString())
                lines.addAll(pictures(image, task, ranked.annotation, best, options))
            }
            showHeatmap(image)
            return lines.join('\n')
        }
    }

    private static void showHeatmap(HeroheImage image) {
        def qupath = QuPathGUI.getInstance()
        if (HeroheViewers.of(image.imageData) != null)
            HeroheViewers.onWindow { HerohePanel.of(qupath).showHeatmap() }
    }

    private static List<String> pictures(HeroheImage image, HeroheTask task, PathObject annotation,
            List<PathObject> best, Map<String, Object> options) {
        if (options.composite == 'none')
            return []
        if (!options.folder && image.project == null)
            return ['There is no project to put composites into: say where by the parameter folder.']
        def folder = options.folder ? new File((String) options.folder) :
            new File(image.project.path.parent.toFile(), 'herohe-bridge/composites')
        return HeroheExplain.export(image, task, annotation, best, options.composite, folder)
    }

    /**
     * Run an action for the script's image where it can be watched, and say what came of it in words.
     *
     * @param action is given the image and its task; returns words, or a result
     */
    private static void run(Script script, String title, Closure action) {
        def log = { String line -> script.println(line) } as Consumer<String>
        def qupath = QuPathGUI.getInstance()
        if (qupath == null) {
            def image = HeroheImage.current()
            image.checkColours()
            def task = new HeroheTask(title, log)
            task.finished(words(action.call(image, task)))
            return
        }
        HeroheImage image = null
        try {
            image = HeroheImage.current()
        } catch (HeroheClient.Failure problem) {
            Dialogs.showErrorMessage(title, problem.message)
            return
        }
        if (HeroheViewers.of(image.imageData) != null && number(script, 'batchSize') <= 1)
            inPanel(qupath, image, title, log, action)
        else
            inRun(script, image, title, log, action)
    }

    private static String words(Object came) {
        return came instanceof Map ? HeroheScore.summary((Map<String, Object>) came) : String.valueOf(came)
    }

    private static void inPanel(QuPathGUI qupath, HeroheImage image, String title, Consumer<String> log,
            Closure action) {
        def panel = HeroheViewers.onWindow { HerohePanel.of(qupath) }
        def progress = panel.begin(title, image, log)
        String problem = ''
        try {
            image.checkColours()
            progress.finished(words(action.call(image, progress)))
        } catch (HeroheClient.Failure failure) {
            // Thrown, QuPath would print it as an error to seek help for.
            problem = failure.message
            log.accept("$title: $problem".toString())
        } catch (Throwable error) {
            problem = HeroheActions.wordsFor(error)
            throw error
        } finally {
            panel.end(progress, image, problem)
        }
    }

    /** One image of a run over a project, which goes on with the next whatever came of this. */
    private static void inRun(Script script, HeroheImage image, String title, Consumer<String> log,
            Closure action) {
        int index = number(script, 'batchIndex'), total = Math.max(1, number(script, 'batchSize'))
        def window = HeroheRunWindow.ofScripts(title, index, total, log)
        def row = window.begin(title, image.name)
        try {
            if (window.cancelled)
                throw HeroheClient.stopped()
            image.checkColours()
            def came = action.call(image, row)
            row.finished(words(came))
            if (came instanceof Map)
                row.ended('scored', (Map) came, ((List) ((Map) came).get('warnings') ?: []).join(' '))
            else
                row.ended('done', null, words(came).readLines().join('; '))
        } catch (HeroheClient.Failure failure) {
            log.accept("$title: $failure.message".toString())
            row.ended(failure.code.replace('_', ' '), null, failure.message)
        } catch (Throwable error) {
            row.ended('failed', null, HeroheActions.wordsFor(error))
            throw error
        } finally {
            if (index >= total - 1)
                window.finish(window.cancelled ? 'Cancelled.' : "All $total images were seen.".toString())
        }
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
                throw new HeroheClient.Failure('option', "The argument '$argument' is not understood".toString(),
                    "Use name=value with one of ${defaults.keySet().join(', ')}".toString())
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

    /** Run for project, and 'QuPath script -s' of 0.5, save the image's data but not the project with the metadata. */
    private static void saved(Script script, HeroheImage image) {
        if (told(script, 'batchSave') == true) {
            HeroheMarks.publish(image)
            image.project?.syncChanges()
        }
    }

    private static int number(Script script, String name) {
        def value = told(script, name)
        return value instanceof Number ? ((Number) value).intValue() : 0
    }

    /** What QuPath tells a script of the run it is part of, null when it does not. */
    private static Object told(Script script, String name) {
        def context = variable(script, 'context')
        if (!(context instanceof ScriptContext))
            return null
        return ((ScriptContext) context).getAttribute("qupath.script.$name".toString())
    }

    /** A variable that QuPath gives to scripts, null when it does not. */
    private static Object variable(Script script, String name) {
        try {
            return script.binding.getVariable(name)
        } catch (MissingPropertyException ignored) {
            return null
        }
    }
}
