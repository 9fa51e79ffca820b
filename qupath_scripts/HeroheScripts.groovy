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

@CompileStatic
class HeroheScripts {
    private static final String TITLE = 'HER2-HE'

    /** Score the image's annotations; parameters as in herohe_score.groovy. */
    static void score(Script script, Map<String, Object> defaults, boolean readArguments = true) {
        run(script, "$TITLE score") { HeroheImage image, HeroheWindow window ->
            def options = readArguments ? withArguments(script, defaults) : defaults
            def result = HeroheScore.score(image, options, window)
            ((List) result.warnings)?.each { window.say("Note: $it") }
            saved(script, image)
            return HeroheScore.summary(result)
        }
    }

    /** Remove what was written. */
    static void clear(Script script) {
        run(script, "$TITLE clear") { HeroheImage image, HeroheWindow window ->
            def any = HeroheMarks.clear(image)
            saved(script, image)
            return any ? "What HER2-HE wrote onto $image.name was removed." : "There was nothing of HER2-HE on $image.name."
        }
    }

    /** Say which patches carried a grade; parameters as in herohe_explain.groovy. */
    static void explain(Script script, Map<String, Object> defaults) {
        run(script, "$TITLE explain") { HeroheImage image, HeroheWindow window ->
            def options = withArguments(script, defaults)
            List<String> lines = []
            for (ranked in HeroheExplain.rank(image, image.selected(), (String) options.step)) {
                boolean lowest = HeroheExplain.gradeOf(image, ranked.annotation) == '0' && !options.step
                def best = (lowest ? ranked.tiles.reverse() : ranked.tiles).take((int) options.top)
                def what = ranked.measurement.substring(HeroheMarks.PREFIX.length() + 2)
                lines.add("${ranked.annotation.displayedName}: ${best.size()} patches with the ${lowest ? 'lowest' : 'highest'} $what".toString())
                lines.addAll(pictures(image, window, ranked.annotation, best, options))
            }
            return lines.join('\n')
        }
    }

    private static List<String> pictures(HeroheImage image, HeroheTask task, PathObject annotation, List<PathObject> best, Map<String, Object> options) {
        if (options.composite == 'none')
            return []
        if (!options.folder && image.project == null)
            return ['There is no project to put composites into: say where by the parameter folder.']
        def folder = options.folder ? new File((String) options.folder) : new File(image.project.path.parent.toFile(), 'herohe-bridge/composites')
        return HeroheExplain.export(image, task, annotation, best, options.composite, folder)
    }

    /** Run an action with a window around it, and say what came of it in words. */
    private static void run(Script script, String title, Closure<String> action) {
        def log = { String line -> script.println(line) }
        HeroheWindow window = null
        boolean shown = true
        try {
            def image = HeroheImage.current()
            // Run for project goes on with the next image: it must not wait for somebody to press OK.
            shown = HeroheScore.isShown(image)
            image.checkColours()
            window = new HeroheWindow(title, image.name, log)
            window.finished(action.call(image, window))
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

    /** Run for project, and 'QuPath script -s' of 0.5, save the image's data but not the project with the metadata. */
    private static void saved(Script script, HeroheImage image) {
        def context = variable(script, 'context')
        def saves = context instanceof ScriptContext && ((ScriptContext) context).getAttribute('qupath.script.batchSave') == true
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
}
