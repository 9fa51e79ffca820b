/*
 * What the HER2-HE scripts and a herohe-bridge server say to each other: the client's half of the messages that
 * bridge/protocol/codec.py describes, and nothing of QuPath, so that it can be tested without.
 *
 * Needs JeroMQ and Gson. Last tested with Groovy 4.0.15, 4.0.26 and 5.0.4, JeroMQ 0.6.0, Java 17 to 25.
 */
import com.google.gson.Gson
import com.google.gson.JsonParseException
import groovy.transform.CompileStatic
import org.zeromq.SocketType
import org.zeromq.ZContext
import org.zeromq.ZMQ
import org.zeromq.ZMQException
import org.zeromq.ZMsg

import javax.imageio.IIOImage
import javax.imageio.ImageIO
import javax.imageio.ImageWriteParam
import java.awt.image.BufferedImage
import java.awt.image.DataBufferByte
import java.lang.reflect.UndeclaredThrowableException
import java.nio.charset.StandardCharsets
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit

@CompileStatic
class HeroheClient {
    static final int PROTOCOL = 1

    // Limits of the protocol, see bridge/protocol/messages.py.
    static final int MAX_REGIONS_BYTES = 64 << 20
    private static final long MAX_MESSAGE_BYTES = 1L << 31

    private static final int POLL_MS = 20
    private static final int HANDSHAKE_MS = 2_000
    private static final int REPEAT_AFTER_MS = 10_000
    private static final int REPEATS = 3
    private static final int CANCEL_PATIENCE_MS = 5_000
    private static final Gson GSON = new Gson()

    private final String endpoint
    private final String token
    private final Map<String, String> curve
    private final Long pid
    private volatile boolean cancelled = false

    /** Something that went wrong, as a sentence that says what to do. */
    static class Failure extends RuntimeException {
        final String code

        Failure(String code, String problem, String remedy = '') {
            // Without a stack: QuPath prints it below the message, where it helps nobody.
            super(sentence(problem) + (remedy ? ' ' + sentence(remedy) : ''), null, false, false)
            this.code = code
        }

        private static String sentence(String text) {
            return text.endsWith('.') || text.endsWith('!') || text.endsWith('?') ? text : text + '.'
        }
    }

    /** Gives the pixels of boxes that the server asks for. */
    static interface Reader {
        /** One image a box, each of the box's out_width x out_height px. */
        BufferedImage read(Map<String, Number> box)
    }

    /** Is told about progress: of "waiting", "foreground" or "composites", how much of how much. */
    static interface Listener {
        void progress(String stage, int done, int total)
    }

    /** What a request was answered with. */
    static class Answer {
        final Map header
        final List<byte[]> frames

        Answer(Map header, List<byte[]> frames) {
            this.header = header
            this.frames = frames
        }
    }

    /**
     * @param endpoint such as tcp://127.0.0.1:5555
     * @param token from the discovery file; '' over CURVE
     * @param curve publicKey and secretKey of this client and serverKey, in Z85; null without CURVE
     * @param pid the server's process on this machine, null when it is elsewhere
     */
    HeroheClient(String endpoint, String token, Map<String, String> curve = null, Long pid = null) {
        this.endpoint = endpoint
        this.token = token
        this.curve = curve
        this.pid = pid
    }

    /** Stop what runs; may be called from any thread. */
    void cancel() {
        cancelled = true
    }

    boolean isCancelled() {
        return cancelled
    }

    /** Ask who the server is. */
    Map hello(String version, int timeoutMs = REPEAT_AFTER_MS) {
        def answer = ask([type: 'hello', client: 'qupath', version: version], [], null, null, timeoutMs)
        return expect(answer, 'info').header
    }

    /** Ask how busy the server is. */
    Map status() {
        return expect(ask([type: 'status']), 'info').header
    }

    /** Ask the server to end. */
    void stop(boolean finish) {
        expect(ask([type: 'stop', finish: finish]), 'result')
    }

    /** Have a slide scored: the whole of bridge.results.schema.SlideResult, also as text, and what is to be written. */
    Map<String, Object> scoreSlide(Map<String, Object> request, String regions, Reader reader, Listener listener) {
        def frame = regions.getBytes(StandardCharsets.UTF_8)
        if (frame.length > MAX_REGIONS_BYTES)
            throw new Failure('region', 'The annotations are too detailed to be sent',
                'Select fewer of them, or simplify their outlines')
        Map<String, Object> header = [type: (Object) 'score_slide']
        header.putAll(request)
        def answer = expect(ask(header, [frame], reader, listener), 'result')
        def slide = answer.header.get('slide')
        if (!(slide instanceof Map) || answer.frames.size() != 2)
            throw malformed('a result without its parts')
        Map<String, Object> found = [:]
        found.put('origin', slide)
        found.put('result', parse(answer.frames.get(0)))
        found.put('text', new String(answer.frames.get(0), StandardCharsets.UTF_8))
        found.put('markup', parse(answer.frames.get(1)))
        return found
    }

