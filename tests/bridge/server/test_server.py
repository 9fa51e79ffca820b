"""The server with scripted workers, which do what no real network does when asked, and start at once."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import zmq
from helpers.raw_zmtp import RawConnection
from helpers.scripted_worker import FAIL, KILL, WAIT_FOR_GATE
from helpers.servers import (
    PATIENCE_S,
    SIDE_PX,
    Peer,
    Running,
    all_gone,
    composite,
    score_request,
    scripted,
    serving,
    wait_until,
)

from bridge import __version__
from bridge.client.address import ServerAddress
from bridge.client.client import Client
from bridge.client.locate import FixedServer
from bridge.protocol.codec import encode
from bridge.protocol.messages import (
    ArrayHeader,
    Cancel,
    ErrorReply,
    Heartbeat,
    Hello,
    Info,
    Result,
    ScoreComposites,
    ScoreSlide,
    StatusRequest,
    Stop,
)
from bridge.transport.curve import KeyPair, write_pair
from bridge.transport.discovery import running_servers
from herohe_model.errors import OptionError, RemoteError, ServerUnavailableError, WorkerDiedError
from herohe_model.model.compute import Compute


@pytest.fixture(autouse=True, scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEROHE_RUNTIME_DIR", str(tmp_path_factory.mktemp("run") / "r"))
        yield


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One that the tests leave as they found it."""
    with serving(scripted(tmp_path_factory.mktemp("shared"))) as running:
        running.open_gate()
        yield running


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[Running]:
    """One of a test's own, whose gate is closed."""
    with serving(scripted(tmp_path, in_flight=8)) as running:
        yield running
        running.open_gate()


def logits(frames: list[bytes]) -> list[list[float]]:
    return np.frombuffer(frames[0], "<f4").reshape(-1, 3).tolist()  # type: ignore[no-any-return]


def is_well(server: Running) -> None:
    """See that the server still does its work."""
    with Peer(server.record) as peer:
        reply, frames = peer.ask(score_request(), composite(name=9).tobytes())
        assert isinstance(reply, Result)
        assert logits(frames) == [[9, 1, 2]]


def test_hello_tells_what_the_server_is(server: Running) -> None:
    with Peer(server.record) as peer:
        info, _ = peer.ask(Hello(id="h", client="test", version=__version__))
    assert isinstance(info, Info)
    assert (info.version, info.model, info.device, info.precision) == (__version__, "scripted", "cpu", "fp32")
    assert (info.engine, server.record.engine, server.record.engine_asked) == ("scripted",) * 2 + ("auto",)
    assert server.record.computes_on == "cpu (fp32, scripted)"
    # What a worker said while it loaded.
    assert server.notices[0] == "reading the script"
    assert info.card["patch_px"] * info.card["grid"] == SIDE_PX
    assert [worker.state for worker in info.workers] == ["ready"]
    assert info.paths


def test_composites_of_one_message_are_answered_together_and_in_order(server: Running) -> None:
    with Peer(server.record) as peer:
        names = list(range(7))
        reply, frames = peer.ask(score_request(7), *[composite(name=name).tobytes() for name in names])
    assert isinstance(reply, Result)
    assert reply.scores is not None
    assert (reply.scores.composites, reply.scores.cells, reply.scores.bits) == (7, 25, 3)
    assert logits(frames) == [[name, 1, 2] for name in names]
    shares = np.frombuffer(frames[1], "<f4").reshape(7, 25, 3)
    assert np.allclose(shares.sum(axis=1), logits(frames))


@pytest.mark.parametrize("number", [0, 1])
def test_every_local_endpoint_serves(server: Running, number: int) -> None:
    if number >= len(server.record.endpoints):
        pytest.skip("there is no ipc on this platform")
    with Peer(server.record, server.record.endpoints[number]) as peer:
        assert isinstance(peer.ask(StatusRequest(id="s"))[0], Info)


def test_a_req_socket_can_ask(server: Running) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.REQ)
    socket.plain_username, socket.plain_password = b"herohe", server.record.token.encode()
    socket.connect(server.record.endpoints[0])
    # REQ brings the empty delimiter itself, and takes exactly one answer.
    request = score_request(token=server.record.token, interim=False)
    socket.send_multipart([encode(request), composite(WAIT_FOR_GATE, 4).tobytes()])
    assert socket.poll(round(1000 * PATIENCE_S))
    assert json.loads(socket.recv_multipart()[0])["type"] == "result"
    context.destroy(linger=0)


