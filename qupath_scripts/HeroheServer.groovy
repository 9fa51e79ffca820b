/*
 * Finds the model server that the HER2-HE scripts talk to, and starts one when there is none. Knows nothing of
 * QuPath, so that it can be tested without.
 *
 * Where herohe-bridge and the model are stands in settings.json beside this file, which
 * 'herohe-bridge qupath install' wrote. Last tested with Groovy 4.0.15, 4.0.26 and 5.0.4, Java 17 to 25.
 */
import com.google.gson.Gson
import com.google.gson.JsonParseException
import groovy.transform.CompileStatic

import java.nio.channels.FileLock
import java.nio.channels.OverlappingFileLockException
import java.nio.file.FileSystems
import java.nio.file.Files
import java.nio.file.attribute.FileAttribute
import java.nio.file.attribute.PosixFilePermissions
import java.security.MessageDigest
import java.util.concurrent.TimeUnit
import java.util.function.BooleanSupplier
import java.util.function.Consumer
import java.util.function.Supplier

@CompileStatic
class HeroheServer {
    static final String SETTINGS = 'settings.json'
    static final String CHOSEN_MODEL = 'chosen-model.txt'
    static final String LOG = 'server.log'
    // As herohe_model/engines/choice.py says it.
    private static final String MEASURING = 'Measuring once'

    private static final int FORMAT = 1
    private static final int START_PATIENCE_S = 900
    private static final int HELLO_PATIENCE_MS = 10_000
    private static final double SAME_PROCESS_S = 60
    private static final double TICKS_PER_S = 100
    private static final String INSTALL = "Run 'herohe-bridge qupath install' in a terminal"

    private final File home
    final Map<String, Object> settings
    private final Consumer<String> notice
    private final BooleanSupplier cancelled

    /** A server that answered, and what it said. */
    static class Found {
        final HeroheClient client
        final Map info
        final boolean local

        Found(HeroheClient client, Map info, boolean local) {
            this.client = client
            this.info = info
            this.local = local
        }
    }

    /**
     * @param home the folder of settings.json
     * @param notice is told in words what is being waited for
     * @param cancelled whether to stop waiting
     */
    HeroheServer(File home, Consumer<String> notice, BooleanSupplier cancelled) {
        this.home = home
        this.notice = notice
        this.cancelled = cancelled
        this.settings = readSettings(new File(home, SETTINGS))
    }

    /**
     * Connect to the remote server of the settings, to a running one that has the model, or to a new one.
     *
     * @param model path of a model file, '' for the one chosen at installation
     * @param chooser asks the user for a model file; returns null when there is none
     */
    Found connect(String model, Supplier<File> chooser) {
        def remote = settings.get('remote')
        if (remote instanceof Map)
            return greet(remoteClient((Map) remote), false)
        def wanted = modelFile(model, chooser)
        def sha256 = sha256(wanted)
        return running(sha256) ?: startOnce(wanted, sha256)
    }

    /** The model file that was chosen at installation, '' when none was. */
    String getUsualModel() {
        def chosen = new File(home, CHOSEN_MODEL)
        return String.valueOf(settings.get('model') ?: (chosen.file ? chosen.getText('UTF-8').trim() : ''))
    }

    /** The servers of this machine that run and are not some command's own. */
    List<HeroheClient> clients() {
        def shared = records().findAll { it.get('owned') != true && number(it, 'protocol') == HeroheClient.PROTOCOL }
        return shared.collect { localClient(it) }.findAll { it != null }
    }

    private Found greet(HeroheClient client, boolean local) {
        def version = String.valueOf(settings.get('version'))
        def info = client.hello(version, local ? HELLO_PATIENCE_MS : 2 * HELLO_PATIENCE_MS)
        def theirs = String.valueOf(info.get('version'))
        if (theirs != version)
            notice.accept("The model server is herohe-bridge ${theirs}, these scripts are of ${version}: ".toString() +
                (isOlder(version, theirs) ? "update the scripts by 'herohe-bridge qupath install'." :
                    "update herohe-bridge where the server runs."))
        return new Found(client, info, local)
    }

