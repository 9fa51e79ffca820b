/*
 * Long work as it is watched and stopped: what it says goes to the log, and, where there is a window, also there.
 */
import groovy.transform.CompileStatic

import java.util.function.Consumer

@CompileStatic
class HeroheTask {
    private final String title
    private final Consumer<String> log
    private volatile boolean cancelled = false
    private volatile Runnable onCancel = null
    private String said = ''
    private int tenths = -1

    HeroheTask(String title, Consumer<String> log) {
        this.title = title
        this.log = log
    }

    /** What goes on now, whose end nobody knows. */
    void say(String text) {
        if (text != said)
            log.accept("$title: $text".toString())
        said = text
        show(text, -1d)
    }

    void progress(String text, int done, int total) {
        int now = total > 0 ? (10 * done).intdiv(total) : 0
        if (text != said || now != tenths)
            log.accept("$title: $text ($done/$total)".toString())
        said = text
        tenths = now
        show(total > 0 ? "$text ($done of $total)".toString() : text, total > 0 ? done / (double) total : -1d)
    }

    /** What is to be known in the end. */
    void finished(String text) {
        text.eachLine { String line -> log.accept("$title: $line".toString()) }
    }

    boolean isCancelled() {
        return cancelled
    }

    /** Call this, once, when the work is cancelled; at once when it was. */
    void onCancel(Runnable action) {
        onCancel = action
        if (cancelled)
            action.run()
    }

    void cancel() {
        cancelled = true
        onCancel?.run()
    }

    /** The model file that the user chooses, null when nobody can be asked. */
    File askModel() {
        return null
    }

    /** Show how far it is; a share below 0 is not known. */
    protected void show(String text, double share) {
    }
}