def test_answers_find_their_way_through_a_proxy(server: Running) -> None:
    with Peer(server.record) as peer:
        peer.send_raw(b"a client behind", b"", encode(StatusRequest(id="far", token=server.record.token)))
        assert peer.socket.poll(round(1000 * PATIENCE_S))
        client, delimiter, header = peer.socket.recv_multipart()
    assert (client, delimiter) == (b"a client behind", b"")
    assert json.loads(header)["id"] == "far"


def test_a_message_without_the_delimiter_is_told_so(server: Running) -> None:
    with Peer(server.record) as peer:
        peer.send_raw(encode(StatusRequest(id="s", token=server.record.token)))
        assert "empty frame" in peer.error().problem


def test_without_the_token_nothing_is_done(server: Running) -> None:
    before = server.begun()
    with Peer(server.record) as peer:
        for request, frames in (
            (score_request(token="guess"), [composite().tobytes()]),
            (Stop(id="stop", token="guess"), []),
            (Hello(id="hello", token="guess"), []),
        ):
            peer.send(request, *frames)
            assert peer.error().code == "unauthorized"
    assert server.begun() == before
    is_well(server)


def test_a_key_that_is_only_claimed_does_not_replace_the_token(server: Running) -> None:
    # ZeroMQ hands on whatever properties a peer without CURVE claims to have.
    claimed = RawConnection(server.record.endpoints[-1])
    assert claimed.log_in(server.record.token, User_Id=KeyPair.new().public.encode())
    claimed.send(b"", encode(Hello(id="thief")))
    assert claimed.receive() == b""
    assert json.loads(claimed.receive())["code"] == "unauthorized"
    claimed.close()


def test_nothing_comes_through_before_the_token(server: Running) -> None:
    for mechanism in (b"NULL", b"PLAIN", b"CURVE"):
        stranger = RawConnection(server.record.endpoints[-1], mechanism)
        if mechanism == b"PLAIN":
            assert stranger.log_in("guess") == b""
        stranger.send(b"", encode(Hello(id="thief", token=server.record.token)))
        while stranger.receive():
            pass
        stranger.close()
    is_well(server)


def test_a_frame_over_the_limit_is_refused_before_memory_is_taken(server: Running) -> None:
    before = psutil.Process().memory_info().rss
    for size in (1 << 30, 1 << 40, (1 << 63) - 1):
        plain = RawConnection(server.record.endpoints[-1])
        plain.log_in(server.record.token)
        plain.promise(size)
        assert plain.receive() == b""
        plain.close()
    assert psutil.Process().memory_info().rss - before < 100 << 20
    is_well(server)


def test_random_messages_are_answered_or_dropped(server: Running) -> None:
    rng = random.Random(1)
    seeds = [
        encode(score_request(token=server.record.token)),
        encode(Hello(id="h", token=server.record.token)),
        encode(Cancel(id="c", request="none", token=server.record.token)),
        b"",
        b"{}",
    ]
    with Peer(server.record) as peer:
        for _ in range(400):
            parts = []
            for _ in range(rng.randrange(1, 6)):
                seed = bytearray(rng.choice(seeds) or rng.randbytes(rng.randrange(30)))
                if seed and rng.random() < 0.5:
                    seed[rng.randrange(len(seed))] = rng.randrange(256)
                parts.append(bytes(seed) if rng.random() < 0.9 else b"")
            peer.send_raw(*([b""] if rng.random() < 0.7 else []), *parts)
    is_well(server)


@pytest.mark.parametrize("shape", [(SIDE_PX, SIDE_PX + 1, 3), (1, 1, 3)])
def test_composites_of_another_shape_are_refused(server: Running, shape: tuple[int, int, int]) -> None:
    array = ArrayHeader(shape)  # type: ignore[arg-type]
    with Peer(server.record) as peer:
        peer.send(ScoreComposites(id="x", composites=(array,)), bytes(shape[0] * shape[1] * 3))
        error = peer.error()
    assert error.code == "wrong_shape"
    assert str(SIDE_PX) in error.problem


def test_another_model_is_refused(server: Running) -> None:
    with Peer(server.record) as peer:
        peer.send(score_request(model_sha256="f" * 64), composite().tobytes())
        error = peer.error()
    assert error.code == "wrong_model"
    assert "scripted" in error.problem


