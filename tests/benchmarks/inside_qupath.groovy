/*
 * Runs the installed herohe_score.groovy on the image that QuPath has open, for each line of arguments (a list as
 * JSON) on the standard input, saves, and prints the seconds that it took.
 */
import com.google.gson.Gson
import qupath.lib.gui.UserDirectoryManager

def gson = new Gson()
def file = new File(UserDirectoryManager.instance.userPath.toFile(), 'scripts/HER2-HE/herohe_score.groovy')
def imageData = getCurrentImageData()
def said = []

System.in.eachLine('UTF-8') { line ->
    def arguments = gson.fromJson(line, List)
    def answer = [:]
    try {
        long began = System.nanoTime()
        new GroovyShell(getClass().classLoader, new Binding([args: arguments as String[], out: said])).evaluate(file)
        getProjectEntry().saveImageData(imageData)
        getProject().syncChanges()
        answer.seconds = (System.nanoTime() - began) / 1e9d
        answer.patches = imageData.hierarchy.detectionObjects.collect { [it.ROI.boundsX, it.ROI.boundsY] }.sort()
        answer.probabilities = imageData.hierarchy.annotationObjects[0].measurements
            .findAll { it.key.startsWith('HER2-HE: P(') }.values().toList()
    } catch (Throwable problem) {
        answer.problem = problem.toString()
    }
    System.out.println('ANSWER ' + gson.toJson(answer))
    System.out.flush()
}
