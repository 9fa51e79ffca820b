/*
 * Runs installed scripts, or the last step of the workflow, on the image that QuPath has open, one after the other,
 * and lets something go wrong in some. args: a file with the steps as JSON, and the file that the answers go into.
 */
import com.google.gson.GsonBuilder
import qupath.lib.gui.UserDirectoryManager
import qupath.lib.io.GsonTools
import qupath.lib.io.PathIO

import java.util.concurrent.TimeUnit

/** What a script prints, line by line. */
class Lines {
    final List<String> said = []
    Closure onProgress = null

    void println(Object line) {
        said << String.valueOf(line)
        if (onProgress != null && said.last() ==~ /(?s).*\(\d+\/\d+\)/) {
            def action = onProgress
            onProgress = null
            action.call()
        }
    }
}

def gson = new GsonBuilder().serializeNulls().create()
def directory = UserDirectoryManager.instance.userPath.toFile()
def imageData = getCurrentImageData()
def hierarchy = imageData.hierarchy
def entry = getProjectEntry()
def me = Thread.currentThread()

// Everything that a script could have changed.
def state = { ->
    def objects = hierarchy.getFlattenedObjectList(null).findAll { !it.rootObject }
    GsonTools.instance.toJson(objects.collect { [it.parent.ID, it, it.locked, it.measurements, it.color] }
        .sort { it[1].ID.toString() }) +
        [new TreeMap(entry.metadataMap), imageData.properties.findAll { it.key.startsWith('_') },
            imageData.historyWorkflow.steps*.name]
}
def annotation = { String name -> hierarchy.annotationObjects.find { it.name == name } }
def answers = gson.fromJson(new File(args[0]).getText('UTF-8'), List).collect { step ->
    Map<File, byte[]> replaced = step.files.collectEntries { path, text ->
        def file = new File(path), before = file.file ? file.bytes : null
        file.setText(text, 'UTF-8')
        [file, before]
    }
    if (step.select != null)
        hierarchy.selectionModel.setSelectedObject(step.select ? annotation(step.select) : null)
    def lines = new Lines()
    def before = state()
    lines.onProgress = {
        if (step.then == 'delete')
            hierarchy.removeObject(annotation(step.annotation), true)
        if (step.then == 'reshape')
            annotation(step.annotation).setROI(annotation(step.annotation).ROI.translate(3, 4))
        if (step.then == 'interrupt')
            me.interrupt()
        if (step.then == 'kill')
            ProcessHandle.of(step.pid as long).get().with {
                destroyForcibly()
                onExit().get(30, TimeUnit.SECONDS)
            }
        before = state()
    }
    def failure = null
    try {
        def text = step.script == 'workflow' ? imageData.historyWorkflow.lastStep.script :
            new File(directory, "scripts/HER2-HE/$step.script").text
        new GroovyShell(getClass().classLoader, new Binding([args: step.args as String[], out: lines])).evaluate(text)
    } catch (Throwable problem) {
        failure = problem.message
    }
    boolean interrupted = Thread.interrupted()
    def published = { entry.metadataMap.keySet().findAll { it.startsWith('HER2-HE') } as List }
    def metadata = [published()]
    if (step.then == 'save')
        PathIO.writeImageData(new ByteArrayOutputStream(), imageData)
    metadata << published()
    replaced.each { file, bytes -> bytes == null ? file.delete() : file.setBytes(bytes) }
    [
        failure: failure, said: lines.said, unchanged: state() == before, interrupted: interrupted,
        metadata: metadata, happened: lines.onProgress == null,
        selected: hierarchy.selectionModel.selectedObjects.size(),
        scored: hierarchy.annotationObjects.findAll { it.pathClass.toString().contains('HER2-HE') }*.name,
        threads: Thread.allStackTraces.keySet()*.name.findAll { name ->
            ['herohe', 'iothread', 'reaper-'].any { name.startsWith(it) } }
    ]
}
new File(args[1]).setText(gson.toJson(answers), 'UTF-8')