def test_an_error_of_one_composite_is_that_messages_alone(server: Running) -> None:
    with Client(FixedServer(server.address)) as client:
        futures = [client.submit(composite(FAIL if name == 2 else 0, name)) for name in range(5)]
        for name, future in enumerate(futures):
            if name == 2:
                with pytest.raises(RemoteError, match="this composite fails"):
                    future.result(PATIENCE_S)
            else:
                assert future.result(PATIENCE_S).logits[0] == name


def test_a_repeated_request_is_done_once(gated: Running) -> None:
    with Peer(gated.record) as peer, Peer(gated.record) as again:
        pixels = composite(WAIT_FOR_GATE, 7).tobytes()
        request = score_request(id="the-same")
        peer.send(request, pixels)
        wait_until(lambda: gated.begun() == [7])
        # As after a lost connection: from another address, while it runs, ...
        again.send(request, pixels)
        assert isinstance(again.receive()[0], Heartbeat)
        gated.open_gate()
        first, other = peer.answer(), again.answer()
        assert first == other
        assert isinstance(first[0], Result)
        # ... and when it is done.
        assert again.ask(request, pixels) == first
        assert gated.begun() == [7]


def test_an_id_cannot_be_used_for_something_else(gated: Running) -> None:
    with Peer(gated.record) as peer:
        peer.send(score_request(id="mine"), composite(WAIT_FOR_GATE).tobytes())
        wait_until(lambda: len(gated.begun()) == 1)
        peer.send(ScoreSlide(id="mine", slide="s", path="p"), b"")
        assert peer.error().code == "malformed"


def test_beyond_a_clients_share_the_answer_is_busy(gated: Running) -> None:
    with Peer(gated.record) as peer, Peer(gated.record) as other:
        pixels = composite(WAIT_FOR_GATE).tobytes()
        peer.send(score_request(8, id="full"), *[pixels] * 8)
        peer.send(score_request(1, id="more"), pixels)
        error = peer.error()
        assert (error.id, error.code) == ("more", "busy")
        # Another client has a share of its own, and the refused one can be sent again.
        gated.open_gate()
        assert isinstance(other.ask(score_request(), pixels)[0], Result)
        assert isinstance(peer.answer()[0], Result)
        assert isinstance(peer.ask(score_request(1, id="more"), pixels)[0], Result)


def test_a_client_that_floods_does_not_hold_up_another(gated: Running) -> None:
    with Peer(gated.record) as flood, Peer(gated.record) as modest:
        pixels = [composite(WAIT_FOR_GATE, name).tobytes() for name in range(8)]
        flood.send(score_request(8), *pixels)
        wait_until(lambda: len(gated.begun()) == 1)
        modest.send(score_request(), composite(name=99).tobytes())
        modest.ask(StatusRequest(id="there"))
        gated.open_gate()
        flood.answer()
        # Four were in the worker's hands already and the flood's turn had come; the next was the other's.
        assert gated.begun().index(99) <= 5


def test_cancel_stops_what_was_not_begun(gated: Running) -> None:
    with Peer(gated.record) as peer:
        pixels = [composite(WAIT_FOR_GATE, name).tobytes() for name in range(8)]
        peer.send(score_request(8, id="work"), *pixels)
        wait_until(lambda: len(gated.begun()) == 1)
        assert isinstance(peer.ask(Cancel(id="c", request="work"))[0], Result)
        # The worker is told, and what it had not begun is dropped there.
        wait_until(lambda: gated.info().load.in_work == 1)
        gated.open_gate()
        error = peer.error()
        assert (error.id, error.code) == ("work", "cancelled")
        is_well(gated)
        assert gated.begun() == [0, 9]
        peer.send(Cancel(id="late", request="work"))
        assert peer.error().code == "unknown_request"


def test_what_is_not_begun_by_its_deadline_is_dropped(gated: Running) -> None:
    with Peer(gated.record) as peer:
        peer.send(score_request(4, id="first"), *[composite(WAIT_FOR_GATE).tobytes()] * 4)
        peer.send(score_request(id="hasty", deadline_s=0.1), composite(name=5).tobytes())
        error = peer.error()
        assert (error.id, error.code) == ("hasty", "deadline")
        gated.open_gate()
        assert isinstance(peer.answer()[0], Result)
        assert 5 not in gated.begun()