    /** Have composites scored; pixels are R, G, B in rows. Returns the frames of logits and contributions. */
    Answer scoreComposites(List<byte[]> pixels, int height, int width, String modelSha256 = null) {
        def composites = pixels.collect { [shape: [height, width, 3], dtype: 'uint8'] }
        Map<String, Object> header = [type: (Object) 'score_composites', composites: (Object) composites]
        if (modelSha256)
            header.put('model_sha256', modelSha256)
        return expect(ask(header, pixels), 'result')
    }

    /**
     * Send a request and wait for its answer, which may be of the type "error".
     *
     * The socket lives in a thread of its own, because an interruption, which is how QuPath stops a script,
     * would break it; here it only asks the server to cancel. Nothing of it is left when this returns.
     */
    Answer ask(Map<String, Object> request, List<byte[]> frames = [], Reader reader = null, Listener listener = null,
        int timeoutMs = 0) {
        def events = new LinkedBlockingQueue<Object>()
        def id = UUID.randomUUID().toString()
        Map<String, Object> header = [protocol: (Object) PROTOCOL, id: (Object) id]
        if (token)
            header.put('token', token)
        header.putAll(request)
        def talk = new Thread({ -> events.add(converse(header, frames, reader, events, timeoutMs)) },
            'herohe-bridge client')
        talk.daemon = true
        // When QuPath is closed, the server is told before the process ends.
        def atExit = new Thread({ -> cancelled = true; talk.join(CANCEL_PATIENCE_MS) }, 'herohe-bridge exit')
        try {
            Runtime.runtime.addShutdownHook(atExit)
        } catch (IllegalStateException ignored) {
            throw stopped()
        }
        talk.start()
        boolean interrupted = false, ended = false
        try {
            while (true) {
                try {
                    def event = interrupted ? poll(events) : events.take()
                    // The conversation's last word: its thread may still be closing the socket.
                    ended = event instanceof Answer || event instanceof Throwable
                    if (event instanceof Answer)
                        return (Answer) event
                    if (event instanceof Throwable)
                        throw (Throwable) event
                    if (event instanceof Object[] && listener != null && !interrupted) {
                        def step = (Object[]) event
                        listener.progress((String) step[0], (int) step[1], (int) step[2])
                    }
                } catch (InterruptedException ignored) {
                    interrupted = true
                    cancelled = true
                }
            }
        } finally {
            if (!ended)
                cancelled = true
            joinQuietly(talk)
            try {
                Runtime.runtime.removeShutdownHook(atExit)
            } catch (IllegalStateException ignored) {
                // The process is ending.
            }
            if (interrupted)
                Thread.currentThread().interrupt()
        }
    }

    private static Object poll(LinkedBlockingQueue<Object> events) {
        def event = events.poll(2 * CANCEL_PATIENCE_MS, TimeUnit.MILLISECONDS)
        return event == null ? stopped() : event
    }

    private static void joinQuietly(Thread talk) {
        boolean interrupted = false
        while (talk.alive) {
            try {
                // Longer than it needs by itself; then it hangs in an image reader.
                talk.join(3 * CANCEL_PATIENCE_MS)
                talk.interrupt()
                talk.join()
            } catch (InterruptedException ignored) {
                interrupted = true
            }
        }
        if (interrupted)
            Thread.currentThread().interrupt()
    }

