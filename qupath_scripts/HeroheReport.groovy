/*
 * The report of what was scored in a project: results are kept as 'herohe-bridge score' keeps them, and its command
 * 'report' makes the page.
 *
 * Last tested with QuPath 0.6.0 and 0.7.0.
 */
import com.google.gson.Gson
import groovy.transform.CompileStatic
import javafx.application.Platform
import qupath.fx.dialogs.Dialogs
import qupath.lib.projects.Project

import java.nio.file.Files
import java.nio.file.StandardCopyOption
import java.util.concurrent.TimeUnit

@CompileStatic
class HeroheReport {
    private static final String TITLE = 'HER2-HE report'
    // As in bridge/results/files.py.
    private static final Map HEAD = [
        format: 'herohe-bridge results', version: 1, note: 'Research use only, not for diagnosis.'
    ]
    private static final String RESULTS = 'results.json'
    private static final int PATIENCE_MIN = 30

    /** Keep the results of a run over a project, in the place of an earlier run's. */
    static void keep(Project<?> project, List<String> results) {
        if (results.empty)
            return
        def folder = new File(folderOf(project), 'inside-qupath')
        folder.mkdirs()
        def head = new Gson().toJson(HEAD)
        def part = new File(folder, "${RESULTS}.part")
        part.setText(head.substring(0, head.length() - 1) + ',"slides":[\n' + results.join(',\n') + '\n]}\n', 'UTF-8')
        Files.move(part.toPath(), new File(folder, RESULTS).toPath(), StandardCopyOption.REPLACE_EXISTING)
    }

    /** Make the page of the project's newest run, and open it. */
    static void show(HerohePanel panel) {
        def folders = [folderOf(panel.qupath.project), new File(folderOf(panel.qupath.project), 'inside-qupath')]
        def runs = folders.findAll { new File(it, RESULTS).file }.sort { -new File(it, RESULTS).lastModified() }
        if (runs.empty) {
            Dialogs.showErrorMessage(TITLE, 'There is no run to report on. Choose Score project... first.')
            return
        }
        Dialogs.showInfoNotification(TITLE, 'The report is being made, and opens in the browser.')
        def thread = new Thread({ -> make(runs.first()) }, TITLE)
        thread.daemon = true
        thread.start()
    }

    private static void make(File folder) {
        def settings = new Gson().fromJson(new File(HeroheScore.home(), HeroheServer.SETTINGS).getText('UTF-8'), Map)
        def program = ((List) settings.get('command')).collect { String.valueOf(it) }
        def command = program + ['report', folder.path, '--open']
        String problem = ''
        try {
            def log = File.createTempFile('herohe-report', '.txt')
            def process = new ProcessBuilder(command).redirectErrorStream(true).redirectOutput(log).start()
            process.outputStream.close()
            if (!process.waitFor(PATIENCE_MIN, TimeUnit.MINUTES))
                process.destroy()
            else if (process.exitValue() != 0)
                problem = log.getText('UTF-8').trim()
            log.delete()
        } catch (IOException error) {
            problem = "herohe-bridge cannot be started (${error.message}). Run 'herohe-bridge qupath install' again."
        }
        if (problem)
            Platform.runLater { Dialogs.showErrorMessage(TITLE, problem) }
    }

    private static File folderOf(Project<?> project) {
        return new File(project.path.parent.toFile(), 'herohe-bridge')
    }
}
