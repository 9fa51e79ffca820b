/*
 * Which patches carried a grade: the tiles of scored annotations in the order of their contributions, and pictures
 * of the composites as the model saw them. Knows no window.
 *
 * Last tested with QuPath 0.6.0 and 0.7.0.
 */
import groovy.transform.CompileStatic
import qupath.lib.objects.PathObject

import javax.imageio.ImageIO
import java.awt.image.BufferedImage

@CompileStatic
class HeroheExplain {
    static final String CONTRIBUTION = "$HeroheMarks.PREFIX: contribution "

    /** The tiles of one annotation that have a contribution to a step, the one that speaks most for it first. */
    static class Ranked {
        final PathObject annotation
        final List<PathObject> tiles
        final String measurement

        Ranked(PathObject annotation, List<PathObject> tiles, String measurement) {
            this.annotation = annotation
            this.tiles = tiles
            this.measurement = measurement
        }

        double value(PathObject tile) {
            return tile.measurementList.get(measurement)
        }

        List<Double> values() {
            return tiles.collect { PathObject tile -> value(tile) }
        }
    }

    /**
     * Rank the tiles of annotations.
     *
     * @param annotations those that are meant; [] for all that were scored
     * @param step such as '>=2+'; '' for the one that each annotation's grade stands on
     */
    static List<Ranked> rank(HeroheImage image, Collection<PathObject> annotations, String step) {
        def everything = image.annotations() + image.data.ownAnnotations(image.hierarchy.rootObject)
        def scored = everything.findAll { image.data.ownMeasurements(it) }
        def meant = scored.findAll { annotations.contains(it) } ?: scored
        if (meant.empty)
            throw new HeroheClient.Failure(
                'not_scored', "Nothing on $image.name was scored".toString(), 'Score its annotations first')
        List<Ranked> found = []
        for (PathObject annotation : meant) {
            def own = image.data.ownTiles(annotation).findAll { it.parent.is(annotation) }
            def names = contributions(own)
            if (names.empty)
                continue
            def name = stepOf(names, gradeOf(image, annotation), step)
            def ranked = own.findAll { !Double.isNaN(it.measurementList.get(name)) }
                .sort(false) { PathObject tile -> -tile.measurementList.get(name) }
            found.add(new Ranked(annotation, ranked, name))
        }
        if (found.empty)
            throw new HeroheClient.Failure(
                'no_tiles', "There are no patches on $image.name".toString(), "Score it with tiles = 'sampled'")
        return found
    }

    /** The steps that tiles have contributions to, the highest first. */
    static List<String> steps(HeroheImage image) {
        def tiles = image.data.ownTiles(image.hierarchy.rootObject)
        return contributions(tiles).collect { it.substring(CONTRIBUTION.length()) }
    }

    private static List<String> contributions(List<PathObject> tiles) {
        def names = tiles.collectMany { it.measurementList.measurementNames }.unique()
        return names.findAll { it.startsWith(CONTRIBUTION) }
    }

    static String gradeOf(HeroheImage image, PathObject annotation) {
        return image.data.ownComponent(annotation).replace("$HeroheMarks.PREFIX ".toString(), '')
    }

    private static String stepOf(List<String> names, String grade, String asked) {
        if (asked) {
            def found = names.find { it == CONTRIBUTION + asked }
            if (found == null)
                throw new HeroheClient.Failure('option', "There is no step '$asked'".toString(),
                    "Use one of ${names.collect { it.substring(CONTRIBUTION.length()) }.join(', ')}".toString())
            return found
        }
        def step = ['0': '>=1+', '3+': '3+'].get(grade) ?: ">=$grade".toString()
        return names.find { it == CONTRIBUTION + step } ?: names.last()
    }

    /**
     * Write composites as the model saw them.
     *
     * @param best tiles; the composite with most of them is written, unless others are asked for
     * @param composite 'best', a number from 1, or 'all'
     * @return a line for each
     */
    static List<String> export(HeroheImage image, HeroheTask task, PathObject annotation, List<PathObject> best,
            Object composite, File folder) {
        def layout = HeroheMarks.layout(image)
        def regions = (Map) layout?.get('regions')
        def composites = (List<List<List<Number>>>) (regions?.get(annotation.ID.toString()) ?: regions?.get('slide'))
        if (regions != null && regions.isEmpty())
            return ['Its model sees every patch for itself, so that there are no composites to export.']
        if (!composites)
            return ['Its composites were scored outside QuPath: score it again here to export them.']
        def corners = best.collect { [(int) it.ROI.boundsX, (int) it.ROI.boundsY] }.toSet()
        def hits = composites.collect { cells ->
            cells.count { corners.contains([it[0].intValue(), it[1].intValue()]) }
        }
        List<Integer> numbers
        if (composite == 'all')
            numbers = (0..<composites.size()).toList()
        else if (composite instanceof Number)
            numbers = [Math.min(((Number) composite).intValue(), composites.size()) - 1]
        else
            numbers = [hits.indexOf(hits.max())]
        folder.mkdirs()
        if (!folder.directory)
            throw new HeroheClient.Failure(
                'option', "The folder $folder cannot be made".toString(), 'Say another by the parameter folder')
        int size = ((Number) layout.get('size')).intValue(), px = ((Number) layout.get('patch_px')).intValue()
        return numbers.collect { int number ->
            task.progress('Writing composites', numbers.indexOf(number), numbers.size())
            def called = annotation.name ?: annotation.ID.toString().take(8)
            def name = "$image.name $called composite ${number + 1}.png".toString().replaceAll(/[^\p{L}\p{N} ._-]/, '_')
            def file = new File(folder, name)
            ImageIO.write(picture(image, composites[number], size, px), 'png', file)
            "Composite ${number + 1} of ${composites.size()}: $file".toString()
        }
    }

    private static BufferedImage picture(HeroheImage image, List<List<Number>> cells, int size, int px) {
        int side = Math.round(Math.sqrt(cells.size())) as int
        def picture = new BufferedImage(side * px, side * px, BufferedImage.TYPE_INT_RGB)
        def graphics = picture.createGraphics()
        cells.eachWithIndex { List<Number> corner, int cell ->
            def patch = image.read([
                x: corner[0], y: corner[1], width: (Number) size, height: (Number) size,
                out_width: (Number) px, out_height: (Number) px
            ])
            graphics.drawImage(patch, (cell % side) * px, cell.intdiv(side) * px, null)
        }
        graphics.dispose()
        return picture
    }
}
