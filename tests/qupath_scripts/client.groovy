/*
 * Runs the scripts' own client part without QuPath, for tests: commands come as JSON, one a line, on the standard
 * input; answers go, one a line, to the standard output.
 */
import com.google.gson.Gson
import groovy.transform.CompileStatic

import java.awt.image.BufferedImage

def gson = new Gson()
def out = System.out
System.out = System.err

/** Pictures whose pixel at (x, y) of level 0 is R = x % 256, G = y % 256, B = 7, at any scale. */
@CompileStatic
class Gradient {
    static BufferedImage read(Map<String, Number> box) {
        int width = box.out_width.intValue(), height = box.out_height.intValue()
        double right = box.width.doubleValue() / width, down = box.height.doubleValue() / height
        def image = new BufferedImage(width, height, BufferedImage.TYPE_INT_RGB)
        for (int row = 0; row < height; row++) {
            for (int column = 0; column < width; column++) {
                int x = box.x.intValue() + (int) (column * right), y = box.y.intValue() + (int) (row * down)
                image.setRGB(column, row, ((x & 255) << 16) | ((y & 255) << 8) | 7)
            }
        }
        return image
    }
}

def bytes = { int seed, int length -> def data = new byte[length]; new Random(seed).nextBytes(data); data }
def base64 = { byte[] data -> data.encodeBase64().toString() }

def run = { command ->
    def client = new HeroheClient(command.endpoint, command.token ?: '', command.curve, command.pid as Long)
    switch (command.do) {
        case 'hellos':
            return (1..command.times).collect { client.hello('test').type }
        case 'hello':
            return client.hello('test', (command.timeout_ms ?: 10_000) as int)
        case 'status':
            return client.status()
        case 'stop':
            client.stop(command.finish as boolean)
            return 'stopped'
        case 'score_composites':
            int side = command.side
            def pixels = (0..<command.count).collect { bytes(it as int, 3 * side * side) }
            def answer = client.scoreComposites(pixels, side, side, command.model_sha256)
            return [header: answer.header, frames: answer.frames.collect(base64)]
        case 'score_slide':
            def progress = [], boxes = []
            def me = Thread.currentThread()
            def listener = { String stage, int done, int total ->
                progress << [stage, done, total]
                if (command.then == 'cancel')
                    client.cancel()
                if (command.then == 'interrupt')
                    me.interrupt()
                if (command.then == 'kill')
                    ProcessHandle.of(command.pid as long).get().destroyForcibly()
            }
            def reader = { box ->
                boxes << box
                if (command.broken_reader)
                    throw new IOException('the disk is gone')
                Gradient.read(box)
            }
            try {
                def found = client.scoreSlide(command.request, command.regions, reader, listener)
                return found + [progress: progress, reads: boxes.size()]
            } finally {
                if (command.then == 'interrupt' && !Thread.interrupted())
                    throw new IllegalStateException('the interruption was lost')
            }
        case 'connect':
            def notices = []
            def server = new HeroheServer(new File(command.home), { notices << it }, { false })
            try {
                def found = server.connect(command.model ?: '', { null })
                return [info: found.info, local: found.local, notices: notices]
            } catch (HeroheClient.Failure failure) {
                return [failure: failure.message, code: failure.code, notices: notices]
            }
        case 'encode':
            return base64(HeroheClient.encode(Gradient.read(command.box), command.encoding))
        case 'threads':
            return Thread.allStackTraces.keySet()*.name
    }
    throw new IllegalArgumentException(command.do)
}

System.in.eachLine('UTF-8') { line ->
    def answer
    try {
        answer = [ok: run(gson.fromJson(line, Map).with { Map command ->
            // Gson reads all numbers as double; what is whole shall be whole.
            whole(command)
        })]
    } catch (HeroheClient.Failure failure) {
        answer = [failure: failure.message, code: failure.code]
    } catch (Throwable problem) {
        problem.printStackTrace()
        answer = [unexpected: problem.toString()]
    }
    out.println(gson.toJson(answer))
    out.flush()
}

def whole(value) {
    if (value instanceof Map)
        return value.collectEntries { key, item -> [key, whole(item)] }
    if (value instanceof List)
        return value.collect { whole(it) }
    if (value instanceof Double && value == Math.rint(value))
        return value.longValue()
    return value
}
