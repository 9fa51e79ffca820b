/*
 * Asks for the parameters of scoring: each in words, checked as it is typed, and to be had as a script.
 *
 * Last tested with QuPath 0.6.0 and 0.7.0.
 */
import groovy.transform.CompileStatic
import javafx.beans.InvalidationListener
import javafx.event.ActionEvent
import javafx.scene.Node
import javafx.scene.control.Button
import javafx.scene.control.ButtonBar
import javafx.scene.control.ButtonType
import javafx.scene.control.CheckBox
import javafx.scene.control.ComboBox
import javafx.scene.control.Dialog
import javafx.scene.control.Label
import javafx.scene.control.TextField
import javafx.scene.control.Tooltip
import javafx.scene.input.Clipboard
import javafx.scene.input.ClipboardContent
import javafx.scene.layout.ColumnConstraints
import javafx.scene.layout.GridPane
import javafx.scene.layout.HBox
import javafx.scene.layout.Priority
import qupath.lib.gui.QuPathGUI

@CompileStatic
class HeroheDialog {
    // Name, and what it does, of each parameter; as in herohe_score.groovy.
    private static final Map<String, List<String>> WORDS = [
        regionClasses: [
            'Classes to score', 'Sampled when nothing is selected; separated by commas, empty for the whole slide'
        ],
        excludeClasses: ['Classes to leave out', 'Cut out of what is sampled, such as Necrosis'],
        perAnnotation: ['Each annotation for itself', 'Or else one result over all of them'],
        composites: ['Composites', 'Pictures of 25 patches that are scored: a number, or "all" to use every patch'],
        seed: ['Seed', 'The same seed draws the same patches'],
        minPatches: ['Least patches', 'Fewer patches with tissue are too few to score'],
        minCoverage: ['Least coverage', 'Share of a patch that must lie in the annotation, 0 to 1'],
        artefacts: ['Artefacts', 'Patches of pen, blood, folds, edges and the like: left out, marked, or scored'],
        tiles: ['Patches to keep', 'Which patches become tiles; the heat map needs them'],
        classify: ['Derive classes', 'Such as "Tumor: HER2-HE 2+"; Clear takes them away'],
        model: ['Model file', 'Empty for the one chosen at installation'],
        pixelsFromQuPath: ['Send pixels', 'Even when the server can open the slide itself'],
        anyStain: ['Any stain', 'Also score what is not stained with H&E; its grade means nothing']
    ]
    private static final Map<String, List<String>> CHOICES = [
        composites: ['4', '8', '16', '32', 'all'], tiles: ['sampled', 'all', 'none'],
        artefacts: ['leave-out', 'mark', 'ignore']
    ]

    private final Map<String, Object> usual
    private final Map<String, Node> controls = [:]
    private final Label problem = HeroheResultView.text('', '-fx-text-fill: #b02318;')
    final GridPane pane = new GridPane()

    HeroheDialog(Map<String, Object> parameters) {
        usual = parameters
        pane.hgap = 8d
        pane.vgap = 5d
        def fixed = new ColumnConstraints(), growing = new ColumnConstraints()
        fixed.minWidth = 150d
        growing.hgrow = Priority.ALWAYS
        pane.columnConstraints.addAll(fixed, growing)
        parameters.each { name, value -> addRow(name, value) }
        pane.add(problem, 0, pane.rowCount, 2, 1)
    }

    /** What would be scored on an image, in words. */
    static String meant(HeroheImage image) {
        int selected = image.selected().size()
        return selected == 0 ? 'Nothing is selected: annotations of the classes below are scored.' :
            selected == 1 ? 'The selected annotation is scored.' :
            "The $selected selected annotations are scored.".toString()
    }

    /** Ask for parameters; null when the user thinks better of it. */
    static Map<String, Object> ask(QuPathGUI qupath, Map<String, Object> parameters, String meant) {
        def form = new HeroheDialog(parameters)
        def dialog = new Dialog<ButtonType>()
        dialog.initOwner(qupath.stage)
        dialog.title = 'HER2-HE: score annotations'
        dialog.resizable = true
        dialog.dialogPane.headerText = meant
        dialog.dialogPane.content = form.pane
        dialog.dialogPane.prefWidth = 480d
        def score = new ButtonType('Score', ButtonBar.ButtonData.OK_DONE)
        form.addButtons(dialog, score)
        return dialog.showAndWait().orElse(null).is(score) ? form.values() : null
    }

