from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest

from bridge.protocol.codec import (
    Refusal,
    decode_reply,
    decode_request,
    encode,
    split_envelope,
)
from bridge.protocol.errors import error_from
from bridge.protocol.messages import (
    MAX_HEADER_BYTES,
    MAX_HOPS,
    PROTOCOL,
    ArrayHeader,
    Cancel,
    ErrorReply,
    Heartbeat,
    Hello,
    ImageHeader,
    Pixels,
    PixelSource,
    ProgressReply,
    Read,
    ReadBox,
    Reply,
    Request,
    Result,
    ScoreComposites,
    Scores,
    ScoreSlide,
    SlideOrigin,
    StatusRequest,
    Stop,
)
from bridge.scoring.options import ScoreOptions, WriteOptions
from herohe_model.errors import (
    CancelledError,
    DeviceError,
    ProtocolError,
    RemoteError,
    ServerBusyError,
    ServerUnavailableError,
    SlideNotFoundError,
    WorkerDiedError,
)

TOKEN = "the token"
SOURCE = PixelSource(name="kidney.ome", width=2000, height=1000, mpp=0.25, level_downsamples=(1.0, 4.0))
SMALL = ArrayHeader((2, 3, 3))

REQUESTS: list[tuple[Request, list[bytes]]] = [
    (Hello(id="1", client="qupath", version="0.1.0"), []),
    (ScoreComposites(id="2", composites=(SMALL, SMALL), deadline_s=3.5), [bytes(18), bytes(18)]),
    (ScoreComposites(id="3", composites=(ArrayHeader((2, 2, 3)), SMALL)), [bytes(12), bytes(18)]),
    (ScoreSlide(id="4", slide="a b", path="/slides/ä b.svs", options=ScoreOptions(seed=7)), [b"{}"]),
    (ScoreSlide(id="5", slide="s", source=SOURCE, sample="slide", write=WriteOptions()), [b""]),
    (Pixels(id="6", request="5", read=1, images=(ImageHeader((2, 2, 3)),)), [bytes(12)]),
    (Pixels(id="7", request="5", read=1, images=(ImageHeader((9, 9, 3), "jpeg"),)), [b"\xff\xd8"]),
    (Pixels(id="8", request="5", read=2, problem="the disk is gone"), []),
    (Cancel(id="9", request="4"), []),
    (StatusRequest(id="10"), []),
    (Stop(id="11", finish=True), []),
]

REPLIES: list[tuple[Reply, list[bytes]]] = [
    (Heartbeat(id="1"), []),
    (ProgressReply(id="1", stage="composites", done=3, total=8), []),
    (Read(id="1", read=4, boxes=(ReadBox(0, 0, 8, 8, 4, 4),), encoding="jpeg"), []),
    (Result(id="1", scores=Scores(2, 25, 3)), [bytes(24), bytes(600)]),
    (Result(id="1", slide=SlideOrigin(5, 6)), [b"{}"]),
    (Result(id="1", slide=SlideOrigin(5, 6)), [b"{}", b"{}"]),
    (Result(id="1"), []),
    (ErrorReply(id="1", code="busy", problem="Too much", remedy="Wait"), []),
]


def header(**fields: Any) -> bytes:
    return json.dumps({"protocol": PROTOCOL, "id": "x", "type": "hello", "token": TOKEN, **fields}).encode()


def refused(*body: bytes, token: str | None = TOKEN) -> ErrorReply:
    with pytest.raises(Refusal) as caught:
        decode_request(body, token=token)
    return caught.value.reply


@pytest.mark.parametrize(("request_", "frames"), REQUESTS, ids=lambda v: getattr(v, "id", ""))
def test_every_request_arrives_as_it_was_sent(request_: Request, frames: list[bytes]) -> None:
    sent = msgspec.structs.replace(request_, token=TOKEN)
    assert decode_request([encode(sent), *frames], token=TOKEN) == (sent, frames)


