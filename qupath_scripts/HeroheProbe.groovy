/*
 * What 'herohe-bridge qupath' asks of an installed QuPath, as 'QuPath script HeroheProbe.groovy --args FILE'. The
 * file holds a request as JSON, and says where the answer goes.
 *
 * Last tested with QuPath 0.5.1, 0.6.0 and 0.7.0.
 */
import com.google.gson.Gson
import org.codehaus.groovy.control.CompilationUnit
import org.codehaus.groovy.control.Phases
import qupath.lib.common.GeneralTools
import qupath.lib.gui.UserDirectoryManager
import qupath.lib.gui.prefs.PathPrefs

import java.util.jar.JarEntry
import java.util.jar.JarOutputStream

def request = new Gson().fromJson(new File(args[0]).getText('UTF-8'), Map)
def property = PathPrefs.userPathProperty()

// What there was before anything is changed.
def before = property.get()
if (request.set_user_directory && before == null) {
    def directory = PathPrefs.getDefaultQuPathUserDirectory().toFile()
    directory.mkdirs()
    property.set(directory.path)
}
if (request.unset_user_directory && before == request.unset_user_directory)
    property.set(null)

if (request.jar) {
    // Compiled once, because it takes seconds each time that a script is run.
    def loader = new GroovyClassLoader(getClass().classLoader)
    request.classpath.each { loader.addClasspath(it) }
    def unit = new CompilationUnit(loader)
    request.sources.each { name, text -> unit.addSource(name, text) }
    // The phase after this one writes the classes into the current directory.
    unit.compile(Phases.CLASS_GENERATION)
    new JarOutputStream(new FileOutputStream(request.jar)).withCloseable { jar ->
        unit.classes.sort { it.name }.each {
            def entry = new JarEntry(it.name.replace('.', '/') + '.class')
            entry.time = 0
            jar.putNextEntry(entry)
            jar.write(it.bytes)
        }
        request.resources.each { name, text ->
            def entry = new JarEntry(name)
            entry.time = 0
            jar.putNextEntry(entry)
            jar.write(text.getBytes('UTF-8'))
        }
    }
}

new File(request.answer).setText(new Gson().toJson([
    version: GeneralTools.getVersion().toString(),
    user_directory_before: before,
    user_directory: UserDirectoryManager.getInstance().getUserPath()?.toString()
]), 'UTF-8')
