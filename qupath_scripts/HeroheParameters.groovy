/*
 * The parameters of scoring: what they are when nobody changed them, as the user last chose them, and as a script.
 */
import com.google.gson.Gson
import com.google.gson.GsonBuilder
import com.google.gson.JsonParseException
import groovy.transform.CompileStatic

@CompileStatic
class HeroheParameters {
    private static final String FILE = 'parameters.json'

    /** As in herohe_score.groovy, which says what each is. */
    static Map<String, Object> defaults() {
        return [
            regionClasses: (Object) ['Tumor'], excludeClasses: [], perAnnotation: true, composites: 8, seed: 0,
            minPatches: 10, minCoverage: 0.5d, tiles: 'sampled', classify: true, model: '', anyStain: false,
            artefacts: 'leave-out', pixelsFromQuPath: false
        ]
    }

    /** As they were last chosen in the dialog; those of another kind than the default are passed over. */
    static Map<String, Object> remembered(File home) {
        def found = defaults()
        try {
            def kept = new Gson().fromJson(new File(home, FILE).getText('UTF-8'), Map)
            for (String name : found.keySet().toList()) {
                def value = kept?.get(name), usual = found.get(name)
                if (usual instanceof Integer && value instanceof Number)
                    found.put(name, ((Number) value).intValue())
                else if (value != null && (name == 'composites' ? value == 'all' : sameKind(usual, value)))
                    found.put(name, value)
            }
        } catch (IOException | JsonParseException ignored) {
            // None was chosen yet, or the file was spoilt by hand.
        }
        return found
    }

    static void remember(File home, Map<String, Object> parameters) {
        // Beside the settings, and no preference of QuPath: those are the user's.
        def text = new GsonBuilder().setPrettyPrinting().create().toJson(parameters)
        new File(home, FILE).setText(text, 'UTF-8')
    }

    /** A script that scores an image with these parameters. */
    static String script(Map<String, Object> parameters) {
        return """\
            // HER2-HE score, from herohe_score.groovy. Research use only, not for diagnosis.
            new GroovyClassLoader(getClass().classLoader).with { loader ->
                def user = qupath.lib.gui.UserDirectoryManager.getInstance().getUserPath()
                def home = user.resolve('herohe-bridge').toFile()
                loader.addClasspath(home.path)
                loader.loadClass('HeroheScripts').score(this, ${literal(parameters)}, false)
            }""".stripIndent()
    }

    /** A value as Groovy would write it. */
    private static String literal(Object value) {
        if (value instanceof Map)
            return '[' + ((Map) value).collect { key, item -> "$key: ${literal(item)}" }.join(', ') + ']'
        if (value instanceof Collection)
            return '[' + ((Collection) value).collect { literal(it) }.join(', ') + ']'
        if (value instanceof CharSequence) {
            def text = value.toString()
                .replace('\\', '\\\\').replace("'", "\\'").replace('$', '\\$').replace('\n', '\\n')
            return "'" + text + "'"
        }
        return String.valueOf(value)
    }

    private static boolean sameKind(Object usual, Object value) {
        return [CharSequence, Boolean, Number, List]
            .any { Class kind -> kind.isInstance(usual) && kind.isInstance(value) }
    }
}
