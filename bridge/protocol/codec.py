"""The messages between clients and the model server, and nothing else: bytes in, typed messages out.

Every function here is pure; sockets are in :mod:`bridge.server.server` and :mod:`bridge.client.client`. A
client in another language is written against this text.

Wire format
-----------
The server's frontend is a ROUTER; a client is a DEALER, or a REQ for short questions. A message is::

    [empty frame] [header] [frame 1] ... [frame n]

The *empty delimiter* is the one that REQ sends by itself; a DEALER must send it first (ZeroMQ guide, "The
Simple Reply Envelope") and finds it in front of every reply. What stands before the first empty frame is a
return address: a ROUTER-DEALER proxy may stand between, up to 8 deep.

The *header* is one JSON object in UTF-8 of at most 1 MiB (limits stand in :mod:`bridge.protocol.messages`).
Fields of every request:

=============  =======  ==============================================================================
``protocol``   number   1, ``PROTOCOL``
``id``         string   1 to 64 of ``A-Z a-z 0-9 _ . : -``, chosen by the client, new for each request
``type``       string   see below
``token``      string   from the discovery file; not looked at over CURVE, where the key is the identity
``interim``    boolean  default true: ``heartbeat`` and ``progress`` may come before the answer. A REQ
                        client sends false
=============  =======  ==============================================================================

Unknown fields of a request are refused; unknown fields of a reply are to be ignored. Optional fields may be
left out or null where they are marked ``?``. Numbers in frames are little-endian, arrays in C order, pixels
R, G, B; shapes are ``[height, width, 3]``. The bytes of a frame are always exactly what the header says.

A request sent again with the same ``id`` is not done twice: it joins the one that is running, or gets the
kept answer. So a client that heard nothing simply repeats itself.

Requests
--------
``hello`` {``client``, ``version``}
    Who asks, such as "qupath", and its version of herohe-bridge. Answer: ``info``.
``score_composites`` {``composites``, ``model_sha256``?, ``deadline_s``?} + a frame a composite
    ``composites`` lists {``shape``, ``dtype``: "uint8"}, at most 16. ``model_sha256`` refuses any other
    model. Of a bag model, each is a column of patches as its encoder sees them.
    After ``deadline_s`` seconds, what has not begun is dropped. Answer: ``result`` with ``scores``.
``score_slide`` {``slide``, ``entry``, ``path``?, ``source``?, ``sample``, ``region_classes``,
``exclude_classes``, ``builder``?, ``options``, ``write``?, ``model_sha256``?} + one frame
    The frame is a GeoJSON FeatureCollection as QuPath exports it, in px of the image as QuPath shows it
    (for slides with bounds, QuPath's (0, 0) is the upper left of the bounds); it may be empty. ``builder``
    is QuPath's JSON of the image's server builder, which says how it is turned, mirrored and cut out.
    ``sample`` says where: "all" features of the frame but those of ``exclude_classes``, those of the
    "classes" ``region_classes``, or the whole "slide". ``path`` is tried first; when the server cannot open
    it, or finds another image than the client's there, it asks for the pixels by ``read``, if there is a
    ``source`` {``name``, ``width``, ``height``,
    ``mpp``?, ``level_downsamples``, ``background``, ``origin_x``, ``origin_y``, ``fingerprint``,
    ``encoding``}, where the origin is the place of the image's (0, 0) on the slide, if the client knows.
    ``options`` are the fields of :class:`bridge.scoring.options.ScoreOptions`. Answer: ``result`` with
    ``slide`` and a frame with :class:`bridge.results.schema.SlideResult` as JSON; with ``write`` (fields of
    :class:`bridge.scoring.options.WriteOptions`), which needs a ``source``, a second one with what a script
    has to write into QuPath (:mod:`bridge.writing.for_script`).
``pixels`` {``request``, ``read``, ``images``, ``problem``} + a frame an image
    The client's answer to a ``read``: the ``id`` of the ``score_slide``, the number of the read, and for
    each box in its order {``shape``, ``encoding``: "raw", "png" or "jpeg"}; or no image and a ``problem``
    in words. There is no answer; an ``error`` if it fits nothing.
``cancel`` {``request``}
    Stop the request of that ``id``, which is answered by ``error`` "cancelled". Answer: ``result``.
``status`` {}
    Answer: ``info``.
``model_file`` {}
    The file of a bag model, from which a client that reads slides itself takes the head. Answer: ``result``
    with ``file``, and a frame of its bytes.
``stop`` {``finish``}
    End the server, after the running work with ``finish``. Answer: ``result``.

Replies
-------
All have ``protocol``, ``type`` and the ``id`` of the request they belong to.

``info``
    The server, its model and its load; see :class:`bridge.protocol.messages.Info`.
``heartbeat`` {}
    The request is known and not forgotten; about one a second while it is worked on. A client that hears
    nothing of a request for ten seconds repeats it.
``progress`` {``stage``, ``done``, ``total``}
    Of a ``score_slide``, at least twice a second; ``stage`` is "waiting", "foreground",
    "composites" or, of a bag model, "patches".
``read`` {``read``, ``boxes``, ``encoding``}
    The server needs pixels. Each box {``x``, ``y``, ``width``, ``height``, ``out_width``, ``out_height``}
    is in level-0 px of the client's image, inside it, and wanted scaled to ``out_width`` x ``out_height``:
    one of the image's levels, where the client named them. ``encoding`` is what the client offered.
``result`` {``scores``?, ``slide``?} + frames
    ``scores`` {``composites``, ``cells``, ``bits``, ``members``?}: a frame of logits, float32 (composites,
    bits), one of contributions, float32 (composites, cells, bits), highest step first, and of an ensemble,
    whose ``members`` are more than 1, one of its members' logits (composites, members, bits). Of a bag model,
    ``cells`` are the column's patches, the contributions their features, and the logits 0. ``slide``
    {``origin_x``,
    ``origin_y``}: a frame of JSON, or two; coordinates of the first are level-0 px of the slide, and those
    minus the origin are QuPath's. An acknowledgement has neither.
``error`` {``code``, ``problem``, ``remedy``}
    ``code`` is one of :mod:`bridge.protocol.errors`, and stable; the others are sentences without their full
    stop, ``remedy`` possibly empty.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec
import numpy as np

from bridge.protocol.messages import (
    MAX_HEADER_BYTES,
    MAX_HOPS,
    MAX_READ_BYTES,
    MAX_REGIONS_BYTES,
    PROTOCOL,
    ErrorReply,
    Id,
    Pixels,
    Reply,
    Request,
    Result,
    ScoreComposites,
    ScoreSlide,
)
from herohe_model.errors import (
    HeroheError,
    ProtocolError,
)
from herohe_model.model.score import CompositeScore


class Refusal(ProtocolError):
    """A message that the server does not act upon.

    Attributes
    ----------
    reply
        What to answer.
    """

    def __init__(self, code: str, problem: str, remedy: str = "", *, id: str = "") -> None:
        super().__init__(problem, remedy)
        self.reply = ErrorReply(id=id, code=code, problem=problem, remedy=remedy)


class _Prefix(msgspec.Struct):
    """What is read of a header before anything else is believed."""

    protocol: int = 0
    id: str = ""
    token: str = ""


_PREFIX: Final = msgspec.json.Decoder(_Prefix)
_REQUEST: Final = msgspec.json.Decoder(Request)
_REPLY: Final = msgspec.json.Decoder(Reply)
_ID: Final = msgspec.json.Decoder(Id)
_ENCODER: Final = msgspec.json.Encoder()

Frame = TypeVar("Frame")


def new_id() -> str:
    """Return an id for a request."""
    return secrets.token_hex(16)


def encode(message: msgspec.Struct) -> bytes:
    """Return the header of a message.

    Raises
    ------
    ProtocolError
        If it is too long.
    """
    header = _ENCODER.encode(message)
    if len(header) > MAX_HEADER_BYTES:
        raise ProtocolError(f"A header of {len(header)} bytes is over the limit of {MAX_HEADER_BYTES}")
    return header


def split_envelope(parts: Sequence[Frame]) -> tuple[list[Frame], list[Frame]]:
    """Split what a ROUTER received into the return address with its empty delimiter, and the message.

    Raises
    ------
    Refusal
        If there is no delimiter where one must be.
    """
    for number, part in enumerate(parts[: MAX_HOPS + 1]):
        if number and _size(part) == 0:
            return list(parts[: number + 1]), list(parts[number + 1 :])
    raise Refusal("malformed", "The message does not begin with an empty frame", "Send one before the header")


def decode_request(body: Sequence[Frame], *, token: str | None) -> tuple[Request, list[Frame]]:
    """Check and decode a client's message.

    Parameters
    ----------
    body
        Header and frames, any buffers.
    token
        What the request must carry; None where the connection itself is authenticated.

    Returns
    -------
    tuple
        The request, and its frames, of exactly the sizes that it promises.

    Raises
    ------
    Refusal
        With the reply to send.
    """
    header = _header(body)
    try:
        prefix = _PREFIX.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal("malformed", f"The header cannot be read: {error}", _SEE) from error
    id = _plain_id(prefix.id)
    if prefix.protocol != PROTOCOL:
        raise Refusal("protocol_version", *version_mismatch(prefix.protocol), id=id)
    if token is not None and not hmac.compare_digest(prefix.token.encode(), token.encode()):
        raise Refusal("unauthorized", "The token is not this server's", _READ_DISCOVERY, id=id)
    try:
        request = _REQUEST.decode(header)
        frames = _checked_frames(body[1:], _request_sizes(request))
    except HeroheError as error:
        # A wrong option or frame: it has its own sentence.
        code = error.reply.code if isinstance(error, Refusal) else error.code
        raise Refusal(code, error.problem, error.remedy, id=id) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal("malformed", f"The header is not valid: {error}", _SEE, id=id) from error
    return request, frames


def decode_reply(body: Sequence[Frame]) -> tuple[Reply, list[Frame]]:
    """Check and decode a server's message.

    Raises
    ------
    ProtocolError
        If it is none.
    """
    header = _header(body)
    try:
        reply = _REPLY.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        try:
            protocol = _PREFIX.decode(header).protocol
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            protocol = PROTOCOL
        if protocol != PROTOCOL:
            raise ProtocolError(*version_mismatch(PROTOCOL, server=protocol)) from error
        raise ProtocolError(f"The server's reply is not valid: {error}", "Restart the server") from error
    if isinstance(reply, Result) and reply.slide is not None:
        if len(body) not in (2, 3):
            problem = f"A slide's result has 1 or 2 frames, not {len(body) - 1}"
            raise ProtocolError(problem, "Restart the server")
        return reply, list(body[1:])
    return reply, _checked_frames(body[1:], _result_sizes(reply))


def version_mismatch(client: int, *, server: int = PROTOCOL) -> tuple[str, str]:
    """Return problem and remedy for two protocols that differ."""
    older = "the client (in QuPath: herohe-bridge qupath install)" if client < server else "the server"
    return (
        f"The client speaks protocol {client}, the server protocol {server}",
        f"Update {older}, and restart it",
    )


_SEE: Final = "See bridge/protocol/codec.py for the messages"
_READ_DISCOVERY: Final = "Read the discovery file again: the server may have been restarted"


def _header(body: Sequence[object]) -> bytes:
    if not body:
        raise Refusal("malformed", "The message has no header", _SEE)
    if _size(body[0]) > MAX_HEADER_BYTES:
        raise Refusal("malformed", f"The header is over {MAX_HEADER_BYTES} bytes", _SEE)
    return bytes(memoryview(body[0]))  # type: ignore[arg-type]  # whatever ZeroMQ gives is a buffer


def _size(part: object) -> int:
    return memoryview(part).nbytes  # type: ignore[arg-type]  # whatever ZeroMQ gives is a buffer


def _plain_id(id: str) -> str:
    """Return the id if it may be repeated in an answer, else ""."""
    try:
        return _ID.decode(_ENCODER.encode(id))
    except (msgspec.DecodeError, UnicodeError):
        return ""


def _request_sizes(request: Request) -> list[tuple[int, int]]:
    """Return the fewest and most bytes of each frame that must follow."""
    if isinstance(request, ScoreComposites):
        sizes = [_bytes(a.shape) for a in request.composites]
        return [(size, size) for size in sizes]
    if isinstance(request, ScoreSlide):
        return [(0, MAX_REGIONS_BYTES)]
    if isinstance(request, Pixels):
        raw = [_bytes(image.shape) for image in request.images]
        if sum(raw) > MAX_READ_BYTES:
            raise Refusal("malformed", f"{sum(raw)} bytes of pixels are more than {MAX_READ_BYTES}", _SEE)
        # A PNG of noise is a little larger than its pixels.
        return [
            (size, size) if image.encoding == "raw" else (1, size + size // 8 + 65536)
            for size, image in zip(raw, request.images, strict=True)
        ]
    return []


def _result_sizes(reply: Reply) -> list[tuple[int, int]]:
    if isinstance(reply, Result) and reply.file:
        return [(reply.file, reply.file)]
    if isinstance(reply, Result) and reply.scores is not None:
        s = reply.scores
        sizes = [4 * s.composites * s.bits, 4 * s.composites * s.cells * s.bits]
        sizes += [4 * s.composites * s.members * s.bits] if s.members > 1 else []
        return [(size, size) for size in sizes]
    return []


def _bytes(shape: tuple[int, int, int]) -> int:
    return shape[0] * shape[1] * shape[2]


def _checked_frames(frames: Sequence[Frame], sizes: Sequence[tuple[int, int]]) -> list[Frame]:
    if len(frames) != len(sizes):
        raise Refusal("malformed", f"{len(frames)} frames follow the header instead of {len(sizes)}", _SEE)
    for number, (frame, (least, most)) in enumerate(zip(frames, sizes, strict=True), 1):
        found = _size(frame)
        if not least <= found <= most:
            wanted = f"{least}" if least == most else f"{least} to {most}"
            raise Refusal("malformed", f"Frame {number} has {found} bytes instead of {wanted}", _SEE)
    return list(frames)


def score_from(frames: Sequence[bytes], cells: int, bits: int) -> CompositeScore:
    """Return the score of one composite from its two frames, or three of an ensemble."""
    logits, contributions, *members = frames
    return CompositeScore(
        np.frombuffer(logits, "<f4", bits).astype(np.float32),
        np.frombuffer(contributions, "<f4", cells * bits).reshape(cells, bits).astype(np.float32),
        np.frombuffer(members[0], "<f4").reshape(-1, bits).astype(np.float32) if members else None,
    )


def score_frames(score: CompositeScore) -> list[bytes]:
    """Return the frames of one composite's score, as :func:`score_from` takes them."""
    arrays = [score.logits, score.contributions]
    arrays += [] if score.members is None else [score.members]
    return [np.ascontiguousarray(array, "<f4").tobytes() for array in arrays]
