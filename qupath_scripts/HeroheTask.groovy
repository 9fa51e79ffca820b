/*
 * What long work says while it goes on, and how it is stopped: shown by the panel, by the window of a run over many
 * images, or, without a window, in the log.
 */
import groovy.transform.CompileStatic

@CompileStatic
interface HeroheTask {
    void say(String text)

    void progress(String text, int done, int total)

    boolean isCancelled()

    /** Call this, once, when the work is cancelled; at once when it was. */
    void onCancel(Runnable action)

    /** The model file that the user chooses, null when nobody can be asked. */
    File askModel()
}