    /** Add Score, Cancel and Copy as script to a dialog. */
    void addButtons(Dialog<ButtonType> dialog, ButtonType score) {
        def copy = new ButtonType('Copy as script', ButtonBar.ButtonData.LEFT)
        dialog.dialogPane.buttonTypes.addAll(copy, score, ButtonType.CANCEL)
        def go = dialog.dialogPane.lookupButton(score)
        def copier = (Button) dialog.dialogPane.lookupButton(copy)
        copier.addEventFilter(ActionEvent.ACTION) { ActionEvent event ->
            event.consume()
            def content = new ClipboardContent()
            content.putString(HeroheParameters.script(values()))
            Clipboard.systemClipboard.setContent(content)
            copier.text = 'Copied'
        }
        onChange {
            problem.text = wrong()
            go.disable = copier.disable = !problem.text.empty
            copier.text = 'Copy as script'
        }
    }

    /** The parameters as they stand. */
    Map<String, Object> values() {
        Map<String, Object> found = [:]
        usual.each { name, value -> found.put(name, parsed(name, value)) }
        return found
    }

    /** What is not right, '' for nothing. */
    private String wrong() {
        for (String name : usual.keySet()) {
            def words = WORDS.get(name)
            try {
                def value = parsed(name, usual.get(name))
                boolean negative = value instanceof Number && ((Number) value).doubleValue() < 0
                if (negative && name != 'seed' || name == 'composites' && value == 0)
                    return "${words[0]}: ${value} is too small."
                if (name == 'minCoverage' && ((Number) value).doubleValue() > 1)
                    return "${words[0]}: a share is at most 1."
            } catch (NumberFormatException ignored) {
                return "${words[0]}: this is no number."
            }
        }
        def model = (String) parsed('model', '')
        return model && !new File(model).file ? "There is no model file $model." : ''
    }

    private void addRow(String name, Object value) {
        def words = WORDS.get(name) ?: [name, '']
        def control = controlFor(name, value, words)
        controls.put(name, control)
        def tooltip = new Tooltip(words[1])
        Tooltip.install(control, tooltip)
        if (name == 'regionClasses')
            ((TextField) control).promptText = 'the whole slide'
        def shown = name == 'model' ? withChooser((TextField) control) : control
        int row = pane.rowCount
        if (control instanceof CheckBox) {
            pane.add(shown, 1, row)
            return
        }
        def label = new Label(words[0])
        label.tooltip = tooltip
        pane.addRow(row, label, shown)
    }

    private static Node controlFor(String name, Object value, List<String> words) {
        if (value instanceof Boolean) {
            def box = new CheckBox(words[0])
            box.selected = (boolean) value
            return box
        }
        if (CHOICES.containsKey(name)) {
            def choice = new ComboBox<String>()
            choice.items.setAll(CHOICES.get(name))
            choice.editable = name == 'composites'
            choice.value = String.valueOf(value)
            return choice
        }
        def field = new TextField(value instanceof List ? ((List) value).join(', ') : String.valueOf(value))
        field.promptText = name == 'model' ? 'that of the installation' : 'none'
        return field
    }

    private static HBox withChooser(TextField field) {
        def button = new Button('Choose...')
        button.minWidth = Button.USE_PREF_SIZE
        button.onAction = {
            def file = HeroheProgress.chooseModel()
            if (file != null)
                field.text = file.path
        }
        HBox.setHgrow(field, Priority.ALWAYS)
        return new HBox(5d, field, button)
    }

    private void onChange(Runnable action) {
        def listener = { observable -> action.run() } as InvalidationListener
        controls.values().each { Node control ->
            if (control instanceof TextField)
                ((TextField) control).textProperty().addListener(listener)
            else if (control instanceof CheckBox)
                ((CheckBox) control).selectedProperty().addListener(listener)
            else
                ((ComboBox<String>) control).editor.textProperty().addListener(listener)
        }
    }

    private Object parsed(String name, Object usual) {
        def control = controls.get(name)
        if (control instanceof CheckBox)
            return ((CheckBox) control).selected
        if (control instanceof ComboBox) {
            def choice = (ComboBox<String>) control
            def text = (choice.editable ? choice.editor.text : choice.value).trim()
            return name == 'composites' && text != 'all' ? (Object) text.toInteger() : text
        }
        def text = ((TextField) control).text.trim()
        if (usual instanceof List)
            return text.split(',').collect { it.trim() }.findAll { it }
        if (usual instanceof Integer || usual instanceof Long)
            return text.toInteger()
        return usual instanceof Number ? (Object) text.toDouble() : text
    }
}