def test_the_work_of_a_client_that_is_gone_is_dropped(
    gated: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.server.broker.GONE_S", 0.1)
    with Peer(gated.record) as peer:
        peer.send(score_request(8), *[composite(WAIT_FOR_GATE, name).tobytes() for name in range(8)])
        wait_until(lambda: len(gated.begun()) == 1)
    wait_until(lambda: gated.info().load.queued == 0)
    gated.open_gate()
    is_well(gated)
    assert gated.begun() == [0, 9]


def test_a_killed_worker_is_replaced_and_its_work_done_by_another(gated: Running) -> None:
    with Client(FixedServer(gated.address)) as client:
        futures = [client.submit(composite(WAIT_FOR_GATE, name)) for name in range(6)]
        wait_until(lambda: len(gated.begun()) == 1)
        (worker,) = gated.workers()
        worker.kill()
        gated.open_gate()
        assert [future.result(PATIENCE_S).logits[0] for future in futures] == list(range(6))
        (replaced,) = gated.info().workers
        assert replaced.pid != worker.pid
        assert replaced.restarts == 1


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGSTOP")
def test_a_worker_that_says_nothing_any_more_is_replaced(tmp_path: Path) -> None:
    with (
        serving(scripted(tmp_path, worker_silence_s=2.5)) as running,
        Client(FixedServer(running.address)) as client,
    ):
        (worker,) = running.workers()
        os.kill(worker.pid, signal.SIGSTOP)
        assert client.submit(composite(name=3)).result(PATIENCE_S).logits[0] == 3


def test_a_composite_that_workers_die_of_gets_an_error_and_its_neighbours_scores(tmp_path: Path) -> None:
    with serving(scripted(tmp_path)) as running, Client(FixedServer(running.address)) as client:
        futures = [client.submit(composite(KILL if name == 1 else 0, name)) for name in range(5)]
        with pytest.raises(WorkerDiedError, match="2 workers ended"):
            futures[1].result(PATIENCE_S)
        for name in (0, 2, 3, 4):
            assert futures[name].result(PATIENCE_S).logits[0] == name
        assert running.begun().count(1) == 2


def test_workers_on_two_devices_share_the_work(tmp_path: Path) -> None:
    with serving(replace(scripted(tmp_path), workers=(Compute("cpu"),) * 2)) as running:
        with Client(FixedServer(running.address)) as client:
            futures = [client.submit(composite(WAIT_FOR_GATE, name)) for name in range(4)]
            # One alone would begin but one while the gate is closed.
            wait_until(lambda: len(running.begun()) == 2)
            running.open_gate()
            assert [future.result(PATIENCE_S).logits[0] for future in futures] == [0, 1, 2, 3]
        assert len(running.workers()) == 2


def test_workers_can_be_reached_over_tcp_where_there_is_no_ipc(tmp_path: Path) -> None:
    with serving(scripted(tmp_path, workers_over_tcp=True)) as running:
        is_well(running)


def test_an_idle_server_ends_by_itself(tmp_path: Path) -> None:
    with serving(scripted(tmp_path, idle_timeout_s=0.5)) as running:
        workers = running.workers()
        with Peer(running.record) as peer:
            # Work is not idleness, however long it takes.
            peer.send(score_request(), composite(WAIT_FOR_GATE).tobytes())
            for _ in range(2):
                assert isinstance(peer.receive()[0], Heartbeat)
            running.open_gate()
            assert isinstance(peer.answer()[0], Result)
        running.thread.join(PATIENCE_S)
        assert not running.thread.is_alive()
        assert all_gone(workers)


@pytest.mark.parametrize("finish", [False, True])
def test_a_stopped_server_leaves_nothing_behind(tmp_path: Path, finish: bool) -> None:
    with serving(scripted(tmp_path)) as running:
        record, workers = running.record, running.workers()
        with Peer(record) as peer, Peer(record) as late:
            peer.send(score_request(id="work"), composite(WAIT_FOR_GATE, 3).tobytes())
            wait_until(lambda: len(running.begun()) == 1)
            assert isinstance(late.ask(Stop(id="stop", finish=finish))[0], Result)
            if finish:
                late.send(score_request(id="late"), composite().tobytes())
                assert late.error().code == "stopping"
                running.open_gate()
                assert isinstance(peer.answer()[0], Result)
            else:
                error = peer.error()
                assert (error.id, error.code) == ("work", "stopping")
        running.thread.join(PATIENCE_S)
        assert not running.thread.is_alive()
        assert all_gone(workers)
    assert record not in list(running_servers())
    assert not Path(record.directory).exists()


def test_a_worker_that_cannot_load_the_model_ends_the_server_with_its_reason(tmp_path: Path) -> None:
    settings = scripted(tmp_path)
    settings.model.write_text("{")
    with pytest.raises(RemoteError, match="The model cannot be loaded"), serving(settings):
        pass


def test_a_worker_that_ends_while_it_loads_ends_the_server(tmp_path: Path) -> None:
    settings = replace(scripted(tmp_path), worker_arguments=("-c", "raise SystemExit(7)"))
    with pytest.raises(ServerUnavailableError, match="exit code 7"), serving(settings):
        pass


@pytest.mark.parametrize(
    "bind", ["tcp://0.0.0.0:*", "tcp://[::]:*", "tcp://*:5555", "tcp://example.org:5555"]
)
def test_an_address_that_others_can_reach_needs_keys(tmp_path: Path, bind: str) -> None:
    with pytest.raises(OptionError, match="Make keys"):
        scripted(tmp_path, binds=(bind,))


def test_keys_and_the_list_of_allowed_ones_belong_together(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--allow"):
        scripted(tmp_path, binds=("tcp://0.0.0.0:*",), key=KeyPair.new())
    with pytest.raises(OptionError, match="no folder"):
        scripted(tmp_path, binds=("tcp://0.0.0.0:*",), key=KeyPair.new(), allow=tmp_path / "absent")


def test_over_curve_only_allowed_keys_come_in(tmp_path: Path) -> None:
    mine, theirs, server_key = KeyPair.new(), KeyPair.new(), KeyPair.new()
    allowed = tmp_path / "allowed"
    write_pair(allowed, "me", mine)
    settings = scripted(tmp_path / "s", binds=("tcp://127.0.0.1:*",), key=server_key, allow=allowed)
    with serving(settings) as running:
        (endpoint,) = running.record.remote_endpoints

        def connect(key: KeyPair, server: str, hello_s: float = PATIENCE_S) -> Client:
            return Client(FixedServer(ServerAddress(endpoint, server_key=server, key=key)), hello_s=hello_s)

        with connect(mine, server_key.public) as client:
            assert client.submit(composite(name=6)).result(PATIENCE_S).logits[0] == 6
            # It could name any file of the server's user otherwise.
            assert not client.server_info.paths
        for key, server in ((theirs, server_key.public), (mine, theirs.public)):
            with pytest.raises(ServerUnavailableError, match="your public key is allowed"):
                connect(key, server, hello_s=1)
        with Peer(running.record, endpoint) as peer:
            peer.send(Hello(id="plain"))
            assert not peer.socket.poll(1000)
        # Who is let in later needs no restart.
        write_pair(allowed, "them", theirs)
        with connect(theirs, server_key.public) as client:
            assert client.submit(composite(name=7)).result(PATIENCE_S).logits[0] == 7


def test_clients_over_curve_share_no_requests_with_local_ones(tmp_path: Path) -> None:
    mine, server_key = KeyPair.new(), KeyPair.new()
    write_pair(tmp_path / "allowed", "me", mine)
    settings = scripted(
        tmp_path / "s", binds=("tcp://127.0.0.1:*",), key=server_key, allow=tmp_path / "allowed"
    )
    with serving(settings) as running:
        (endpoint,) = running.record.remote_endpoints
        with Peer(running.record) as local:
            local.send(score_request(id="local"), composite(WAIT_FOR_GATE).tobytes())
            wait_until(lambda: len(running.begun()) == 1)
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            far = ServerAddress(endpoint, server_key=server_key.public, key=mine).connect(context)
            far.send_multipart([b"", encode(Cancel(id="c", request="local"))])
            assert far.poll(round(1000 * PATIENCE_S))
            assert json.loads(far.recv_multipart()[1])["code"] == "unknown_request"
            context.destroy(linger=0)
            running.open_gate()
            reply, _ = local.answer()
            assert not isinstance(reply, ErrorReply)


def test_an_idle_worker_waits_for_a_batch_no_longer_than_it_may(tmp_path: Path) -> None:
    with (
        serving(scripted(tmp_path, max_wait_s=0.05)) as running,
        Client(FixedServer(running.address)) as client,
    ):
        futures = [client.submit(composite(name=name)) for name in range(6)]
        assert [future.result(PATIENCE_S).logits[0] for future in futures] == list(range(6))
