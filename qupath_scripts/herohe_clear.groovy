/*
 * HER2-HE clear: removes everything that HER2-HE wrote onto this image, and gives annotations their classes back.
 *
 * Needs: 'herohe-bridge qupath install'. Works with Run, Run for project, and from a terminal:
 *   QuPath script -s -p project.qpproj herohe_clear.groovy
 * Last tested with QuPath 0.5.1, 0.6.0 and 0.7.0.
 */
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
loader.loadClass('HeroheScripts').clear(this)
