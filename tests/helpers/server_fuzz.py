"""What a server is told that no client would say: valid messages, mutated, and raw bytes of ZMTP.

Everything follows from a seed. Nothing of it leaves this machine, and it ends after the number of messages
that was asked for.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import zmq

from bridge.protocol.codec import decode_reply, encode, new_id
from bridge.protocol.messages import Info, Read, StatusRequest
from helpers.raw_zmtp import RawConnection
from helpers.server_process import ServerProcess
from helpers.servers import SIDE_PX, Peer

HANG_S: Final = 10.0
_BURST: Final = 40
"""Messages over one connection, after which the server must answer another client in time."""

_HOSTILE: Final[tuple[Any, ...]] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        2**31 + 1,
        2**53,
        2**64,
        -(2**64),
        10**30,
        0.5,
        -0.0,
        1e308,
        1e-308,
    ),
    *(float("nan"), float("inf")),
    *("", "x", "a" * 65, "y" * 5000, "\x00", "\x1b[2J", "\ud800", "é\u202e"),
    *([], {}, [[]], [1, 2, 3], [[[[[[[[0]]]]]]]], {"": {"": {}}}, ["x"] * 2000),
    *("../../etc/passwd", "/dev/zero", "/dev/stdin", "/proc/self/mem", "\\\\host\\share", "con", "/"),
)
_TYPES: Final = ("hello", "score_composites", "score_slide", "pixels", "cancel", "status", "dance")
"""Not ``stop``: a message that means it is no fault."""


@dataclass
class FuzzReport:
    """What came of it: replies by their kind or code, and what must not have been."""

    sent: int = 0
    replies: Counter[str] = field(default_factory=Counter)
    unforeseen: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    memory_before: int = 0
    crashed: bool = False

    @property
    def hung(self) -> bool:
        """Whether the server once took too long."""
        return self.slowest_s > HANG_S


def fuzz(server: ServerProcess, messages: int, seed: int) -> FuzzReport:
    """Send so many mutants, in bursts, and look after each burst how the server is."""
    rng = random.Random(seed)
    report = FuzzReport(memory_before=server.note_memory())
    while report.sent < messages and not report.crashed:
        if rng.random() < 0.25:
            for _ in range(_BURST // 4):
                _raw(server, rng)
                report.sent += 1
        else:
            with Peer(server.record, rng.choice(server.record.endpoints)) as peer:
                for _ in range(min(_BURST, messages - report.sent)):
                    peer.send_raw(*mutant(rng, server.record.token))
                    report.sent += 1
                    if rng.random() < 0.3:
                        _hear(peer, rng, report)
                _look(server, report)
                _hear(peer, rng, report)
        _look(server, report)
        server.note_memory()
    return report


def _look(server: ServerProcess, report: FuzzReport) -> None:
    began = time.monotonic()
    with Peer(server.record) as peer:
        peer.send(StatusRequest(id=new_id()))
        while peer.socket.poll(200) == 0 and time.monotonic() - began < 6 * HANG_S:
            if server.process.poll() is not None:
                report.crashed = True
                return
        answered = peer.socket.poll(0) and isinstance(peer.receive()[0], Info)
    report.slowest_s = max(report.slowest_s, time.monotonic() - began if answered else float("inf"))
    report.crashed = report.crashed or not answered


def _hear(peer: Peer, rng: random.Random, report: FuzzReport) -> None:
    """Take in what the server says, and answer some of its questions."""
    while peer.socket.poll(0):
        parts = peer.socket.recv_multipart()
        try:
            reply, _ = decode_reply(parts[parts.index(b"") + 1 :])
        except Exception as error:
            report.unforeseen.append(f"a reply that cannot be read: {error}")
            continue
        code = str(getattr(reply, "code", type(reply).__name__))
        report.replies[code] += 1
        if code == "internal":
            report.unforeseen.append(str(getattr(reply, "problem", "")))
        if isinstance(reply, Read) and rng.random() < 0.5:
            images = [{"shape": [box.out_height, box.out_width, 3], "encoding": "raw"} for box in reply.boxes]
            answer = {"type": "pixels", "request": reply.id, "read": reply.read, "images": images}
            frames = [rng.randbytes(3) * (box.out_height * box.out_width) for box in reply.boxes]
            peer.send_raw(*_mutated(rng, answer, frames, peer.token, rng.random() < 0.5))


def mutant(rng: random.Random, token: str) -> list[bytes]:
    """Return a message with something wrong in it, or with nothing, as ZeroMQ's frames."""
    kind = rng.choice(_TYPES)
    fields: dict[str, Any] = {"type": kind}
    frames: list[bytes] = []
    if kind == "score_composites":
        count = rng.choice((1, 1, 2, 5))
        fields["composites"] = [{"shape": [SIDE_PX, SIDE_PX, 3], "dtype": "uint8"} for _ in range(count)]
        fields["deadline_s"] = rng.choice((None, 0.01, 5))
        frames = [bytes([0, rng.randrange(256), *bytes(3 * SIDE_PX * SIDE_PX - 2)]) for _ in range(count)]
    elif kind == "score_slide":
        fields |= _slide(rng)
        frames = [_regions(rng)]
    elif kind == "pixels":
        fields |= {"request": "none", "read": 1, "images": [{"shape": [8, 8, 3], "encoding": "png"}]}
        frames = [rng.randbytes(64)]
    elif kind == "cancel":
        fields["request"] = "none"
    return _mutated(rng, fields, frames, token, rng.random() < 0.1)


