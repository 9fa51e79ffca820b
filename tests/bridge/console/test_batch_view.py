from __future__ import annotations

import io
import json
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from helpers.example_results import made_result
from helpers.small_slides import drawn, small_model, small_slide
from numpy.typing import NDArray
from rich.console import Console

from bridge.annotations.geojson_writing import write_annotations
from bridge.batch.measured_scorer import Counts, MeasuredScorer
from bridge.batch.options import BatchOptions
from bridge.batch.run import run_batch
from bridge.batch.stats import WINDOW_S, BatchProgress
from bridge.console.batch_view import BatchView, outcome_line, pace, render
from bridge.console.training_view import TrainingView
from bridge.projects.open import open_collection
from bridge.results.schema import Outcome, SlideResult
from bridge.scoring.options import ScoreOptions
from bridge.scoring.progress import Progress
from herohe_model.engines.scorer import Scorer
from herohe_model.errors import CancelledError
from herohe_model.model.compute import Compute
from herohe_model.model.new_model import new_model
from herohe_model.model.score import CompositeScore, ScorerInfo


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Waiting:
    """A scorer that never finishes by itself."""

    def __init__(self) -> None:
        self.futures: list[Future[CompositeScore]] = []
        self.closed = False
        card, _ = new_model("test_resnet", head="free", target="ihc", patch_px=32, mpp=0.5)
        self.info = ScorerInfo(card, "ab", "cpu", "fp32", "abacus 1")

    head = None

    def submit(self, pixels: NDArray[np.uint8]) -> Future[CompositeScore]:
        if self.closed:
            raise CancelledError("closed")
        self.futures.append(Future())
        return self.futures[-1]

    def close(self) -> None:
        self.closed = True


def lines_of(log: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


def a_view(*, terminal: bool = False, log: io.StringIO | None = None) -> tuple[BatchView, io.StringIO, Clock]:
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=terminal, width=120, color_system=None)
    return BatchView(console, log, clock), out, clock


def test_rates_are_those_of_the_last_seconds_and_the_time_left_that_of_the_whole_run() -> None:
    clock = Clock()
    counts = [Counts()]
    progress = BatchProgress(lambda: counts[0], clock)
    progress.started(10)
    for second in range(1, 101):
        clock.now = 100.0 + second
        # Two composites a second, and none any more after half of the time.
        done = min(second, 50) * 2
        counts[0] = Counts(read=done + 3, scored=done, busy_s=min(second, 50) * 0.5)
        progress.running([("a", Progress("composites", done, 200))])
        if second == 40:
            early = progress.figures()
    late = progress.figures()
    assert early.composites_per_s == early.read_per_s == pytest.approx(2.0)
    assert early.device_busy == pytest.approx(0.5) and early.composites_queued == 3
    assert early.left_s == pytest.approx(40 / 0.4 * (10 - 0.4), abs=0.1)
    assert late.composites_scored == 100 and late.composites_per_s == 0.0 and late.device_busy == 0.0
    assert late.elapsed_s == 100.0 > WINDOW_S


def test_slides_known_before_say_nothing_of_the_pace() -> None:
    clock = Clock()
    progress = BatchProgress(clock=clock)
    progress.started(4)
    clock.now += 10
    progress.finished(made_result("1"), reused=True)
    assert progress.figures().left_s is None
    clock.now += 10
    progress.finished(made_result("2"), reused=False)
    figures = progress.figures()
    assert figures.left_s == pytest.approx(40.0) and figures.slides_per_min == pytest.approx(3.0)
    assert figures.composites_scored == 2 and figures.outcomes == {"scored": 2}
    assert figures.read_per_s is figures.device_busy is None


def test_slides_that_end_at_once_are_no_rate() -> None:
    """A run of which all was known, but for slides that nothing matched, took a tenth of a second."""
    view, out, clock = a_view()
    view.started(9)
    for entry in range(6):
        view.finished(made_result(str(entry)), reused=True)
    clock.now += 0.1
    for entry in range(6, 9):
        view.finished(SlideResult(str(entry), "x", "", Outcome.NO_MATCHING_ANNOTATION), reused=False)
    assert "slides/" not in out.getvalue()


def test_few_slides_a_minute_are_told_by_the_hour() -> None:
    clock = Clock()
    progress = BatchProgress(clock=clock)
    progress.started(2)
    clock.now += 600
    progress.finished(made_result("1"), reused=False)
    assert pace(progress.figures()).startswith("6.0 slides/h, 0:10:00")


def test_a_finished_slides_composites_count_once() -> None:
    progress = BatchProgress(clock=Clock())
    progress.started(2)
    progress.running([("slide-1.tif", Progress("composites", 2, 2))])
    assert progress.figures().composites_scored == 2
    progress.finished(made_result("1"), reused=False)
    figures = progress.figures()
    assert figures.composites_scored == 2 and figures.running == () and figures.slides_waiting == 1


def test_a_measured_scorer_counts_what_is_in_its_hands() -> None:
    clock, inner = Clock(), Waiting()
    scorer = MeasuredScorer(inner, clock)
    pixels = np.zeros((160, 160, 3), np.uint8)
    first, second = scorer.submit(pixels), scorer.submit(pixels)
    clock.now += 2
    assert scorer.counts() == Counts(read=2, scored=0, busy_s=2.0)
    first.set_result(CompositeScore(np.zeros(3, np.float32), np.zeros((25, 3), np.float32)))
    clock.now += 1
    second.cancel()
    clock.now += 5
    assert scorer.counts() == Counts(read=2, scored=2, busy_s=3.0)
    scorer.close()
    with pytest.raises(CancelledError):
        scorer.submit(pixels)
    assert scorer.counts() == Counts(read=2, scored=2, busy_s=3.0)
    assert scorer.info == inner.info


