/*
 * Work on many images in one window: how far all of it is, Cancel for all of it, and in the end a table that says of
 * each image what came of it.
 *
 * Last tested with QuPath 0.6.0 and 0.7.0.
 */
import groovy.transform.CompileStatic
import javafx.application.Platform
import javafx.beans.property.ReadOnlyStringWrapper
import javafx.beans.value.ObservableValue
import javafx.geometry.Insets
import javafx.geometry.Pos
import javafx.scene.Scene
import javafx.scene.control.Button
import javafx.scene.control.Label
import javafx.scene.control.ProgressBar
import javafx.scene.control.TableCell
import javafx.scene.control.TableColumn
import javafx.scene.control.TableView
import javafx.scene.input.Clipboard
import javafx.scene.input.ClipboardContent
import javafx.scene.layout.HBox
import javafx.scene.layout.Priority
import javafx.scene.layout.VBox
import javafx.scene.text.Text
import javafx.stage.Stage
import javafx.stage.WindowEvent
import javafx.util.Callback
import qupath.lib.gui.QuPathGUI

import java.util.function.Consumer

@CompileStatic
class HeroheRunWindow {
    private static final List<String> COLUMNS = ['Image', 'Outcome', 'Grade', 'P(positive)', 'What to know']
    private static final List<Double> WIDTHS = [150d, 130d, 60d, 90d, 260d]
    private static HeroheRunWindow ofScripts

    /** One image: its cells, and the work on it. */
    static class Row extends HeroheTask {
        final List<String> cells
        private final HeroheRunWindow window

        Row(String title, String image, HeroheRunWindow window) {
            super(title, window.log)
            this.window = window
            cells = [image, 'in work', '', '', '']
        }

        /** Say what came of it. */
        void ended(String outcome, Map<String, Object> result, String words) {
            def prediction = (Map) ((Map) result?.get('union'))?.get('prediction')
            def grade = prediction == null ? '' : String.valueOf(prediction.get('grade'))
            def positive = prediction == null ? '' : String.format(Locale.ROOT, '%.3f', prediction.get('p_positive'))
            window.rowEnded(this, [outcome, grade, positive, words])
        }

        @Override
        protected void show(String text, double share) {
            window.rowShown("${cells[0]}: $text".toString(), share)
        }
    }

    private final int total
    final Consumer<String> log
    private final Stage stage = new Stage()
    private final Label label = HeroheResultView.text('', '')
    private final ProgressBar bar = new ProgressBar(0d)
    private final TableView<Row> table = new TableView<>()
    private final Button button = new Button('Cancel all'), copy = new Button('Copy table')
    private volatile boolean cancelled = false
    private volatile Row current
    private int done = 0

    /** To be made by the thread of the window. */
    HeroheRunWindow(String title, int total, Consumer<String> log) {
        this.total = total
        this.log = log
        bar.maxWidth = Double.MAX_VALUE
        // The table would take all the height there is.
        bar.minHeight = 18d
        table.prefHeight = 200d
        COLUMNS.eachWithIndex { String name, int i -> table.columns.add(column(name, i)) }
        table.columnResizePolicy = TableView.CONSTRAINED_RESIZE_POLICY
        VBox.setVgrow(table, Priority.ALWAYS)
        button.onAction = { ended ? stage.close() : cancel() }
        copy.onAction = { copyTable() }
        def buttons = new HBox(8d, copy, button)
        buttons.alignment = Pos.CENTER_RIGHT
        def notice = HeroheResultView.text('Research use only, not for diagnosis', '-fx-font-style: italic;')
        def box = new VBox(8d, label, bar, table, notice, buttons)
        box.padding = new Insets(12d)
        stage.title = title
        stage.scene = new Scene(box, 720d, 400d)
        stage.initOwner(QuPathGUI.getInstance().stage)
        stage.onCloseRequest = { WindowEvent event ->
            if (!ended) {
                event.consume()
                cancel()
            }
        }
        stage.show()
    }

    /** The window of a script's run over a project: a new one for the first image. */
    static HeroheRunWindow ofScripts(String title, int index, int total, Consumer<String> log) {
        if (index == 0 || ofScripts == null || ofScripts.ended) {
            HeroheViewers.onWindow {
                ofScripts?.stage?.close()
                ofScripts = new HeroheRunWindow(title, total, log)
            }
        }
        return ofScripts
    }

    boolean isCancelled() {
        return cancelled
    }

    /** Begin with an image; may be called from any thread. */
    Row begin(String title, String image) {
        def row = new Row(title, image, this)
        current = row
        Platform.runLater {
            table.items.add(row)
            table.scrollTo(row)
            label.text = image
        }
        if (cancelled)
            row.cancel()
        return row
    }

    void rowShown(String words, double share) {
        Platform.runLater {
            label.text = words
            if (share >= 0)
                bar.progress = (done + share) / Math.max(1, total)
        }
    }

    void rowEnded(Row row, List<String> rest) {
        Platform.runLater {
            rest.eachWithIndex { String cell, int i -> row.cells[i + 1] = cell }
            done = done + 1
            table.refresh()
            bar.progress = done / (double) Math.max(1, total)
        }
    }

    /** All images were seen, or the rest will not be. */
    void finish(String words) {
        Platform.runLater {
            label.text = words
            bar.progress = 1d
            button.text = 'Close'
            button.disable = false
            table.refresh()
        }
    }

    private boolean isEnded() {
        return button.text == 'Close'
    }

    private void cancel() {
        cancelled = true
        button.disable = true
        label.text = 'Cancelling ...'
        current?.cancel()
    }

    private static TableColumn<Row, String> column(String name, int i) {
        def column = new TableColumn<Row, String>(name)
        column.prefWidth = WIDTHS[i]
        column.cellValueFactory = { TableColumn.CellDataFeatures<Row, String> f ->
            (ObservableValue<String>) new ReadOnlyStringWrapper(f.value.cells[i])
        } as Callback<TableColumn.CellDataFeatures<Row, String>, ObservableValue<String>>
        column.cellFactory = { TableColumn<Row, String> c ->
            (TableCell<Row, String>) new WordsCell()
        } as Callback<TableColumn<Row, String>, TableCell<Row, String>>
        return column
    }

    /** A cell whose words can be read in full. */
    private static class WordsCell extends TableCell<Row, String> {
        private static final double MARGIN = 12d

        @Override
        protected void updateItem(String words, boolean empty) {
            super.updateItem(words, empty)
            def shown = new Text(empty ? '' : words)
            shown.style = '-fx-fill: -fx-text-background-color;'
            shown.wrappingWidthProperty().bind(tableColumn.widthProperty().subtract(MARGIN))
            setGraphic(shown)
        }
    }

    private void copyTable() {
        def lines = [COLUMNS] + table.items.collect { Row row -> row.cells }
        def content = new ClipboardContent()
        content.putString(lines.collect { List<String> cells -> cells.join('\t') }.join('\n'))
        Clipboard.systemClipboard.setContent(content)
    }
}