    /** The conversation about one request: returns the answer, or what went wrong. */
    private Object converse(Map<String, Object> header, List<byte[]> frames, Reader reader, Queue<Object> events,
        int timeoutMs) {
        def context = new ZContext(1)
        try {
            def socket = open(context)
            def poller = context.createPoller(1)
            poller.register(socket, ZMQ.Poller.POLLIN)
            send(socket, header, frames)
            long heard = now(), lastSent = now(), checked = now(), cancelSent = 0
            int sent = 1
            while (true) {
                if (cancelled && cancelSent == 0) {
                    cancelSent = now()
                    send(socket, cancelOf(header), [])
                }
                if (cancelSent != 0 && now() - cancelSent > CANCEL_PATIENCE_MS)
                    return stopped()
                poller.poll(POLL_MS)
                boolean any = false
                while (true) {
                    def message = ZMsg.recvMsg(socket, false)
                    if (message == null)
                        break
                    any = true
                    def answer = received(message, header.get('id'))
                    if (answer == null)
                        continue
                    switch (answer.header.get('type')) {
                        case 'heartbeat':
                            break
                        case 'progress':
                            events.add([answer.header.get('stage'), whole(answer.header, 'done'),
                                whole(answer.header, 'total')] as Object[])
                            break
                        case 'read':
                            if (cancelSent == 0)
                                sendPixels(socket, answer.header, header, reader)
                            break
                        default:
                            return cancelled ? stopped() : answer
                    }
                }
                if (any) {
                    heard = now()
                    sent = 1
                    continue
                }
                if (timeoutMs > 0 && now() - heard > timeoutMs)
                    return silent()
                if (now() - heard > REPEAT_AFTER_MS && now() - lastSent > REPEAT_AFTER_MS) {
                    if (sent > REPEATS)
                        return silent()
                    send(socket, header, frames)
                    lastSent = now()
                    sent++
                }
                if (pid != null && now() - checked > 500) {
                    checked = now()
                    if (!ProcessHandle.of(pid).map { it.alive }.orElse(false))
                        return new Failure('server_unavailable',
                            'The model server ended while it worked; nothing was written',
                            'Run the script again, which starts a new one')
                }
            }
        } catch (Failure failure) {
            return failure
        } catch (ZMQException | IllegalArgumentException error) {
            return new Failure('server_unavailable',
                "The model server at ${endpoint} cannot be talked to (${error.message})".toString(),
                "Check its address and keys, and run 'herohe-bridge qupath status'")
        } catch (Throwable error) {
            return error
        } finally {
            context.close()
        }
    }

    private ZMQ.Socket open(ZContext context) {
        context.setLinger(CANCEL_PATIENCE_MS.intdiv(5))
        def socket = context.createSocket(SocketType.DEALER)
        socket.setMaxMsgSize(MAX_MESSAGE_BYTES)
        // JeroMQ's greeting gets stuck once in a while, and by default is only tried again after 30 s.
        socket.setHandshakeIvl(HANDSHAKE_MS)
        socket.setHeartbeatIvl(2_000)
        socket.setHeartbeatTimeout(10_000)
        if (curve != null) {
            socket.setCurvePublicKey(ZMQ.Curve.z85Decode(curve.get('publicKey')))
            socket.setCurveSecretKey(ZMQ.Curve.z85Decode(curve.get('secretKey')))
            socket.setCurveServerKey(ZMQ.Curve.z85Decode(curve.get('serverKey')))
        } else if (token) {
            socket.setPlainUsername('herohe')
            socket.setPlainPassword(token)
        }
        if (!socket.connect(endpoint))
            throw new Failure('server_unavailable', "${endpoint} is no address of a server".toString())
        return socket
    }

    private static void send(ZMQ.Socket socket, Map<String, Object> header, List<byte[]> frames) {
        def message = new ZMsg()
        message.add(new byte[0])
        message.add(GSON.toJson(header).getBytes(StandardCharsets.UTF_8))
        frames.each { message.add(it) }
        message.send(socket)
    }

    private Map<String, Object> cancelOf(Map<String, Object> header) {
        Map<String, Object> cancel = [protocol: (Object) PROTOCOL, id: (Object) UUID.randomUUID().toString(),
            type: (Object) 'cancel', request: header.get('id')]
        if (token)
            cancel.put('token', token)
        return cancel
    }

    /** Header and frames of a message about a request, null when it is about another. */
    private static Answer received(ZMsg message, Object id) {
        List<byte[]> parts = message.collect { it.data }
        if (parts.size() < 2 || parts.get(0).length != 0)
            throw malformed('a message without a header')
        def header = parse(parts.get(1))
        def protocol = header.get('protocol')
        if (protocol instanceof Number && ((Number) protocol).intValue() != PROTOCOL)
            throw mismatch(((Number) protocol).intValue())
        if (!(protocol instanceof Number) || !(header.get('type') instanceof String))
            throw malformed('a header without protocol and type')
        // What a server could not read has no id.
        def about = header.get('id')
        if (about != id && !(about == '' && header.get('type') == 'error'))
            return null
        return new Answer(header, parts.drop(2))
    }

