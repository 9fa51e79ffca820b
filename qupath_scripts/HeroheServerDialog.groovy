/*
 * Which model is used and which server has it: shown, changed, and stopped.
 *
 * Last tested with QuPath 0.6.0 and 0.7.0.
 */
import groovy.transform.CompileStatic
import javafx.application.Platform
import javafx.scene.control.Button
import javafx.scene.control.ButtonType
import javafx.scene.control.Dialog
import javafx.scene.control.Label
import javafx.scene.layout.HBox
import javafx.scene.layout.VBox

import java.util.function.BooleanSupplier
import java.util.function.Consumer

@CompileStatic
class HeroheServerDialog {
    private final Label model = HeroheResultView.text('', ''), state = HeroheResultView.text('Looking ...', '')
    private final Button stop = new Button('Stop the server')
    private List<HeroheClient> running = []

    static void show(HerohePanel panel) {
        new HeroheServerDialog().open(panel)
    }

    private void open(HerohePanel panel) {
        def choose = new Button('Choose another...'), usual = new Button('That of the installation')
        choose.onAction = {
            def file = HeroheProgress.chooseModel()
            if (file != null)
                use(file.path)
        }
        usual.onAction = { use('') }
        stop.disable = true
        stop.onAction = {
            stop.disable = true
            inBackground { running.each { it.stop(true) } }
        }
        def box = new VBox(6d, HeroheResultView.heading('Model'), model, new HBox(6d, choose, usual),
            HeroheResultView.heading('Server'), state, new HBox(6d, stop))
        box.prefWidth = 460d
        def dialog = new Dialog<ButtonType>()
        dialog.initOwner(panel.qupath.stage)
        dialog.title = 'HER2-HE: model and server'
        dialog.resizable = true
        dialog.dialogPane.content = box
        dialog.dialogPane.buttonTypes.add(ButtonType.CLOSE)
        describeModel()
        inBackground { }
        dialog.showAndWait()
    }

    private void use(String path) {
        def home = HeroheScore.home()
        HeroheParameters.remember(home, HeroheParameters.remembered(home) + [model: (Object) path])
        describeModel()
    }

    private void describeModel() {
        def chosen = String.valueOf(HeroheParameters.remembered(HeroheScore.home()).get('model'))
        def server = server()
        def file = chosen ?: server.usualModel
        model.text = !file ? 'None was chosen: you will be asked for one.' : new File(file).file ? file :
            "$file is not there.".toString()
    }

    private static HeroheServer server() {
        def quiet = { String text -> } as Consumer<String>
        return new HeroheServer(HeroheScore.home(), quiet, { false } as BooleanSupplier)
    }

    /** Do something, and then say which servers run. */
    private void inBackground(Runnable action) {
        def thread = new Thread({ ->
            String words
            List<HeroheClient> found = []
            try {
                action.run()
                def server = server()
                found = server.clients()
                words = found.collect { describe(it) }.join('\n') ?:
                    'None runs. One is started when something is scored.'
                if (server.settings.get('remote') instanceof Map)
                    words = "On another machine: ${((Map) server.settings.get('remote')).get('endpoint')}"
            } catch (HeroheClient.Failure problem) {
                words = problem.message
            }
            Platform.runLater {
                running = found
                state.text = words
                stop.disable = found.empty
            }
        }, 'HER2-HE server')
        thread.daemon = true
        thread.start()
    }

    private static String describe(HeroheClient client) {
        def info = client.status(), load = (Map) info.get('load')
        def requests = ((Number) load?.get('requests'))?.intValue()
        def engine = [info.get('engine'), info.get('device'), info.get('precision')].findAll { it }.join(', ')
        return "${info.get('model')} ${String.valueOf(info.get('model_sha256')).take(12)}, $engine: " +
            (requests ? "$requests in work" : 'idle')
    }
}