def test_without_a_terminal_each_slide_is_one_plain_line() -> None:
    view, out, clock = a_view()
    with view:
        view.started(2)
        clock.now += 11
        view.running([("slide-1.tif", Progress("composites", 1, 2)), ("b", Progress("foreground", 0, 1))])
        view.finished(made_result("1"), reused=False)
        view.finished(SlideResult("2", "[red]b[/red]", "b", Outcome.FAILED, "It broke."), reused=True)
    text = out.getvalue()
    assert "0/2 slides; slide-1.tif 1/2 composites, b finding tissue" in text
    assert "[1/2] slide-1.tif: scored, grade 2+, HER2-positive, P(positive) 0.750" in text
    assert "    warning: coarse" in text
    assert "[2/2] [red]b[/red]: failed. It broke. (known from an earlier run)" in text
    assert "\x1b" not in text


def test_a_terminal_shows_slides_rates_queue_device_outcomes_and_time_left() -> None:
    view, _, clock = a_view(terminal=True)
    scorer = Waiting()
    measured = view.measure(scorer)
    view.started(5)
    view.finished(made_result("0"), reused=False)
    for _ in range(2):
        measured.submit(np.zeros((160, 160, 3), np.uint8))
    clock.now += 10
    view.running([("slide-1.tif", Progress("composites", 1, 4))])
    sheet = Console(file=io.StringIO(), width=120, record=True)
    sheet.print(render(view._progress.figures(), "cpu, fp32"))
    text = sheet.export_text()
    for part in (
        "slide-1.tif",
        "1/4 composites",
        "1/5",
        "read 0.20/s",
        "scored 0.30/s",
        "2 queued",
        "3 slides waiting",
        "device cpu, fp32, has work 100% of the time",
        "1 scored",
        "left",
    ):
        assert part in text


def test_the_log_holds_the_same_figures_as_json_lines() -> None:
    log = io.StringIO()
    view, _, clock = a_view(log=log)
    with view:
        view.started(1)
        view.running([("slide-1.tif", Progress("composites", 0, 2))])
        clock.now += 2
        view.running([("slide-1.tif", Progress("composites", 1, 2))])
        view.finished(made_result("1"), reused=False)
    started, progress, finished, ended = lines_of(log)
    assert [line["event"] for line in (started, progress, finished, ended)] == [
        "started",
        "progress",
        "finished",
        "ended",
    ]
    assert progress["running"] == [{"slide": "slide-1.tif", "stage": "composites", "done": 1, "total": 2}]
    assert progress["composites_per_s"] == 0.5 and progress["slides_total"] == 1
    assert finished["slide"] == "slide-1.tif" and finished["p_positive"] == 0.75
    assert ended["outcomes"] == {"scored": 1} and ended["left_s"] == 0.0


def test_stopping_a_large_run_does_not_print_a_line_for_every_slide_that_was_not_begun() -> None:
    log = io.StringIO()
    view, out, _ = a_view(log=log)
    with view:
        view.started(3)
        view.finished(made_result("0"), reused=False)
        for name in ("1", "2"):
            view.finished(SlideResult(name, name, name, Outcome.CANCELLED, "Not begun."), reused=False)
    assert "slide-0.tif: scored" in out.getvalue() and "Not begun" not in out.getvalue()
    assert [line["outcome"] for line in lines_of(log)[1:-1]] == ["scored", "cancelled", "cancelled"]


class Full(io.StringIO):
    def write(self, _: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_log_that_cannot_be_written_does_not_stop_the_batch() -> None:
    view, out, _ = a_view(log=Full())
    with view:
        view.started(1)
        view.finished(made_result("1"), reused=False)
    assert out.getvalue().count("No space left on device") == 1
    assert "[1/1] slide-1.tif: scored" in out.getvalue()


def test_an_outcome_in_words_names_the_slide_and_the_remedy() -> None:
    result = SlideResult("1", "a.svs", "a.svs", Outcome.UNREADABLE, "a.svs is damaged. Copy it again.")
    assert outcome_line(result) == "a.svs: unreadable. a.svs is damaged. Copy it again."


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scorer]:
    with Scorer.load(
        small_model(tmp_path_factory.mktemp("model") / "m.safetensors"), Compute("cpu", "fp32")
    ) as loaded:
        yield loaded


def test_a_real_batch_is_counted_and_scored_alike_with_and_without_measuring(
    tmp_path: Path, scorer: Scorer
) -> None:
    for number in range(2):
        write_annotations(small_slide(tmp_path / f"s{number}.tif", seed=number), [drawn(64, 64, 256, 320)])
    options = BatchOptions(region_classes=("Tumor",), score=ScoreOptions(composites=3))
    log = io.StringIO()
    view, _, _ = a_view(log=log)
    with view:
        run_batch(
            open_collection(tmp_path),
            view.measure(scorer),
            options,
            output=tmp_path / "measured",
            listener=view,
        )
    plain, _, _ = a_view()
    run_batch(open_collection(tmp_path), scorer, options, output=tmp_path / "plain", listener=plain)
    assert lines_of(log)[-1]["composites_scored"] == 6 and lines_of(log)[-1]["composites_queued"] == 0
    assert (tmp_path / "measured/results.json").read_bytes() == (tmp_path / "plain/results.json").read_bytes()


class _Closed(io.StringIO):
    """A terminal that is there no more."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def test_a_terminal_that_is_closed_ends_neither_a_batch_nor_a_training() -> None:
    with BatchView(Console(file=_Closed()), io.StringIO(), Clock()) as view:
        view.started(1)
        view.finished(made_result("1"), reused=False)
    with TrainingView(Console(file=_Closed())) as training:
        training.begin("training", 2, "steps")
        training.advance(2)