    private void sendPixels(ZMQ.Socket socket, Map read, Map<String, Object> header, Reader reader) {
        def boxes = read.get('boxes')
        if (reader == null || !(boxes instanceof List))
            throw malformed('a request for pixels that cannot be answered')
        String encoding = read.get('encoding') ?: 'raw'
        List<Map> images = []
        List<byte[]> frames = []
        String problem = ''
        try {
            for (Object box : (List) boxes) {
                if (cancelled)
                    break
                def image = reader.read((Map<String, Number>) box)
                frames.add(encode(image, encoding))
                images.add([shape: [image.height, image.width, 3], encoding: encoding])
            }
        } catch (Exception error) {
            def cause = error instanceof UndeclaredThrowableException ? error.cause : error
            problem = cause.message ?: cause.class.simpleName
        }
        if (cancelled)
            return
        if (problem) {
            images.clear()
            frames.clear()
        }
        Map<String, Object> answer = [
            protocol: (Object) PROTOCOL, id: (Object) UUID.randomUUID().toString(), type: (Object) 'pixels',
            request: header.get('id'), read: whole(read, 'read'), images: (Object) images,
            problem: (Object) problem.take(1000)
        ]
        if (token)
            answer.put('token', token)
        send(socket, answer, frames)
    }

    /** An image's pixels as they travel: "raw" is R, G, B in rows. */
    static byte[] encode(BufferedImage image, String encoding) {
        def rgb = new BufferedImage(image.width, image.height, BufferedImage.TYPE_3BYTE_BGR)
        def graphics = rgb.createGraphics()
        graphics.drawImage(image, 0, 0, null)
        graphics.dispose()
        if (encoding == 'raw') {
            byte[] pixels = ((DataBufferByte) rgb.raster.dataBuffer).data.clone()
            for (int i = 0; i < pixels.length; i += 3) {
                byte blue = pixels[i]
                pixels[i] = pixels[i + 2]
                pixels[i + 2] = blue
            }
            return pixels
        }
        def out = new ByteArrayOutputStream(image.width * image.height)
        if (encoding == 'png') {
            ImageIO.write(rgb, 'png', out)
            return out.toByteArray()
        }
        if (encoding != 'jpeg')
            throw malformed("a request for pixels as ${encoding}")
        def writer = ImageIO.getImageWritersByFormatName('jpeg').next()
        try {
            def settings = writer.defaultWriteParam
            settings.compressionMode = ImageWriteParam.MODE_EXPLICIT
            settings.compressionQuality = 0.95f
            ImageIO.createImageOutputStream(out).withCloseable { stream ->
                writer.output = stream
                writer.write(null, new IIOImage(rgb, null, null), settings)
            }
        } finally {
            writer.dispose()
        }
        return out.toByteArray()
    }

    private static Answer expect(Answer answer, String type) {
        def header = answer.header
        if (header.get('type') == 'error')
            throw failure(header)
        if (header.get('type') != type)
            throw malformed("an answer of the type ${header.get('type')}")
        return answer
    }

    private static Failure failure(Map header) {
        def code = String.valueOf(header.get('code'))
        if (code == 'protocol_version')
            return new Failure(code, String.valueOf(header.get('problem')), String.valueOf(header.get('remedy') ?: ''))
        if (code == 'cancelled')
            return stopped()
        return new Failure(code, String.valueOf(header.get('problem')), String.valueOf(header.get('remedy') ?: ''))
    }

    static Failure stopped() {
        return new Failure('cancelled', 'Scoring was cancelled; nothing was written')
    }

    static Failure mismatch(int server) {
        def update = server > PROTOCOL ?
            "Update these scripts: run 'herohe-bridge qupath install'" :
            "Update herohe-bridge where the server runs, and restart it there with 'herohe-bridge stop' and 'serve'"
        return new Failure('protocol_version',
            "These scripts speak protocol ${PROTOCOL}, the model server protocol ${server}".toString(), update)
    }

    private Failure silent() {
        return new Failure('server_unavailable',
            "The model server at ${endpoint} does not answer; nothing was written".toString(), curve == null ?
            "Run 'herohe-bridge stop' and then the script again" : 'Ask whether it runs and knows your key; ' +
            "'herohe-bridge qupath status' shows which address and keys are used")
    }

    private static Failure malformed(Object what) {
        return new Failure('protocol', "The model server sent ${what}".toString(),
            "Restart it: run 'herohe-bridge stop' and then the script again")
    }

    private static int whole(Map header, String name) {
        def value = header.get(name)
        if (!(value instanceof Number))
            throw malformed("a message without ${name}")
        return ((Number) value).intValue()
    }

    private static Map parse(byte[] frame) {
        try {
            def found = GSON.fromJson(new String(frame, StandardCharsets.UTF_8), Object)
            if (found instanceof Map)
                return (Map) found
        } catch (JsonParseException ignored) {
            // Said below.
        }
        throw malformed('something that is no JSON object')
    }

    private static long now() {
        return System.nanoTime().intdiv(1_000_000L)
    }
}
