/*
 * What is known of an image's result: read back from what was written onto it, so that it is the same a minute later
 * and after the image was closed and opened. Where no result is kept beside the measurements, as versions before did
 * not, measurements and the image's metadata must do.
 *
 * Last tested with QuPath 0.6.0 and 0.7.0.
 */
import com.google.gson.Gson
import com.google.gson.JsonParseException
import groovy.transform.CompileStatic
import qupath.lib.images.ImageData
import qupath.lib.objects.PathObject

@CompileStatic
class HeroheShown {
    /** Property of the image that holds the result without its patches. */
    static final String RESULT = "$HeroheMarks.MARK result"

    private static final List<String> BULKY = ['composites', 'patches', 'unsampled']
    private static final String TRAINED_ON_NOTHING = 'nothing'
    private static final String OF_A_DEMO = 'phantoms of herohe-bridge demo'

    /** One annotation's result; numbers that are not known are null. */
    static class Part {
        PathObject annotation
        String name, grade = '', status = '', message = ''
        Double positive, spread
        Integer foreground, sampled, artefacts
    }

    final List<Part> parts = []
    final Part slide
    final Map card
    final Map provenance
    final List<String> warnings

    private HeroheShown(HeroheImage image) {
        def kept = read(image.imageData)
        def result = (Map) kept?.get('result')
        provenance = (Map) result?.get('provenance') ?: [:]
        // From outside QuPath no card is kept: what is asked of it here stands in the provenance, by the same names.
        card = (Map) kept?.get('card') ?: provenance
        warnings = ((List) result?.get('warnings') ?: []).collect { String.valueOf(it) }
        def told = ((List<Map>) result?.get('annotations') ?: []).groupBy { Map part -> String.valueOf(part.region) }
        def union = (Map) result?.get('union')
        for (PathObject object : image.annotations() + image.data.ownAnnotations(image.hierarchy.rootObject)) {
            def own = image.data.ownMeasurements(object)
            def same = told.get(object.ID.toString())
            // Of annotations with one identifier it is not known which part is whose: their own numbers must do.
            if (own)
                parts.add(part(image, object, own, same == null ? union : same.size() == 1 ? same[0] : null))
        }
        slide = union == null ? fromMetadata(image) : fromResult(union)
    }

    /** What is known of an image; null when nothing of HER2-HE is on it. */
    static HeroheShown of(HeroheImage image) {
        def found = new HeroheShown(image)
        return found.parts.empty ? null : found
    }

    /** Keep a result with the image, for the time after this moment. */
    static void keep(ImageData<?> imageData, Map<String, Object> result, Map card) {
        def slim = new LinkedHashMap<String, Object>(result)
        slim.put('union', slimmed((Map) result.get('union')))
        slim.put('annotations', ((List<Map>) result.get('annotations')).collect { slimmed(it) })
        imageData.setProperty(RESULT, new Gson().toJson([result: slim, card: card ?: [:]]))
    }

    /** What a region of a result is called. */
    static String nameOf(Map part) {
        def given = [part.get('name'), part.get('class_name')].find { it }
        return given ? String.valueOf(given) : part.get('annotations') ? 'Annotation' : 'Whole image'
    }

    /** Least P(positive) of HER2-positive, null when that is not known. */
    Double getThreshold() {
        return number(card, 'decision_threshold')
    }

    /** Name and digest of the model. */
    String getModel() {
        def digest = String.valueOf(provenance.get('model_sha256') ?: '').take(12)
        return provenance ? "${provenance.get('model')} $digest".toString() : slide?.message ?: ''
    }

    /** What must be said loudly of the model, '' when it was trained on slides. */
    String getAlarm() {
        def trained = String.valueOf(card.get('trained_on') ?: ''), standing = card.get('standing')
        if (standing == 'random' || trained == TRAINED_ON_NOTHING)
            return 'RANDOM MODEL: its weights were drawn by chance, and what it says of a slide means nothing.'
        if (standing == 'demo' || trained == OF_A_DEMO)
            return 'DEMO MODEL: it was trained on drawn pictures, and what it says of a slide means nothing.'
        return ''
    }

    private static Map read(ImageData<?> imageData) {
        def text = imageData.getProperty(RESULT)
        try {
            return text instanceof String ? new Gson().fromJson((String) text, Map) : null
        } catch (JsonParseException ignored) {
            return null
        }
    }

    private static Map slimmed(Map region) {
        return region == null ? null : region.findAll { key, value -> !BULKY.contains(key) }
    }

    private Part part(HeroheImage image, PathObject object, Map<String, Double> own, Map told) {
        def found = told == null ? new Part() : fromResult(told)
        found.annotation = object
        // As QuPath's own list calls it; but without the grade, which stands beside it.
        found.name = object.name ?: HeroheMarks.userClassName(object) ?: 'Annotation'
        found.grade = image.data.ownComponent(object).replace("$HeroheMarks.PREFIX ".toString(), '') ?: found.grade
        found.positive = own.get("$HeroheMarks.PREFIX: P(positive)".toString())
        found.spread = own.get("$HeroheMarks.PREFIX: P(positive) SD".toString())
        found.foreground = whole(own, "$HeroheMarks.PREFIX: patches foreground")
        found.sampled = whole(own, "$HeroheMarks.PREFIX: patches sampled")
        found.artefacts = whole(own, "$HeroheMarks.PREFIX: patches artefact")
        if (!found.status && found.positive != null && threshold != null)
            found.status = found.positive >= threshold ? 'HER2-positive' : 'HER2-negative'
        return found
    }

    private static Integer artefacts(Map byReason) {
        int total = 0
        byReason?.each { reason, count -> total += ((Number) count).intValue() }
        return byReason == null ? null : total
    }

    private static Part fromResult(Map region) {
        def prediction = (Map) region.get('prediction')
        def part = new Part(
            name: nameOf(region), message: String.valueOf(region.get('message') ?: ''),
            foreground: whole(region, 'patches_foreground'), sampled: whole(region, 'patches_sampled'),
            artefacts: artefacts((Map) region.get('artefacts'))
        )
        if (prediction != null) {
            part.grade = String.valueOf(prediction.get('grade'))
            part.status = [prediction.get('call'), prediction.get('status')].findAll().join('; ')
            part.positive = number(prediction, 'p_positive')
            part.spread = number(prediction, 'p_positive_sd')
        }
        return part
    }

    private static Part fromMetadata(HeroheImage image) {
        def text = { String name -> String.valueOf(image.entry?.getMetadataValue("$HeroheMarks.PREFIX $name") ?: '') }
        def positive = text('P(positive)')
        if (!positive.isDouble())
            return null
        return new Part(
            name: image.name, grade: text('grade'), status: [text('call'), text('status')].findAll().join('; '),
            positive: positive.toDouble(), message: text('model')
        )
    }

    private static Integer whole(Map<?, ?> values, String name) {
        return number(values, name)?.intValue()
    }

    private static Double number(Map<?, ?> values, String name) {
        def value = values.get(name.toString())
        return value instanceof Number ? ((Number) value).doubleValue() : null
    }
}