def _slide(rng: random.Random) -> dict[str, Any]:
    side = rng.choice((1, 64, 512, 5000, 300_000, 2**31))
    source = {
        "name": "made up",
        "width": side,
        "height": rng.choice((side, 1, 777)),
        "mpp": rng.choice((None, 0.01, 0.03, 0.25, 0.5, 1.0, 19.0, 100.0)),
        "level_downsamples": rng.choice(([1.0], [1.0, 4.0, 16.0], [1.0, 1.0001], [1.0] * 64)),
        "origin_x": rng.choice((0, 5, -(2**31), 2**31)),
        "encoding": rng.choice(("raw", "png", "jpeg")),
    }
    options = {
        "composites": rng.choice((1, 2, 400)),
        "min_patches": rng.choice((1, 25)),
        "per_annotation": True,
    }
    return {
        "slide": rng.choice(("a slide", "x" * 4096)),
        "path": rng.choice((None, "/absent.svs", "/", "/dev/null")),
        "source": source,
        "sample": rng.choice(("all", "slide", "classes")),
        "region_classes": ["Tumor"],
        "options": rng.choice((options, {})),
        "write": rng.choice((None, {"tiles": "all", "classify": True})),
    }


def _regions(rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return rng.choice((b"", b"{}", b"null", b"[" * 3000, rng.randbytes(300)))
    number = rng.choice((50.0, 5000.0, 1e9, 1e300))
    features = []
    for k in range(rng.choice((1, 3, 60))):
        points = [
            [rng.uniform(-number, number), rng.uniform(-number, number)] for _ in range(rng.randrange(2, 30))
        ]
        shape = rng.choice(("Polygon", "MultiPolygon", "Point", "LineString", "GeometryCollection"))
        at = {"Polygon": [points], "MultiPolygon": [[points], [points]], "Point": points[0]}.get(
            shape, points
        )
        properties: dict[str, Any] = {"objectType": "annotation", "classification": {"name": "Tumor"}}
        features.append(
            {
                "type": "Feature",
                "id": f"{k:08x}-0000-4000-8000-000000000000",
                "geometry": {"type": shape, "coordinates": at},
                "properties": properties,
            }
        )
    collection: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if rng.random() < 0.5:
        _wrong(rng, collection)
    return json.dumps(collection).encode()


def _mutated(
    rng: random.Random, fields: dict[str, Any], frames: list[bytes], token: str, as_it_is: bool
) -> list[bytes]:
    fields = {"protocol": 1, "id": rng.choice((new_id(), "same")), "token": token, **fields}
    if as_it_is:
        return [b"", json.dumps(fields).encode(), *frames]
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        _wrong(rng, fields)
    if fields.get("type") == "stop":
        fields["type"] = "dance"
    header = bytearray(json.dumps(fields).encode())
    if rng.random() < 0.15:
        for _ in range(rng.randrange(1, 4)):
            header[rng.randrange(len(header))] = rng.randrange(256)
    if rng.random() < 0.05:
        header = header[: rng.randrange(len(header))] + rng.choice(
            (b"", b"\xff\xfe", b"}" * 50, b" " * (1 << 20))
        )
    parts = [bytes(header), *frames]
    if rng.random() < 0.15 and len(parts) > 1:
        which = rng.randrange(1, len(parts))
        parts[which] = rng.choice((b"", parts[which][:-1], parts[which] + b"!", rng.randbytes(100)))
    if rng.random() < 0.05:
        parts += [rng.randbytes(10)] * rng.choice((1, 30, 300))
    hops = [rng.randbytes(5) for _ in range(rng.choice((0, 0, 0, 0, 1, 7, 9)))]
    return [*hops, *([b""] if rng.random() < 0.97 else []), *parts]


def _wrong(rng: random.Random, value: Any) -> None:
    """Spoil one place of nested JSON."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = rng.choice(keys)
        inner = value[key]
        if isinstance(inner, (dict, list)) and inner and rng.random() < 0.7:
            value = inner
            continue
        if isinstance(value, dict) and rng.random() < 0.15:
            del value[key]
        elif isinstance(value, dict) and rng.random() < 0.1:
            value[rng.choice(("unknown", "", "\x00", "type", "__class__"))] = rng.choice(_HOSTILE)
        else:
            value[key] = rng.choice(_HOSTILE)
        return


def _raw(server: ServerProcess, rng: random.Random) -> None:
    """Say something over TCP that is not, or not quite, ZeroMQ's protocol, and hang up."""
    greet, mechanism = rng.random() < 0.9, rng.choice((b"PLAIN", b"PLAIN", b"NULL", rng.randbytes(20)))
    connection = RawConnection(server.record.endpoints[-1], mechanism, greet=greet)
    try:
        known = greet and rng.random() < 0.5 and connection.log_in(server.record.token) != b""
        if not known and rng.random() < 0.5:
            connection.log_in("x" * rng.choice((0, 1, 200)), wait=False)
        for _ in range(rng.randrange(6)):
            what = rng.random()
            if what < 0.3:
                connection.send_raw(rng.randbytes(rng.choice((1, 9, 64, 5000))))
            elif what < 0.6:
                size = rng.choice((0, 1, 255, 1 << 20, 60 << 20, 1 << 40, (1 << 63) - 1))
                connection.promise(size, rng.randbytes(rng.randrange(2000)), command=rng.random() < 0.5)
            elif what < 0.8:
                connection.command(
                    rng.choice((b"\x05READY", b"\x04PING\x00\x00x", b"\x05HELLO\xff", b"", b"\x05ERROR"))
                )
            else:
                connection.send(b"", encode(StatusRequest(id="raw", token=server.record.token)))
    except zmq.ZMQError:
        pass
    finally:
        connection.close()
