/*
 * How the HER2-HE scripts show in QuPath's window what they do: a small window with a progress bar and a Cancel
 * button, and messages. Without a window, lines in the log.
 *
 * Last tested with QuPath 0.5.1, 0.6.0 and 0.7.0.
 */
import groovy.transform.CompileStatic
import javafx.application.Platform
import javafx.geometry.Insets
import javafx.geometry.Pos
import javafx.scene.Scene
import javafx.scene.control.Button
import javafx.scene.control.Label
import javafx.scene.control.ProgressBar
import javafx.scene.layout.VBox
import javafx.stage.FileChooser
import javafx.stage.Stage
import qupath.fx.dialogs.Dialogs
import qupath.fx.dialogs.FileChoosers
import qupath.lib.gui.QuPathGUI

import java.util.function.Consumer

@CompileStatic
class HeroheWindow implements Closeable {
    private final String title
    private final QuPathGUI qupath = QuPathGUI.getInstance()
    private final Consumer<String> log
    private volatile boolean cancelled = false
    private volatile Runnable onCancel = null
    private Stage stage
    private Label label
    private ProgressBar bar
    private String said = ''
    private int tenths = -1

    HeroheWindow(String title, String image, Consumer<String> log) {
        this.title = title
        this.log = log
        onWindow { show(image) }
    }

    boolean isCancelled() {
        return cancelled
    }

    /** Call this, once, when Cancel is pressed; at once when it was. */
    void onCancel(Runnable action) {
        onCancel = action
        if (cancelled)
            action.run()
    }

    void say(String text) {
        if (text != said)
            log.accept("$title: $text".toString())
        said = text
        onWindow {
            label.text = text
            bar.progress = ProgressBar.INDETERMINATE_PROGRESS
        }
    }

    void progress(String text, int done, int total) {
        int now = total > 0 ? (10 * done).intdiv(total) : 0
        if (text != said || now != tenths)
            log.accept("$title: $text ($done/$total)".toString())
        said = text
        tenths = now
        onWindow {
            label.text = total > 0 ? "$text ($done of $total)" : text
            bar.progress = total > 0 ? done / (double) total : ProgressBar.INDETERMINATE_PROGRESS
        }
    }

    /** Tell the user that it is done. */
    void finished(String text) {
        text.eachLine { log.accept("$title: $it".toString()) }
        if (qupath != null)
            Dialogs.showInfoNotification(title, text)
    }

    File askModel() {
        if (qupath == null)
            return null
        return FileChoosers.promptForFile('Choose the HER2-HE model', new FileChooser.ExtensionFilter('Model', '*.safetensors'))
    }

    @Override
    void close() {
        onWindow { stage.close() }
    }

    private void show(String image) {
        label = new Label('')
        label.wrapText = true
        label.minHeight = 40d
        bar = new ProgressBar(ProgressBar.INDETERMINATE_PROGRESS)
        bar.maxWidth = Double.MAX_VALUE
        def cancel = new Button('Cancel')
        cancel.onAction = {
            cancel.disable = true
            label.text = 'Cancelling ...'
            cancelled = true
            onCancel?.run()
        }
        def box = new VBox(10d, new Label(image), label, bar, cancel)
        box.padding = new Insets(15)
        box.alignment = Pos.CENTER_LEFT
        box.prefWidth = 420d
        stage = new Stage()
        stage.initOwner(qupath.stage)
        stage.title = title
        stage.scene = new Scene(box)
        stage.onCloseRequest = { javafx.stage.WindowEvent event ->
            event.consume()
            cancel.fire()
        }
        stage.show()
    }

    private void onWindow(Closure action) {
        if (qupath != null)
            Platform.runLater { action.call() }
    }
}