@pytest.mark.parametrize(("reply", "frames"), REPLIES)
def test_every_reply_arrives_as_it_was_sent(reply: Reply, frames: list[bytes]) -> None:
    assert decode_reply([encode(reply), *frames]) == (reply, frames)


@pytest.mark.parametrize(("request_", "frames"), REQUESTS, ids=lambda v: getattr(v, "id", ""))
def test_a_frame_too_many_is_refused(request_: Request, frames: list[bytes]) -> None:
    reply = refused(encode(request_), *frames, b"more", token=None)
    assert reply.code == "malformed"
    assert "frames follow the header" in reply.problem


def test_frames_have_exactly_the_size_that_the_header_says() -> None:
    request = encode(ScoreComposites(id="a", composites=(SMALL,)))
    for size in (0, 17, 19):
        assert "18" in refused(request, bytes(size), token=None).problem


def test_a_header_that_promises_gigabytes_takes_no_memory() -> None:
    # What is checked is arithmetic: the frame is as small as before.
    request = encode(ScoreComposites(id="a", composites=(ArrayHeader((8192, 8192, 3)),)))
    assert "201326592" in refused(request, b"tiny", token=None).problem


@pytest.mark.parametrize(
    "shape", [[8193, 1, 3], [0, 5, 3], [-1, 5, 3], [5, 5, 4], [5, 5], [10**30, 1, 3], [1.5, 2, 3]]
)
def test_absurd_shapes_are_refused(shape: list[float]) -> None:
    arrays = [{"shape": shape, "dtype": "uint8"}]
    reply = refused(header(type="score_composites", composites=arrays), b"")
    assert (reply.code, reply.id) == ("malformed", "x")


def test_no_dtype_but_uint8_is_known() -> None:
    arrays = [{"shape": [1, 1, 3], "dtype": "float64"}]
    assert "float64" in refused(header(type="score_composites", composites=arrays), bytes(24)).problem


def test_more_composites_than_allowed_are_refused() -> None:
    arrays = [{"shape": [1, 1, 3], "dtype": "uint8"}] * 17
    assert refused(header(type="score_composites", composites=arrays), *[bytes(3)] * 17).code == "malformed"


def test_more_pixels_than_a_read_may_ask_for_are_refused() -> None:
    images = [{"shape": [8192, 8192, 3], "encoding": "jpeg"}]
    assert refused(header(type="pixels", request="r", read=0, images=images), b"j").code == "malformed"


def test_unknown_fields_of_requests_are_refused_and_of_replies_ignored() -> None:
    assert "depth" in refused(header(depth=3)).problem
    later = json.dumps({"protocol": PROTOCOL, "id": "x", "type": "heartbeat", "mood": "good"}).encode()
    assert decode_reply([later]) == (Heartbeat(id="x"), [])


@pytest.mark.parametrize(("theirs", "older"), [(PROTOCOL - 1, "client"), (PROTOCOL + 1, "server")])
def test_another_protocol_is_refused_with_the_side_to_update(theirs: int, older: str) -> None:
    # Even when nothing else of the header can be understood.
    reply = refused(header(protocol=theirs, type="dance", token=""))
    assert (reply.code, reply.id) == ("protocol_version", "x")
    assert f"Update the {older}" in reply.remedy


def test_a_server_of_another_protocol_is_told_from_a_broken_one() -> None:
    with pytest.raises(ProtocolError, match="Update the client"):
        decode_reply([json.dumps({"protocol": PROTOCOL + 1, "id": "x", "type": "dance"}).encode()])
    with pytest.raises(ProtocolError, match="not valid"):
        decode_reply([b"{"])


@pytest.mark.parametrize("token", ["", "the tokem", "the token ", "thé token"])
def test_only_the_token_lets_a_local_client_in(token: str) -> None:
    assert refused(header(token=token)).code == "unauthorized"
    # Over CURVE, nobody asks for it.
    assert isinstance(decode_request([header(token=token)], token=None)[0], Hello)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"protocol": "1"}',
        b"[" * 100_000,
        b'{"id":' * 5000,
        b'{"protocol": 1e400}',
        b'{"protocol": 1, "id": "\\ud800"}',
    ],
)
def test_what_is_no_header_is_refused(text: bytes) -> None:
    assert refused(text).code in ("malformed", "protocol_version")


