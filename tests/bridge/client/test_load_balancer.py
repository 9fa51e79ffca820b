"""Several servers as one scorer: with scripted workers, and with real scorers where scores are compared."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from helpers.scripted_worker import WAIT_FOR_GATE
from helpers.servers import (
    PATIENCE_S,
    SIDE_PX,
    Running,
    composite,
    scripted,
    serving,
    wait_until,
)
from helpers.small_slides import small_model
from numpy.typing import NDArray

import bridge.client.connection
from bridge.client.load_balancer import SpreadScorer, connect_servers
from herohe_model.engines.scorer import Scorer
from herohe_model.errors import OptionError, RemoteError, ServerUnavailableError
from herohe_model.model.card import ModelCard
from herohe_model.model.compute import Compute
from herohe_model.model.score import CompositeScore, ScorerInfo


@pytest.fixture(autouse=True, scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEROHE_RUNTIME_DIR", str(tmp_path_factory.mktemp("run") / "r"))
        yield


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Running, Running]]:
    with serving(scripted(tmp_path / "a")) as a, serving(scripted(tmp_path / "b")) as b:
        yield a, b
        a.open_gate()
        b.open_gate()


def endpoints(*servers: Running) -> list[str]:
    return [server.record.endpoints[-1] for server in servers]


class Told:
    """A scorer that answers when, and what, it is told."""

    def __init__(self, card: ModelCard, *, sha256: str = "0" * 64, device: str = "cpu") -> None:
        self.info = ScorerInfo(card, sha256, device, "fp32", "torch 2.10")
        self.asked: list[Future[CompositeScore]] = []
        self.closed = False

    head = None

    def submit(self, pixels: NDArray[np.uint8]) -> Future[CompositeScore]:
        self.asked.append(Future())
        return self.asked[-1]

    def close(self) -> None:
        self.closed = True


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scorer]:
    with Scorer.load(
        small_model(tmp_path_factory.mktemp("m") / "m.safetensors"), Compute("cpu", "fp32")
    ) as scorer:
        yield scorer


def test_composites_are_spread_and_scored_as_by_one(scorer: Scorer, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8) for _ in range(6)]
    with Scorer.load(small_model(tmp_path / "m.safetensors"), Compute("cpu", "fp32")) as other:
        both = SpreadScorer({"a": scorer, "b": other})
        assert both.info == scorer.info
        scores = [future.result(PATIENCE_S) for future in [both.submit(p) for p in pictures]]
    for score, alone in zip(scores, scorer.score(pictures), strict=True):
        assert np.array_equal(score.logits, alone.logits)
        assert np.array_equal(score.contributions, alone.contributions)


def test_each_composite_goes_to_the_server_that_has_the_fewest(two: tuple[Running, Running]) -> None:
    a, b = two
    with connect_servers(endpoints(a, b), None) as both:
        futures = [both.submit(composite(WAIT_FOR_GATE, name)) for name in range(6)]
        wait_until(lambda: a.info().load.requests == 3 and b.info().load.requests == 3)
        b.open_gate()
        wait_until(lambda: sum(future.done() for future in futures) == 3)
        futures += [both.submit(composite(name=name)) for name in range(6, 9)]
        wait_until(lambda: all(future.done() for future in futures[6:]))
        a.open_gate()
        assert [future.result(PATIENCE_S).logits[0] for future in futures] == list(range(9))


def test_a_server_that_ends_leaves_its_composites_to_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bridge.client.connection, "SILENT_S", 0.5)
    monkeypatch.setattr(bridge.client.connection, "GIVE_UP_S", 1.5)
    with serving(scripted(tmp_path / "b")) as b:
        with serving(scripted(tmp_path / "a")) as a:
            named = endpoints(a, b)
            spread = connect_servers(named, None)
            both = spread.__enter__()
            futures = [both.submit(composite(WAIT_FOR_GATE, name)) for name in range(8)]
            wait_until(lambda: len(a.begun()) == 1 and len(b.begun()) == 1)
        b.open_gate()
        assert [future.result(PATIENCE_S).logits[0] for future in futures] == list(range(8))
        assert caplog.text.count(f"Going on without {named[0]}") == 1
        # It is not asked any more.
        assert both.submit(composite(name=9)).result(PATIENCE_S).logits[0] == 9
        b.server.cut_off()
        b.thread.join()
        with pytest.raises(ServerUnavailableError, match=f"{named[0]}, {named[1]}"):
            both.submit(composite()).result(PATIENCE_S)
        with pytest.raises(ServerUnavailableError, match="start them again"):
            both.submit(composite())
        spread.__exit__(None, None, None)


def test_an_error_of_a_composite_is_its_own(scorer: Scorer) -> None:
    one, two = Told(scorer.info.card), Told(scorer.info.card)
    both = SpreadScorer({"a": one, "b": two})
    future = both.submit(composite())
    one.asked[0].set_exception(RemoteError("2 workers ended while they scored a composite"))
    with pytest.raises(RemoteError):
        future.result(0)
    assert two.asked == []


def test_cancelling_reaches_the_server_that_has_it(scorer: Scorer) -> None:
    one, two = Told(scorer.info.card), Told(scorer.info.card)
    both = SpreadScorer({"a": one, "b": two})
    future = both.submit(composite())
    assert future.cancel() and one.asked[0].cancelled()
    with pytest.raises(FutureCancelledError):
        future.result(0)
    # A server that is lost then does not pass on what nobody wants.
    lost = both.submit(composite())
    one.asked[1].set_running_or_notify_cancel()
    assert lost.cancel()
    one.asked[1].set_exception(ServerUnavailableError("gone"))
    assert two.asked == []
    both.close()
    assert one.closed and two.closed


def test_servers_that_differ_are_refused_and_both_are_named(scorer: Scorer) -> None:
    one = Told(scorer.info.card)
    for other in (
        Told(scorer.info.card, sha256="1" * 64),
        Told(scorer.info.card, device="cuda:0 NVIDIA H100"),
    ):
        with pytest.raises(OptionError, match=r"tcp://a.*tcp://b"):
            SpreadScorer({"tcp://a": one, "tcp://b": other})


def test_the_model_that_was_named_must_be_the_servers(two: tuple[Running, Running], tmp_path: Path) -> None:
    model = small_model(tmp_path / "m.safetensors")
    with pytest.raises(OptionError, match="scripted"), connect_servers(endpoints(*two), model):
        pass
