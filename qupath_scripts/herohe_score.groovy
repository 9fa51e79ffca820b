/*
 * HER2-HE score: asks a herohe-bridge model server for the HER2 grade of the annotations of this slide.
 * Research use only, not for diagnosis.
 *
 * The selected annotations are scored; when none is selected, those of the classes named below. Each annotation
 * gets a class such as "Tumor: HER2-HE 2+", probabilities in its measurements, and the patches that were looked
 * at as tiles (Measure > Show measurement maps). Running it again replaces the result, herohe_clear.groovy
 * removes it, herohe_explain.groovy shows what carried it.
 *
 * Needs: 'herohe-bridge qupath install' and an H&E slide. Works with Run, Run for project, and from a terminal:
 *   QuPath script -s -p project.qpproj herohe_score.groovy --args seed=1 --args regionClasses=Tumor
 * Last tested with QuPath 0.5.1, 0.6.0 and 0.7.0.
 */
def parameters = [
    regionClasses: ['Tumor'],   // sampled when nothing is selected; [] for the whole slide
    excludeClasses: [],         // cut out of what is sampled, such as ['Necrosis']
    perAnnotation: true,        // each annotation for itself; false for one result over all of them
    composites: 8,              // pictures of 25 patches that are scored; 'all' to use every patch
    seed: 0,                    // the same seed draws the same patches
    minPatches: 10,             // fewer patches with tissue are too few to score
    minCoverage: 0.5,           // share of a patch that must lie in the annotation
    artefacts: 'leave-out',     // pen, blood, folds and the like: 'leave-out', 'mark' or 'ignore'
    tiles: 'sampled',           // which patches become tiles: 'sampled', 'all' or 'none'
    classify: true,             // derive classes such as "Tumor: HER2-HE 2+"
    model: '',                  // path of a model file; '' for the one chosen at installation
    anyStain: false,            // also score what is not, or does not look like, H&E
    pixelsFromQuPath: false     // send pixels even when the server can open the slide itself
]

def home = qupath.lib.gui.UserDirectoryManager.getInstance().getUserPath()?.resolve('herohe-bridge')?.toFile()
def loader = new GroovyClassLoader(getClass().classLoader)
def classes = home == null ? null : new File(home, 'HeroheScripts.groovy')
if (!classes?.file || loader.getResource('org/zeromq/ZContext.class') == null) {
    def problem = "herohe-bridge is not installed into this QuPath. Run 'herohe-bridge qupath install' in a " +
        'terminal, then start QuPath again.'
    if (qupath.lib.gui.QuPathGUI.getInstance() != null)
        qupath.fx.dialogs.Dialogs.showErrorMessage('HER2-HE', problem)
    throw new IllegalStateException(problem)
}
// The extension has the classes compiled; without it they are compiled now.
loader.addClasspath(home.path)
loader.loadClass('HeroheScripts').score(this, parameters)
