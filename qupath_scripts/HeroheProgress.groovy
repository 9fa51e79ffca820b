/*
 * Long work as the panel shows it: a line of words, a bar, and Cancel.
 *
 * Last tested with QuPath 0.6.0 and 0.7.0.
 */
import groovy.transform.CompileStatic
import javafx.application.Platform
import javafx.scene.control.Button
import javafx.scene.control.Label
import javafx.scene.control.ProgressBar
import javafx.scene.layout.HBox
import javafx.scene.layout.Priority
import javafx.scene.layout.VBox
import javafx.stage.FileChooser
import qupath.fx.dialogs.FileChoosers

import java.util.function.Consumer

@CompileStatic
class HeroheProgress extends HeroheTask {
    final VBox node
    private final Label label = new Label('Starting ...')
    private final ProgressBar bar = new ProgressBar(ProgressBar.INDETERMINATE_PROGRESS)
    private final Button button = new Button('Cancel')

    HeroheProgress(String title, Consumer<String> log) {
        super(title, log)
        label.wrapText = true
        label.minHeight = Label.USE_PREF_SIZE
        bar.maxWidth = Double.MAX_VALUE
        HBox.setHgrow(bar, Priority.ALWAYS)
        button.minWidth = Button.USE_PREF_SIZE
        button.onAction = { cancel() }
        def row = new HBox(8d, bar, button)
        node = new VBox(5d, label, row)
    }

    @Override
    void cancel() {
        Platform.runLater {
            button.disable = true
            label.text = 'Cancelling ...'
        }
        super.cancel()
    }

    @Override
    File askModel() {
        return chooseModel()
    }

    static File chooseModel() {
        def models = new FileChooser.ExtensionFilter('Model', '*.safetensors')
        return FileChoosers.promptForFile('Choose the HER2-HE model', models)
    }

    @Override
    protected void show(String text, double share) {
        Platform.runLater {
            if (!cancelled)
                label.text = text
            bar.progress = share
        }
    }
}
