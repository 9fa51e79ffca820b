/*
 * HER2-HE in QuPath's Extensions menu, with its panel. Loaded when QuPath starts; without a window it does nothing.
 *
 * Last tested with QuPath 0.6.0 and 0.7.0.
 */
import groovy.transform.CompileStatic
import javafx.beans.value.ObservableValue
import javafx.scene.control.Menu
import javafx.scene.control.MenuItem
import javafx.scene.control.SeparatorMenuItem
import qupath.lib.common.Version
import qupath.lib.gui.QuPathGUI
import qupath.lib.gui.extensions.QuPathExtension

@CompileStatic
class HeroheExtension implements QuPathExtension {
    @Override
    void installExtension(QuPathGUI qupath) {
        def panel = HerohePanel.of(qupath)
        def noImage = qupath.imageDataProperty().isNull(), noProject = qupath.projectProperty().isNull()
        Menu menu = qupath.getMenu('Extensions>HER2-HE', true)
        menu.items.addAll(
            item('Score annotations...', noImage) { HeroheActions.ask(panel) },
            item('Explain', noImage) { HeroheActions.explain(panel) },
            item('Show result', null) { panel.reveal() },
            item('Clear', noImage) { HeroheActions.clear(panel) },
            new SeparatorMenuItem(),
            item('Score project...', noProject) { HeroheProjectRun.ask(panel) },
            item('Report', noProject) { HeroheReport.show(panel) },
            new SeparatorMenuItem(),
            item('Model and server...', null) { HeroheServerDialog.show(panel) }
        )
    }

    @Override
    String getName() {
        return 'HER2-HE'
    }

    @Override
    String getDescription() {
        return 'HER2 grades from H&E slides, by herohe-bridge. Research use only, not for diagnosis.'
    }

    @Override
    Version getQuPathVersion() {
        return Version.parse('0.7.0')
    }

    @Override
    Version getVersion() {
        def file = new File(HeroheScore.home(), HeroheServer.SETTINGS)
        def version = file.file ? new com.google.gson.Gson().fromJson(file.getText('UTF-8'), Map)?.get('version') : null
        return version ? Version.parse(String.valueOf(version)) : Version.UNKNOWN
    }

    private static MenuItem item(String name, ObservableValue<Boolean> disabled, Runnable action) {
        def item = new MenuItem(name)
        item.onAction = { action.run() }
        if (disabled != null)
            item.disableProperty().bind(disabled)
        return item
    }
}