def test_a_header_over_the_limit_is_refused_unread() -> None:
    assert "over" in refused(b" " * (MAX_HEADER_BYTES + 1)).problem
    with pytest.raises(ProtocolError, match="limit"):
        encode(Hello(id="x", client="long" * MAX_HEADER_BYTES))


def test_an_id_is_only_repeated_when_it_is_one() -> None:
    assert refused(header(id="<script>", type="dance")).id == ""
    assert refused(header(id="a.b:c-1_2", type="dance")).id == "a.b:c-1_2"


def test_a_wrong_option_keeps_its_own_code_and_sentence() -> None:
    reply = refused(header(type="score_slide", slide="s", path="p", options={"seed": -1}), b"")
    assert (reply.code, reply.id) == ("option", "x")
    assert "seed" in reply.problem


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"path": "p", "sample": "classes"},
        {"path": "p", "write": {}},
        {"path": "p", "sample": "everywhere"},
    ],
)
def test_a_slide_that_cannot_be_meant_is_refused(fields: dict[str, Any]) -> None:
    assert refused(header(type="score_slide", slide="s", **fields), b"").code == "malformed"


@pytest.mark.parametrize("levels", [[], [2.0, 4.0], [1.0, 8.0, 4.0], [1.0, float("inf")]])
def test_levels_that_are_no_pyramid_are_refused(levels: list[float]) -> None:
    source = {"name": "n", "width": 5, "height": 5, "level_downsamples": levels}
    assert refused(header(type="score_slide", slide="s", source=source), b"").code == "malformed"


def test_the_envelope_is_everything_up_to_the_first_empty_frame() -> None:
    assert split_envelope([b"id", b"", b"head", b"", b"x"]) == ([b"id", b""], [b"head", b"", b"x"])
    assert split_envelope([b"id", b"proxy", b"", b"head"]) == ([b"id", b"proxy", b""], [b"head"])


@pytest.mark.parametrize(
    "parts", [[b"id"], [b"id", b"head"], [b"", b"head"], [b"id"] * (MAX_HOPS + 1) + [b""]]
)
def test_a_message_without_the_delimiter_is_refused(parts: list[bytes]) -> None:
    with pytest.raises(Refusal, match="empty frame"):
        split_envelope(parts)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("busy", ServerBusyError),
        ("deadline", ServerBusyError),
        ("cancelled", CancelledError),
        ("protocol_version", ProtocolError),
        ("stopping", ServerUnavailableError),
        ("slide_not_found", SlideNotFoundError),
        ("device", DeviceError),
        ("worker_died", WorkerDiedError),
        ("something_newer", RemoteError),
    ],
)
def test_error_replies_become_errors_of_the_tree(code: str, kind: type[Exception]) -> None:
    error = error_from(code, "It went wrong", "Try again")
    assert type(error) is kind
    assert str(error) == "It went wrong. Try again."
    if isinstance(error, RemoteError):
        assert ErrorReply.of(error, id="1").code == code


def test_whatever_comes_is_decoded_or_refused_and_nothing_else() -> None:
    rng = random.Random(0)
    whole = [encode(msgspec.structs.replace(request, token=TOKEN)) for request, _ in REQUESTS]
    for _ in range(3000):
        damaged = bytearray(rng.choice(whole))
        for _ in range(rng.randrange(4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        cut = bytes(damaged[: rng.randrange(len(damaged) + 1)]) if rng.random() < 0.3 else bytes(damaged)
        frames = [rng.randbytes(rng.choice([0, 12, 18])) for _ in range(rng.randrange(3))]
        try:
            decode_request([cut, *frames], token=TOKEN)
        except Refusal as refusal:
            assert refusal.reply.problem
            encode(refusal.reply)
