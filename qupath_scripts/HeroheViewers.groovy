/*
 * The viewers of QuPath's window, and changes to what they show. QuPath's panes hear of a change to an open image in
 * the thread that makes it, and may only be drawn in the window's: so that is where an open image is changed.
 *
 * Last tested with QuPath 0.6.0 and 0.7.0.
 */
import groovy.transform.CompileStatic
import javafx.application.Platform
import qupath.lib.gui.QuPathGUI
import qupath.lib.gui.viewer.QuPathViewer
import qupath.lib.images.ImageData

import java.util.concurrent.Callable
import java.util.concurrent.ExecutionException
import java.util.concurrent.FutureTask

@CompileStatic
class HeroheViewers {
    /** The viewer that shows an image, null when none does or there is no window. */
    static QuPathViewer of(ImageData<?> imageData) {
        def viewers = QuPathGUI.getInstance()?.allViewers ?: [] as List<QuPathViewer>
        return imageData == null ? null : viewers.find { QuPathViewer viewer -> viewer.imageData.is(imageData) }
    }

    /** Change an image, in the thread of the window where it is shown and else here; returns what the change does. */
    static <T> T change(ImageData<?> imageData, Callable<T> change) {
        return of(imageData) == null ? change.call() : onWindow(change)
    }

    /** Do something in the thread of the window, and wait for it; what is thrown there is thrown here. */
    static <T> T onWindow(Callable<T> action) {
        if (Platform.isFxApplicationThread())
            return action.call()
        def work = new FutureTask<T>(action)
        Platform.runLater(work)
        try {
            return work.get()
        } catch (ExecutionException error) {
            throw error.cause
        }
    }
}
