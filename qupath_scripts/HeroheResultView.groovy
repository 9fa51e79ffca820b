/*
 * A result in words and bars: the slide's, each annotation's, what was seen and left out, warnings, and the model.
 *
 * Last tested with QuPath 0.6.0 and 0.7.0.
 */
import groovy.transform.CompileStatic
import javafx.geometry.Insets
import javafx.geometry.Pos
import javafx.scene.Node
import javafx.scene.control.Label
import javafx.scene.layout.HBox
import javafx.scene.layout.Priority
import javafx.scene.layout.Region
import javafx.scene.layout.VBox
import qupath.lib.objects.PathObject

import java.util.function.Consumer

@CompileStatic
class HeroheResultView {
    private static final String BOLD = '-fx-font-weight: bold;'
    static final String LOUD = "$BOLD -fx-text-fill: white; -fx-background-color: #b02318; -fx-padding: 6;"
    private static final String NOTE = '-fx-background-color: #f5c542; -fx-text-fill: black; -fx-padding: 4 6 4 6;'
    // As the classes that annotations get; 1+ is not the yellow of what is selected.
    private static final Map<String, String> CHIPS = ['0': '#5a5ab4', '1+': '#6f9a3b', '2+': '#e19632', '3+': '#c83232']

    /**
     * @param shown what is known of the image
     * @param chosen is called with an annotation whose line was clicked
     */
    static List<Node> nodes(HeroheShown shown, Consumer<PathObject> chosen) {
        List<Node> nodes = []
        if (shown.alarm)
            nodes.add(text(shown.alarm, LOUD))
        if (shown.slide?.positive != null)
            nodes.add(headline(shown.slide, shown))
        nodes.addAll(shown.warnings.collect { text(it, NOTE) })
        nodes.add(heading(shown.parts.size() == 1 ? 'Annotation' : "Annotations (${shown.parts.size()})".toString()))
        nodes.addAll(shown.parts.collect { line(it, shown, chosen) })
        return nodes
    }

    /** What computed the result, in words. */
    static List<Node> ofModel(HeroheShown shown) {
        return [(Node) heading('Model')] + model(shown).collect { (Node) text(it, '') }
    }

    static Label heading(String words) {
        def label = text(words, BOLD)
        label.padding = new Insets(6d, 0d, 0d, 0d)
        return label
    }

    /** Words in full: wrapped, and never cut. */
    static Label text(String words, String style) {
        def label = new Label(words)
        label.wrapText = true
        label.minHeight = Region.USE_PREF_SIZE
        label.maxWidth = Double.MAX_VALUE
        label.style = style
        return label
    }

    private static Node headline(HeroheShown.Part slide, HeroheShown shown) {
        def words = text(slide.status, "$BOLD -fx-font-size: 1.3em;")
        HBox.setHgrow(words, Priority.ALWAYS)
        def top = new HBox(8d, chip(slide.grade, '1.5em'), words)
        top.alignment = Pos.CENTER_LEFT
        def bar = new HeroheBar(slide.positive, slide.spread, shown.threshold, 14d)
        return new VBox(3d, top, bar, text(probability(slide, shown.threshold), ''))
    }

    private static Node line(HeroheShown.Part part, HeroheShown shown, Consumer<PathObject> chosen) {
        def name = text(part.name, '')
        HBox.setHgrow(name, Priority.ALWAYS)
        def box = new VBox(1d)
        if (part.positive == null) {
            box.children.addAll(name, text(part.message ?: 'Not scored', '-fx-text-fill: #b02318;'))
        } else {
            def number = new Label(String.format(Locale.ROOT, '%.2f', part.positive))
            number.minWidth = Region.USE_PREF_SIZE
            def top = new HBox(6d, chip(part.grade, '1em'), name, number)
            top.alignment = Pos.CENTER_LEFT
            box.children.addAll(top, new HeroheBar(part.positive, part.spread, shown.threshold, 6d))
        }
        def seen = patches(part)
        if (seen)
            box.children.add(text(seen, '-fx-font-size: 0.9em; -fx-opacity: 0.8;'))
        box.style = '-fx-cursor: hand;'
        box.onMouseClicked = { chosen.accept(part.annotation) }
        return box
    }

    private static Label chip(String grade, String size) {
        def label = new Label(grade ?: '-')
        label.minWidth = Region.USE_PREF_SIZE
        label.style = "-fx-font-size: $size; $BOLD -fx-text-fill: white; -fx-padding: 1 6 1 6; " +
            "-fx-background-radius: 4; -fx-background-color: ${CHIPS.get(grade, '#707070')};"
        return label
    }

    private static String probability(HeroheShown.Part part, Double threshold) {
        def words = String.format(Locale.ROOT, 'P(positive) %.3f', part.positive)
        if (part.spread != null)
            words += String.format(Locale.ROOT, ' \u00b1 %.3f', part.spread)
        return threshold == null ? words : words + String.format(Locale.ROOT, ', positive from %.2f', threshold)
    }

    private static String patches(HeroheShown.Part part) {
        if (part.sampled == null)
            return ''
        def words = "${part.sampled} of ${part.foreground ?: part.sampled} patches of tissue seen"
        return part.artefacts ? "$words, ${part.artefacts} left out as artefacts".toString() : words.toString()
    }

    private static List<String> model(HeroheShown shown) {
        def facts = shown.provenance, card = shown.card
        List<String> lines = [shown.model ?: 'Not known: scored outside this QuPath']
        if (card.get('trained_on'))
            lines.add("Trained on: ${card.get('trained_on')}".toString())
        if (card.get('threshold_chosen'))
            lines.add("Threshold: ${card.get('threshold_chosen')}".toString())
        if (card.get('note'))
            lines.add(String.valueOf(card.get('note')))
        if (facts) {
            def how = [facts.get('engine') ?: 'PyTorch', facts.get('device'), facts.get('precision')].findAll { it }
            def seed = ((Number) facts.get('seed'))?.longValue()
            lines.add("Computed by ${how.join(', ')}; seed $seed".toString())
        }
        return lines
    }
}
