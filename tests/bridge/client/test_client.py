"""The client: with scripted workers where something must go wrong, with the real ones for what is scored."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures import Future, wait
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from helpers.scripted_worker import WAIT_FOR_GATE
from helpers.servers import (
    PATIENCE_S,
    SIDE_PX,
    Running,
    all_gone,
    composite,
    scripted,
    serving,
    wait_until,
)
from helpers.small_slides import small_model
from numpy.typing import NDArray

import bridge.client.client
import bridge.client.connection
from bridge.client.address import ServerAddress
from bridge.client.child_server import ChildServer
from bridge.client.client import Client, connect_or_start
from bridge.client.locate import DiscoveredServer, FixedServer, ServerRequirements, find_server
from bridge.console.log import log_shown
from bridge.server.server import ServerSettings
from bridge.transport.discovery import running_servers
from herohe_model.engines.scorer import Scorer
from herohe_model.errors import (
    CancelledError,
    DeviceError,
    ModelFileError,
    OptionError,
    ProtocolError,
    ServerBusyError,
    ServerUnavailableError,
)
from herohe_model.model.checkpoint import save_model
from herohe_model.model.compute import AUTO, Compute
from herohe_model.model.new_model import new_model
from herohe_model.model.score import CompositeScore


@pytest.fixture(autouse=True, scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEROHE_RUNTIME_DIR", str(tmp_path_factory.mktemp("run") / "r"))
        yield


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[Running]:
    with serving(scripted(tmp_path)) as running:
        yield running
        running.open_gate()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model") / "m.safetensors")


@pytest.fixture(scope="module")
def real(model: Path) -> Iterator[Running]:
    """A server with the real worker."""
    with serving(ServerSettings(model, workers=(Compute("cpu"),))) as running:
        yield running


def pictures(count: int) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8) for _ in range(count)]


def the_same(one: list[CompositeScore], other: list[CompositeScore]) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(a.logits, b.logits) and np.array_equal(a.contributions, b.contributions)
        for a, b in zip(one, other, strict=True)
    )


def test_scores_are_bit_for_bit_those_of_the_scorer_in_process(real: Running, model: Path) -> None:
    with Client(FixedServer(real.address)) as client, Scorer.load(model, Compute("cpu")) as scorer:
        assert client.info == scorer.info
        # Many at a time, one at a time, in another order: neighbours do not matter.
        together = [future.result(PATIENCE_S) for future in [client.submit(p) for p in pictures(12)]]
        alone = [client.submit(p).result(PATIENCE_S) for p in reversed(pictures(12))]
        assert the_same(together, scorer.score(pictures(12)))
        assert the_same(alone, scorer.score(pictures(12)[::-1]))


def test_a_worker_killed_in_mid_work_changes_no_score(real: Running, model: Path) -> None:
    with Client(FixedServer(real.address)) as client, Scorer.load(model, Compute("cpu")) as scorer:
        futures = [client.submit(p) for p in pictures(40)]
        futures[3].result(PATIENCE_S)
        for worker in real.workers():
            worker.kill()
        assert the_same([future.result(PATIENCE_S) for future in futures], scorer.score(pictures(40)))


def test_many_threads_share_a_client(gated: Running) -> None:
    gated.open_gate()
    found: dict[int, float] = {}
    with Client(FixedServer(gated.address)) as client:

        def work(number: int) -> None:
            for name in range(number, number + 10):
                found[name] = float(client.submit(composite(name=name)).result(PATIENCE_S).logits[0])

        threads = [threading.Thread(target=work, args=(number,)) for number in range(0, 80, 10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {name: float(name) for name in range(80)}


def test_more_than_fit_into_the_window_wait_in_the_client(gated: Running) -> None:
    with Client(FixedServer(gated.address)) as client:
        futures = [client.submit(composite(WAIT_FOR_GATE, name)) for name in range(60)]
        wait_until(lambda: len(gated.begun()) == 1)
        assert gated.info().load.requests <= 8
        gated.open_gate()
        assert [future.result(PATIENCE_S).logits[0] for future in futures] == list(range(60))


def test_a_composite_of_another_shape_is_refused_at_once(gated: Running) -> None:
    with Client(FixedServer(gated.address)) as client:
        for wrong in (np.zeros((SIDE_PX, SIDE_PX), np.uint8), np.zeros((SIDE_PX, SIDE_PX, 3), np.float32)):
            with pytest.raises(OptionError, match=str(SIDE_PX)):
                client.submit(wrong)  # type: ignore[arg-type]


def test_a_view_into_a_larger_picture_is_scored_as_its_copy(gated: Running) -> None:
    large = np.zeros((SIDE_PX * 2, SIDE_PX * 2, 3), np.uint8)
    large[::2, ::2] = composite(name=12)
    with Client(FixedServer(gated.address)) as client:
        assert client.submit(large[::2, ::2]).result(PATIENCE_S).logits[0] == 12


def test_a_cancelled_future_cancels_the_work_in_the_server(gated: Running) -> None:
    with Client(FixedServer(gated.address)) as client:
        futures = [client.submit(composite(WAIT_FOR_GATE, name)) for name in range(4)]
        wait_until(lambda: gated.begun() == [0])
        for future in futures[1:3]:
            assert future.cancel()
        wait_until(lambda: gated.info().load.in_work == 2)
        # Whoever waits is told, too.
        assert wait(futures[1:3], timeout=PATIENCE_S).not_done == set()
        gated.open_gate()
        assert futures[3].result(PATIENCE_S).logits[0] == 3
        assert gated.begun() == [0, 3]


def test_the_deadline_ends_the_wait(gated: Running) -> None:
    with Client(FixedServer(gated.address), deadline_s=0.5) as client:
        future = client.submit(composite(WAIT_FOR_GATE))
        with pytest.raises(ServerBusyError, match="deadline"):
            future.result(PATIENCE_S)
        gated.open_gate()
        assert client.submit(composite(name=5)).result(PATIENCE_S).logits[0] == 5


def test_closing_a_client_ends_what_it_waits_for(gated: Running) -> None:
    client = Client(FixedServer(gated.address))
    futures = [client.submit(composite(WAIT_FOR_GATE, name)) for name in range(12)]
    wait_until(lambda: gated.begun() == [0])
    client.close()
    client.close()
    for future in futures:
        with pytest.raises(FutureCancelledError):
            future.result(PATIENCE_S)
    with pytest.raises(CancelledError):
        client.submit(composite())
    wait_until(lambda: gated.info().load.queued == 0)


def test_a_server_that_is_busy_is_asked_again(tmp_path: Path) -> None:
    with serving(scripted(tmp_path, in_flight=2)) as running, Client(FixedServer(running.address)) as client:
        # As if another of this client's requests were open already.
        client._connection._window = 4
        futures = [client.submit(composite(WAIT_FOR_GATE, name)) for name in range(4)]
        wait_until(lambda: len(running.begun()) == 1)
        running.open_gate()
        assert [future.result(PATIENCE_S).logits[0] for future in futures] == [0, 1, 2, 3]


def test_a_lost_request_is_sent_again(gated: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge.client.connection, "REPEAT_S", 0.3)
    gated.open_gate()
    with Client(FixedServer(gated.address)) as client:
        send, lost = client._connection.send, []

        def lose_the_first(*message: object) -> None:
            if lost:
                send(*message)  # type: ignore[arg-type]
            lost.append(message)

        monkeypatch.setattr(client._connection, "send", lose_the_first)
        assert client.submit(composite(name=4)).result(PATIENCE_S).logits[0] == 4


def test_a_server_that_was_restarted_is_found_again(tmp_path: Path) -> None:
    wanted = ServerRequirements("0" * 64)
    settings = scripted(tmp_path)
    settings = replace(settings, workers=(AUTO,))
    with serving(settings) as first:
        assert find_server(wanted) == first.record
        client = Client(DiscoveredServer(wanted))
        futures = [client.submit(composite(WAIT_FOR_GATE, name)) for name in range(3)]
        wait_until(lambda: len(first.begun()) == 1)
    with serving(settings) as second:
        second.open_gate()
        assert [future.result(PATIENCE_S).logits[0] for future in futures] == [0, 1, 2]
        client.close()


def test_without_a_server_every_request_ends_in_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge.client.connection, "SILENT_S", 0.5)
    monkeypatch.setattr(bridge.client.connection, "GIVE_UP_S", 1.5)
    with serving(scripted(tmp_path)) as running:
        client = Client(FixedServer(running.address))
        futures = [client.submit(composite(WAIT_FOR_GATE, name)) for name in range(12)]
        wait_until(lambda: len(running.begun()) == 1)
    began = time.monotonic()
    for future in futures:
        with pytest.raises(ServerUnavailableError):
            future.result(PATIENCE_S)
    assert time.monotonic() - began < 20
    client.close()


def test_nobody_there_is_an_error_that_names_the_address() -> None:
    with pytest.raises(ServerUnavailableError, match=r"127\.0\.0\.1:9"):
        Client(FixedServer(ServerAddress("tcp://127.0.0.1:9")), hello_s=0.5)


def test_another_version_is_refused_with_the_side_to_update(
    gated: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, older in (("0.0.9", "this client"), ("99.0.0", "the server")):
        monkeypatch.setattr(bridge.client.client, "__version__", version)
        with pytest.raises(ProtocolError, match=f"Update {older}"):
            Client(FixedServer(gated.address))


def test_only_a_server_that_fits_is_used(gated: Running) -> None:
    record = gated.record
    fitting = ServerRequirements(record.model_sha256, Compute("cpu"))
    assert fitting.fits(record)
    assert ServerRequirements(record.model_sha256, Compute("cpu", "fp32")).fits(record)
    for other in (
        replace(fitting, model_sha256="1" * 64),
        replace(fitting, compute=Compute("cuda")),
        replace(fitting, compute=AUTO),
        replace(fitting, compute=Compute("cpu", "bf16")),
        replace(fitting, compute=Compute("cpu", engine="openvino")),
    ):
        assert not other.fits(record)
    for changes in ({"owned": True}, {"protocol": 99}, {"version": "99.0.0"}):
        from msgspec.structs import replace as changed

        assert not fitting.fits(changed(record, **changes))
    by_torch = changed(record, engine="torch 2.10.0", engine_asked="auto")
    assert ServerRequirements(record.model_sha256, Compute("cpu", "fp32", "torch")).fits(by_torch)
    gpu = changed(record, device="cuda:0 NVIDIA H200", devices_asked=("auto",))
    assert ServerRequirements(record.model_sha256, Compute("cuda")).fits(gpu)
    assert ServerRequirements(record.model_sha256, Compute("auto")).fits(gpu)
    assert not ServerRequirements(record.model_sha256, Compute("cuda:1")).fits(gpu)


def test_a_running_server_is_used_and_left_running(real: Running, model: Path) -> None:
    notices: list[str] = []
    with log_shown(notices.append), connect_or_start(model, Compute("cpu")) as client:
        assert client.server_info.instance == real.record.instance
    assert "Using the model server" in notices[0]
    assert real.info().instance == real.record.instance


def test_a_named_server_is_used_for_its_own_model_only(real: Running, tmp_path: Path) -> None:
    endpoint = real.record.endpoints[-1]
    with connect_or_start(None, server=endpoint) as client:
        assert client.server_info.instance == real.record.instance
    other = small_model(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(OptionError, match="small 0"), connect_or_start(other, server=endpoint):
        pass
    with (
        pytest.raises(ServerUnavailableError, match="status"),
        connect_or_start(None, server="tcp://127.0.0.1:9"),
    ):
        pass
    with (
        pytest.raises(OptionError, match="keys trust"),
        connect_or_start(None, server="tcp://example.org:5555"),
    ):
        pass


def test_an_own_server_ends_with_the_block_and_is_nobody_elses(model: Path) -> None:
    notices: list[str] = []
    with log_shown(notices.append), connect_or_start(model, Compute("cpu", "bf16")) as client:
        (record,) = [record for record in running_servers() if record.owned]
        processes = [psutil.Process(record.pid), *psutil.Process(record.pid).children(recursive=True)]
        assert len(processes) >= 2
        assert find_server(ServerRequirements(client.info.model_sha256, Compute("cpu", "bf16"))) is None
        assert client.submit(pictures(1)[0]).result(PATIENCE_S).logits.shape == (3,)
    assert all_gone(processes)
    assert record not in list(running_servers())
    assert "Starting a model server" in notices[0]
    assert "ready on cpu (bf16, torch 2." in notices[-1]


def test_an_own_server_passes_on_what_its_worker_says_and_scores_as_others_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Large enough that engines are compared, and nowhere to remember what comes of it: a worker says so.
    (tmp_path / "file").touch()
    monkeypatch.setenv("HEROHE_CACHE_DIR", str(tmp_path / "file"))
    card, state = new_model("test_resnet", head="free", target="ihc", patch_px=160)
    save_model(tmp_path / "m.safetensors", card, state)
    pixels = np.random.default_rng(3).integers(0, 256, (card.side_px, card.side_px, 3), dtype=np.uint8)
    notices: list[str] = []
    with log_shown(notices.append), connect_or_start(tmp_path / "m.safetensors", Compute("cpu")) as client:
        assert client.info.engine.startswith("openvino ")
        asked = client.submit(pixels).result(PATIENCE_S)
    assert any("HEROHE_CACHE_DIR" in notice for notice in notices)
    with Scorer.load(tmp_path / "m.safetensors", Compute("cpu")) as scorer:
        assert scorer.info == client.info
        here = scorer.score([pixels])[0]
    assert asked.logits.tobytes() == here.logits.tobytes()
    assert asked.contributions.tobytes() == here.contributions.tobytes()


def test_when_an_own_server_is_killed_requests_fail_soon_and_nothing_is_left(model: Path) -> None:
    own = ChildServer(model, Compute("cpu"))
    server = psutil.Process(own.record.pid)
    processes = [server, *server.children(recursive=True)]
    client = Client(own)
    client.submit(pictures(1)[0]).result(PATIENCE_S)
    server.suspend() if sys.platform != "win32" else None
    futures: list[Future[CompositeScore]] = [client.submit(p) for p in pictures(4)]
    server.kill()
    for future in futures:
        with pytest.raises(ServerUnavailableError):
            future.result(PATIENCE_S)
    client.close()
    own.close()
    assert all_gone(processes)
    assert own.record not in list(running_servers())


_OWNER = """
import sys
from contextlib import closing
from pathlib import Path
from bridge.client.child_server import ChildServer
from herohe_model.model.compute import Compute
with closing(ChildServer(Path(sys.argv[1]), Compute("cpu"))) as own:
    print("pid", own.record.pid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["killed", "interrupted"])
def test_an_own_server_ends_when_its_owner_is(
    model: Path, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEROHE_RUNTIME_DIR", str(tmp_path / "r"))
    with subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        pid = next(line.split()[1] for line in owner.stdout if line.startswith("pid"))
        processes = [psutil.Process(int(pid)), *psutil.Process(int(pid)).children(recursive=True)]
        assert len(processes) >= 2
        owner.kill() if how == "killed" else owner.send_signal(signal.SIGINT)
        owner.wait(PATIENCE_S)
    assert all_gone(processes)
    # The server of this process itself is found under every directory that is named.
    assert not [server for server in running_servers() if server.pid != os.getpid()]


def test_an_own_server_that_cannot_start_says_why(model: Path) -> None:
    with pytest.raises(DeviceError, match="cuda:99"), connect_or_start(model, Compute("cuda:99")):
        pass


def test_a_damaged_model_is_an_error_before_anything_is_started(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelFileError), connect_or_start(tmp_path / "m.safetensors"):
        pass
    with pytest.raises(OptionError, match="no model"), connect_or_start(None):
        pass