    private static HeroheClient remoteClient(Map remote) {
        def file = new File(String.valueOf(remote.get('client_key_file')))
        def keys = file.file ? file.getText('UTF-8') : ''
        def publicKey = (keys =~ /public-key\s*=\s*"([^"]{40})"/)
        def secretKey = (keys =~ /secret-key\s*=\s*"([^"]{40})"/)
        if (!publicKey.find() || !secretKey.find())
            throw new HeroheClient.Failure('option', "The key file ${file} is not there or holds no keys".toString(),
                "Make keys by 'herohe-bridge keys new', and run 'herohe-bridge qupath install' again")
        Map<String, String> curve = [publicKey: publicKey.group(1), secretKey: secretKey.group(1),
            serverKey: String.valueOf(remote.get('server_key'))]
        return new HeroheClient(String.valueOf(remote.get('endpoint')), '', curve)
    }

    private File modelFile(String model, Supplier<File> chooser) {
        def path = model ?: usualModel
        File file = path ? new File(path) : chooser.get()
        if (file == null)
            throw new HeroheClient.Failure('model_file', 'No model was chosen',
                "Choose one by 'herohe-bridge qupath install --model FILE'")
        if (!file.file)
            throw new HeroheClient.Failure('model_file', "The model file ${file} is not there".toString(),
                "Put it back, or choose another by 'herohe-bridge qupath install --model FILE'")
        if (!path)
            new File(home, CHOSEN_MODEL).setText(file.absolutePath, 'UTF-8')
        return file
    }

    /** A running server with the model, null when there is none. */
    private Found running(String sha256) {
        HeroheClient.Failure other = null
        for (Map record : records()) {
            if (record.get('model_sha256') != sha256 || record.get('owned') == true)
                continue
            if (number(record, 'protocol') != HeroheClient.PROTOCOL) {
                other = HeroheClient.mismatch((int) number(record, 'protocol'))
                continue
            }
            try {
                def client = localClient(record)
                if (client != null)
                    return greet(client, true)
            } catch (HeroheClient.Failure failure) {
                if (failure.code != 'server_unavailable')
                    throw failure
            }
        }
        if (other != null && !command())
            throw other
        return null
    }

    /** One starts while the others wait, or two windows would load the model twice. */
    private Found startOnce(File model, String sha256) {
        new RandomAccessFile(new File(madeRuntimeDirectory(), 'starting.lock'), 'rw').withCloseable { file ->
            FileLock lock = null
            long until = System.nanoTime() + TimeUnit.SECONDS.toNanos(START_PATIENCE_S)
            while (lock == null && System.nanoTime() < until) {
                try {
                    lock = file.channel.tryLock()
                } catch (OverlappingFileLockException ignored) {
                    // Another script of this QuPath starts one.
                }
                if (lock == null) {
                    notice.accept('Waiting for a model server that is being started ...')
                    pause()
                }
            }
            return running(sha256) ?: start(model)
        }
    }

    private Found start(File model) {
        def command = command()
        if (!command)
            throw new HeroheClient.Failure('server_unavailable',
                'No model server runs, and these scripts do not know where herohe-bridge is', INSTALL)
        def log = new File(home, LOG)
        notice.accept('Starting a model server, which loads the model: up to a minute ...')
        def idle = String.valueOf((long) number(settings, 'idle_timeout_s'))
        def builder = new ProcessBuilder(command + ['serve', '--model', model.absolutePath, '--idle-timeout', idle])
        builder.directory(home)
        builder.redirectInput(ProcessBuilder.Redirect.PIPE)
        builder.redirectErrorStream(true)
        builder.redirectOutput(log)
        builder.environment().put('HEROHE_RUNTIME_DIR', madeRuntimeDirectory().path)
        Process process
        try {
            process = builder.start()
        } catch (IOException error) {
            throw new HeroheClient.Failure('server_unavailable',
                "herohe-bridge cannot be started from ${command.get(0)} (${error.message})".toString(),
                "$INSTALL, with the Python it is installed in".toString())
        }
        boolean ready = false
        try {
            process.outputStream.close()
            def found = awaitStart(process, log)
            ready = true
            return found
        } finally {
            if (!ready) {
                process.descendants().forEach { it.destroy() }
                process.destroy()
            }
        }
    }

    private Found awaitStart(Process process, File log) {
        long until = System.nanoTime() + TimeUnit.SECONDS.toNanos(START_PATIENCE_S)
        while (System.nanoTime() < until) {
            // On Windows a virtual environment's python.exe starts another one.
            def pids = [process.pid()] + process.descendants().map { it.pid() }.toList()
            def record = records().find { pids.contains((long) number((Map) it, 'pid')) }
            def client = record == null ? null : localClient((Map) record)
            if (client != null)
                return greet(client, true)
            if (log.file && log.readLines('UTF-8').any { it.contains(MEASURING) })
                notice.accept('The model server measures, this once, how it scores fastest here: some minutes ...')
            if (!process.alive)
                throw new HeroheClient.Failure('server_unavailable',
                    "The model server did not start: ${lastWords(log)}".toString(),
                    "'herohe-bridge doctor' says what is wrong; the whole story is in ${log}".toString())
            pause()
        }
        throw new HeroheClient.Failure('server_unavailable',
            "The model server did not answer within ${START_PATIENCE_S} s".toString(), "Look into ${log}".toString())
    }

    private static String lastWords(File log) {
        def lines = log.file ? log.readLines('UTF-8')*.trim().findAll { it } : []
        def error = lines.reverse().find { it.startsWith('Error: ') }
        return error ? error.substring('Error: '.length()) : lines ? lines.last() : 'it said nothing'
    }

    private HeroheClient localClient(Map record) {
        def endpoints = record.get('endpoints')
        // Unix sockets of libzmq and JeroMQ do not understand each other.
        def endpoint = endpoints instanceof List ? ((List) endpoints).find { String.valueOf(it).startsWith('tcp://') } :
            null
        return endpoint == null ? null :
            new HeroheClient(
            String.valueOf(endpoint), String.valueOf(record.get('token')), null, (long) number(record, 'pid'))
    }

    /** What the running servers wrote about themselves. */
    private List<Map> records() {
        def files = runtimeDirectory().listFiles(
            { File folder, String name -> name.startsWith('server-') && name.endsWith('.json') } as FilenameFilter)
        List<Map> found = []
        for (File file : files?.toList()?.sort() ?: []) {
            try {
                def record = new Gson().fromJson(file.getText('UTF-8'), Map)
                if (record != null && isAlive(record))
                    found.add(record)
            } catch (IOException | JsonParseException | HeroheClient.Failure ignored) {
                // It vanished, or is another version's.
            }
        }
        return found
    }

    private static boolean isAlive(Map record) {
        long pid = (long) number(record, 'pid')
        def process = ProcessHandle.of(pid).orElse(null)
        if (process == null || !process.alive)
            return false
        def stat = new File("/proc/${pid}/stat".toString())
        if (stat.file) {
            // On Linux 'started' is in s since the system's start, which a step of the clock does not change.
            def text = stat.getText('ISO-8859-1')
            def ticks = text.substring(text.lastIndexOf(')') + 2).split(' ')[19].toLong()
            return Math.abs(ticks / TICKS_PER_S - number(record, 'started')) < 1
        }
        def started = process.info().startInstant().orElse(null)
        return started == null ||
            Math.abs(started.toEpochMilli() / 1000.0d - number(record, 'started')) < SAME_PROCESS_S
    }

    /** Where servers are found: the directory of the settings, or what Python takes when that cannot be made. */
    private File runtimeDirectory() {
        def named = new File(String.valueOf(settings.get('runtime_directory')))
        return named.directory || canBeMade(named) ? named : (fallback() ?: named)
    }

    /** The same, made for this user alone where it is not there. */
    private File madeRuntimeDirectory() {
        def directory = runtimeDirectory()
        try {
            if (!directory.directory)
                Files.createDirectories(directory.toPath(), (isPosix() ?
                    [PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString('rwx------'))] :
                    []) as FileAttribute[])
        } catch (IOException error) {
            throw new HeroheClient.Failure('server_unavailable',
                "The runtime directory ${directory} cannot be made (${error.message})".toString(),
                'Set HEROHE_RUNTIME_DIR to a directory of your own, and run herohe-bridge qupath install again')
        }
        return directory
    }

    /** Linux removes /run/user/... when its user logs out, and only the system can make it again. */
    private static boolean canBeMade(File directory) {
        def parent = directory.parentFile
        while (parent != null && !parent.exists())
            parent = parent.parentFile
        return parent == null || Files.isWritable(parent.toPath())
    }

    private static File fallback() {
        if (!isPosix())
            return null
        def uid = Files.getAttribute(new File(System.getProperty('user.home')).toPath(), 'unix:uid')
        return new File(System.getProperty('java.io.tmpdir'), "runtime-${uid}/herohe-bridge".toString())
    }

    private static boolean isPosix() {
        return FileSystems.default.supportedFileAttributeViews().contains('unix')
    }

    private List<String> command() {
        def command = settings.get('command')
        return command instanceof List ? ((List) command).collect { String.valueOf(it) } : []
    }

    private void pause() {
        if (cancelled.asBoolean)
            throw HeroheClient.stopped()
        try {
            Thread.sleep(100)
        } catch (InterruptedException ignored) {
            Thread.currentThread().interrupt()
            throw HeroheClient.stopped()
        }
    }

    private static Map<String, Object> readSettings(File file) {
        try {
            def found = new Gson().fromJson(file.getText('UTF-8'), Map)
            if (found != null && number(found, 'format') == FORMAT)
                return (Map<String, Object>) found
        } catch (IOException | JsonParseException ignored) {
            // Said below.
        }
        throw new HeroheClient.Failure('option', "The settings ${file} are not there, or of another version".toString(),
            INSTALL)
    }

    private static double number(Map map, String name) {
        def value = map.get(name)
        if (!(value instanceof Number))
            throw new HeroheClient.Failure('option', "There is no number ${name} in ${map.keySet()}".toString(),
                INSTALL)
        return ((Number) value).doubleValue()
    }

    /** Compares versions such as 0.10.1 by their numbers. */
    static boolean isOlder(String version, String than) {
        def ours = numbers(version), theirs = numbers(than)
        for (int i = 0; i < Math.max(ours.size(), theirs.size()); i++) {
            int a = i < ours.size() ? ours[i] : 0, b = i < theirs.size() ? theirs[i] : 0
            if (a != b)
                return a < b
        }
        return false
    }

    private static List<Integer> numbers(String version) {
        return version.findAll(/\d+/).collect { it.toInteger() }
    }

    private static String sha256(File file) {
        def digest = MessageDigest.getInstance('SHA-256')
        Files.newInputStream(file.toPath()).withCloseable { stream ->
            def buffer = new byte[1 << 20]
            int read
            while ((read = stream.read(buffer)) > 0)
                digest.update(buffer, 0, read)
        }
        return digest.digest().encodeHex().toString()
    }
}
