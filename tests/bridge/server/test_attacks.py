"""Attacks on a real server process, each bounded in count and time, over this machine's own sockets only."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import zmq
from helpers.raw_zmtp import RawConnection
from helpers.scripted_worker import WAIT_FOR_GATE
from helpers.server_fuzz import fuzz
from helpers.server_process import MIB, ServerProcess, server_process
from helpers.servers import (
    PATIENCE_S,
    Peer,
    Running,
    composite,
    score_request,
    scripted,
    serving,
    wait_until,
)

import bridge.server.broker
import bridge.server.server
import bridge.server.worker_slot
from bridge.client.address import ServerAddress, ask
from bridge.protocol.codec import encode, new_id
from bridge.protocol.messages import (
    Cancel,
    ErrorReply,
    Hello,
    Info,
    PixelSource,
    Read,
    Result,
    ScoreSlide,
    StatusRequest,
    Stop,
)
from bridge.server.connections import raise_descriptor_limit
from bridge.transport.curve import KeyPair, write_pair
from bridge.transport.discovery import running_servers

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="of POSIX: descriptors, signals, sockets in files")


@pytest.fixture(autouse=True, scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("run") / "r"
        patch.setenv("HEROHE_RUNTIME_DIR", str(folder))
        yield folder


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with serving(scripted(tmp_path / "server", slides_at_once=1)) as running:
        yield running
        running.open_gate()


@pytest.fixture(scope="module")
def process(runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with server_process(tmp_path_factory.mktemp("attacked")) as process:
        yield process


def is_well(server: Running | ServerProcess) -> None:
    """See that every local way leads to a server that scores."""
    for endpoint in server.record.endpoints:
        with Peer(server.record, endpoint) as peer:
            assert isinstance(peer.ask(score_request(), composite(name=9).tobytes())[0], Result)


@POSIX
@pytest.mark.parametrize("says", ["nothing", "a greeting", "a wrong token"])
def test_strangers_cannot_take_the_file_descriptors(tmp_path: Path, says: str) -> None:
    assert raise_descriptor_limit() > 1200
    with server_process(tmp_path / "s", descriptors=700) as server, ExitStack() as stack:
        tcp = server.record.endpoints[-1]
        for _ in range(1000):
            stranger = RawConnection(tcp, greet=says != "nothing")
            stack.callback(stranger.close)
            if says == "a wrong token":
                stranger.log_in("guess", wait=False)
        is_well(server)
        # A worker that dies now is replaced, which takes descriptors too.
        with Peer(server.record) as peer:
            peer.send(StatusRequest(id="who"))
            info = peer.answer()[0]
            assert isinstance(info, Info)
            psutil.Process(info.workers[0].pid).kill()
            assert isinstance(peer.ask(score_request(), composite(name=1).tobytes())[0], Result)
        assert server.descriptors < 200


@POSIX
def test_clients_that_hold_on_to_their_connections_leave_room_for_the_rest(tmp_path: Path) -> None:
    with server_process(tmp_path / "s", descriptors=560) as server, ExitStack() as stack:
        for number in range(100):
            client = RawConnection(server.record.endpoints[-1])
            stack.callback(client.close)
            client.log_in(server.record.token)
            client.send(b"", encode(StatusRequest(id=f"c{number}", token=server.record.token)))
            client.receive()
        assert server.descriptors < 200
        # Those who came last were sent away; when others leave, there is room again.
        stack.close()
        is_well(server)


def test_frames_begun_before_the_token_take_bounded_memory(process: ServerProcess) -> None:
    before, most = process.note_memory(), 0
    piece = bytes(4 * MIB)
    with ExitStack() as stack:
        for number in range(24):
            stranger = RawConnection(process.record.endpoints[-1])
            stack.callback(stranger.close)
            stranger.promise(60 * MIB, command=number % 2 == 0)
            for _ in range(12):
                if not stranger.send_raw(piece):
                    break
            most = max(most, process.note_memory() - before)
        is_well(process)
    assert most < 600 * MIB
    wait_until(lambda: process.memory - before < 200 * MIB)


def test_parts_without_end_and_without_the_token_take_no_memory(process: ServerProcess) -> None:
    before = process.memory
    for token in ("", "guess"):
        stranger = RawConnection(process.record.endpoints[-1])
        if token:
            stranger.log_in(token, wait=False)
        sent = 0
        while stranger.send_raw(b"\x03" + (MIB).to_bytes(8, "big") + bytes(MIB)) and sent < 200:
            sent += 1
        stranger.close()
        assert sent < 100
    assert process.memory - before < 100 * MIB
    is_well(process)


def test_an_error_repeats_little_of_what_was_sent(process: ServerProcess) -> None:
    long = "x" * 900_000
    token = process.record.token
    base = {"protocol": 1, "id": "x", "token": token}
    with Peer(process.record) as peer:
        for fields in (
            {"type": long},
            {"type": "hello", long: 1},
            {"type": "score_slide", "slide": "s", "path": "p", "sample": long},
            {"type": "cancel", "request": "a" * 64, "client": "\x1b[31m" * 1000},
            {"type": "score_slide", "slide": "\x1b]0;title\x07" * 300, "path": "/absent\x1b[2J"},
        ):
            header = json.dumps({**base, **fields}).encode()
            peer.send_raw(b"", header, *([b""] if fields["type"] == "score_slide" else []))
            error = peer.error()
            assert len(error.problem) < 5000 and "\x1b" not in error.problem + error.remedy
    is_well(process)


def test_what_no_reply_can_hold_is_answered_by_an_error(running: Running, tmp_path: Path) -> None:
    # GeoJSON of any depth, classes of any kind, and numbers that mean nothing.
    deep = b'{"type":"FeatureCollection","features":' + b"[" * 5000 + b"]" * 5000 + b"}"
    nan = b'{"type":"Feature","geometry":{"type":"Polygon","coordinates":[[[1e999,0],[1,1],[0,1]]]}}'
    source = PixelSource(name="made up", width=512, height=512, mpp=0.5)
    with Peer(running.record) as peer:
        for number, regions in enumerate((deep, nan, b"\xff" * 100, b"null", b'{"type":"\\ud800"}')):
            reply, _ = peer.ask(ScoreSlide(id=f"s{number}", slide="s", source=source), regions)
            assert isinstance(reply, ErrorReply) and reply.code != "internal", reply
    is_well(running)


@pytest.mark.parametrize("allowed", [False, True])
def test_another_machine_stops_the_server_only_where_it_may(tmp_path: Path, allowed: bool) -> None:
    mine, server_key = KeyPair.new(), KeyPair.new()
    write_pair(tmp_path / "allowed", "me", mine)
    settings = scripted(
        tmp_path / "s",
        binds=("tcp://127.0.0.1:*",),
        key=server_key,
        allow=tmp_path / "allowed",
        allow_stop=allowed,
    )
    with serving(settings) as running:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        address = ServerAddress(running.record.remote_endpoints[0], server_key=server_key.public, key=mine)
        far = address.connect(context)
        far.send_multipart([b"", encode(Stop(id="stop"))])
        assert far.poll(round(1000 * PATIENCE_S))
        answer = json.loads(far.recv_multipart()[1])
        context.destroy(linger=0)
        assert answer["type"] == "result" if allowed else answer["code"] == "not_allowed"
        if allowed:
            running.thread.join(PATIENCE_S)
        else:
            is_well(running)
        assert running.thread.is_alive() is not allowed


def test_a_share_is_a_clients_whatever_return_addresses_it_makes_up(tmp_path: Path) -> None:
    with serving(scripted(tmp_path, in_flight=8)) as running, Peer(running.record) as peer:
        pixels = composite(WAIT_FOR_GATE).tobytes()
        for number in range(5):
            request = score_request(2, id=f"r{number}", token=running.record.token)
            peer.send_raw(f"behind {number}".encode(), b"", encode(request), pixels, pixels)
        assert peer.socket.poll(round(1000 * PATIENCE_S))
        busy = json.loads(peer.socket.recv_multipart()[-1])
        while busy["type"] == "heartbeat":
            busy = json.loads(peer.socket.recv_multipart()[-1])
        assert (busy["id"], busy["code"]) == ("r4", "busy")
        running.open_gate()


def test_all_clients_together_have_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = composite(WAIT_FOR_GATE).tobytes()
    monkeypatch.setattr(bridge.server.broker, "_MAX_BYTES", 5 * len(pixels))
    with serving(scripted(tmp_path)) as running, ExitStack() as stack:
        peers = [stack.enter_context(Peer(running.record)) for _ in range(3)]
        for peer in peers[:2]:
            peer.send(score_request(2), pixels, pixels)
        wait_until(lambda: running.info().load.requests == 2)
        peers[2].send(score_request(2), pixels, pixels)
        assert peers[2].error().code == "busy"
        source = PixelSource(name="made up", width=512, height=512, mpp=0.5)
        peers[2].send(ScoreSlide(id="s", slide="s", source=source), bytes(2 * len(pixels)))
        assert peers[2].error().code == "busy"
        running.open_gate()


def test_an_image_that_claims_to_be_huge_takes_no_memory_and_is_refused_or_cancelled(
    process: ServerProcess,
) -> None:
    before = process.memory
    largest = 2**31
    square = [[0, 0], [largest, 0], [largest, largest], [0, largest], [0, 0]]
    drawn = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [square]}, "properties": {}}
    with Peer(process.record) as peer:
        for number, (side, mpp, sample, regions) in enumerate(
            (
                (largest, 0.5, "slide", b""),
                (largest, 0.03, "all", json.dumps(drawn).encode()),
                (largest, 19.0, "slide", b""),
                (40_000_000, 0.5, "slide", b""),
            )
        ):
            source = PixelSource(name="made up", width=side, height=side, mpp=mpp)
            request = ScoreSlide(id=f"huge{number}", slide="s", source=source, sample=sample)  # type: ignore[arg-type]
            peer.send(request, regions)
            began = time.monotonic()
            reply, _ = peer.answer()
            if not isinstance(reply, ErrorReply):
                peer.send(Cancel(id=f"no{number}", request=request.id))
                reply = next(r for r, _ in iter(peer.answer, None) if isinstance(r, ErrorReply))
            assert time.monotonic() - began < 10
            assert reply.id == request.id and reply.code in ("cancelled", "region", "slide_scale"), reply
            assert process.note_memory() - before < 300 * MIB
    is_well(process)


def test_a_cancel_is_obeyed_while_the_client_is_asked_for_pixels(running: Running) -> None:
    source = PixelSource(name="made up", width=20_000, height=20_000, mpp=0.5)
    with Peer(running.record) as peer:
        peer.send(ScoreSlide(id="slow", slide="s", source=source, sample="slide"), b"")
        assert isinstance(peer.answer()[0], Read)
        assert isinstance(peer.ask(Cancel(id="c", request="slow"))[0], Result)
        assert peer.error().code == "cancelled"
        assert running.info().load.slides == 0


def test_a_cancel_is_obeyed_while_regions_are_made(running: Running) -> None:
    # Outlines that cross themselves a hundred times: all together they take minutes.
    rng = random.Random(0)
    features = [
        {
            "type": "Feature",
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[rng.uniform(0, 9e4), rng.uniform(0, 9e4)] for _ in range(40)]],
            },
            "properties": {},
        }
        for _ in range(5000)
    ]
    for feature in features:
        ring = feature["geometry"]["coordinates"][0]  # type: ignore[index]
        ring.append(ring[0])
    source = PixelSource(name="made up", width=100_000, height=100_000, mpp=1.0)
    with Peer(running.record) as peer:
        regions = json.dumps({"type": "FeatureCollection", "features": features}).encode()
        peer.send(ScoreSlide(id="slow", slide="s", source=source), regions)
        wait_until(lambda: running.info().load.slides == 1)
        began = time.monotonic()
        assert isinstance(peer.ask(Cancel(id="c", request="slow"))[0], Result)
        assert peer.error().code == "cancelled"
        assert time.monotonic() - began < 10


def test_a_worker_that_cannot_be_started_is_started_a_little_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused = bridge.server.worker_slot.start_child, [OSError(24, "Too many open files")] * 2

    def start(*arguments: object, **more: object) -> object:
        if refused:
            raise refused.pop()
        return real(*arguments, **more)  # type: ignore[arg-type]

    with serving(scripted(tmp_path)) as running:
        monkeypatch.setattr(bridge.server.worker_slot, "start_child", start)
        (worker,) = running.workers()
        worker.kill()
        is_well(running)
        assert not refused


def test_mutants_of_messages_are_answered_or_dropped(tmp_path: Path) -> None:
    # A short run of tests/benchmarks/fuzz/server.py.
    with server_process(tmp_path) as server:
        (tmp_path / "gate").touch()
        report = fuzz(server, 300, seed=11)
        assert not report.crashed and not report.hung and report.unforeseen == []
        assert server.highest - report.memory_before < 300 * MIB
        is_well(server)


@POSIX
@pytest.mark.parametrize("how", [signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)])
def test_a_server_that_is_told_to_end_leaves_nothing_behind(tmp_path: Path, how: signal.Signals) -> None:
    with server_process(tmp_path) as server:
        server.process.send_signal(how)
        assert server.process.wait(PATIENCE_S) == 0
        assert not Path(server.record.directory).exists()
    assert server.record not in list(running_servers())


@POSIX
def test_a_server_is_found_again_when_its_directory_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEROHE_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(bridge.server.server, "RECORD_S", 0.1)
    with serving(scripted(tmp_path / "server")) as running:
        shutil.rmtree(tmp_path / "run")
        wait_until(lambda: (tmp_path / "run").exists() and list(running_servers()) != [])
        (found,) = running_servers()
        assert found.endpoints == running.record.endpoints[-1:]
        assert isinstance(ask(ServerAddress.of(found), Hello(id=new_id()), timeout_s=PATIENCE_S), Info)
