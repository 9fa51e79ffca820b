/*
 * HER2-HE explain: shows which patches carried a grade. Selects them, colours the map of tiles by their share, and
 * writes the picture that the model saw. Research use only, not for diagnosis.
 *
 * The selected annotations are explained; when none is selected, all that were scored.
 *
 * Needs: 'herohe-bridge qupath install', and a result of herohe_score.groovy. From a terminal:
 *   QuPath script -p project.qpproj herohe_explain.groovy --args top=5 --args composite=all
 * Last tested with QuPath 0.5.1, 0.6.0 and 0.7.0.
 */
def parameters = [
    step: '',                   // such as '>=2+'; '' for the step that the grade stands on
    top: 10,                    // patches that are selected in each annotation
    composite: 'best',          // 'best': that with most of them; a number from 1; 'all' or 'none'
    folder: ''                  // where the pictures go; '' for herohe-bridge/composites in the project
]

def home = qupath.lib.gui.UserDirectoryManager.getInstance().getUserPath()?.resolve('herohe-bridge')?.toFile()
def loader = new GroovyClassLoader(getClass().classLoader)
if (home == null || !new File(home, 'HeroheScripts.groovy').file ||
    loader.getResource('org/zeromq/ZContext.class') == null) {
    def problem = 'herohe-bridge is not installed into this QuPath. ' +
        "Run 'herohe-bridge qupath install' in a terminal, then start QuPath again."
    if (qupath.lib.gui.QuPathGUI.getInstance() != null)
        qupath.fx.dialogs.Dialogs.showErrorMessage('HER2-HE', problem)
    throw new IllegalStateException(problem)
}
// The extension has the classes compiled; without it they are compiled now.
loader.addClasspath(home.path)
loader.loadClass('HeroheScripts').explain(this, parameters)
