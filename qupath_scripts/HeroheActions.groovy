/*
 * What the panel's buttons and the menu do with the image that is open. Work goes on in a thread of its own; what
 * goes wrong is said in the panel.
 *
 * Last tested with QuPath 0.6.0 and 0.7.0.
 */
import groovy.transform.CompileStatic
import org.slf4j.Logger
import org.slf4j.LoggerFactory
import qupath.lib.gui.QuPathGUI

import java.util.function.Consumer

@CompileStatic
class HeroheActions {
    private static final Logger LOG = LoggerFactory.getLogger('HER2-HE')

    /** Score the image that is open, with the parameters as they were last chosen. */
    static void score(HerohePanel panel) {
        scoreWith(panel, HeroheParameters.remembered(HeroheScore.home()))
    }

    /** Ask for parameters first. */
    static void ask(HerohePanel panel) {
        def image = panel.image
        if (image == null)
            return
        def before = HeroheParameters.remembered(HeroheScore.home())
        def chosen = HeroheDialog.ask(panel.qupath, before, HeroheDialog.meant(image))
        if (chosen == null)
            return
        HeroheParameters.remember(HeroheScore.home(), chosen)
        scoreWith(panel, chosen)
    }

    private static void scoreWith(HerohePanel panel, Map<String, Object> options) {
        work(panel, 'HER2-HE score') { HeroheImage image, HeroheTask task ->
            image.checkColours()
            return HeroheScore.summary(HeroheScore.score(image, options, task))
        }
    }

    static void clear(HerohePanel panel) {
        work(panel, 'HER2-HE clear') { HeroheImage image, HeroheTask task ->
            HeroheViewers.change(image.imageData) { HeroheMarks.clear(image) }
            return ''
        }
    }

    /** Show what carried the grade. */
    static void explain(HerohePanel panel) {
        def image = panel.image
        if (image == null)
            return
        panel.showHeatmap()
        if (HeroheShown.of(image) == null)
            panel.say(image, "Nothing on $image.name was scored. Score its annotations first.".toString())
    }

    /** Do work with the image that is open, and say in the panel how it goes on and what goes wrong. */
    static void work(HerohePanel panel, String title, Closure<String> action) {
        def image = panel.image
        if (image == null || panel.isBusy(image.imageData))
            return
        def progress = panel.begin(title, image, { String line -> LOG.info(line) } as Consumer<String>)
        def thread = new Thread({ ->
            String problem = ''
            try {
                progress.finished(action.call(image, progress))
            } catch (Throwable error) {
                problem = wordsFor(error)
                if (error instanceof HeroheClient.Failure)
                    LOG.warn(problem)
                else
                    LOG.error(problem, error)
            }
            panel.end(progress, image, problem)
        }, title)
        thread.daemon = true
        thread.start()
    }

    static String wordsFor(Throwable error) {
        return error instanceof HeroheClient.Failure ? error.message : "Unexpected: $error".toString()
    }
}
