from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.small_slides import drawn, small_model, small_slide
from numpy.typing import NDArray

from bridge.annotations.geojson_writing import write_annotations
from bridge.batch.deferred_executor import DeferredExecutor
from bridge.batch.executor import ThreadExecutor
from bridge.batch.last_scorer import last_scorer, remember_scorer
from bridge.batch.options import BatchOptions
from bridge.batch.run import BatchSummary, NullListener, run_batch_on
from bridge.projects.open import open_collection
from bridge.results.files import read_json
from bridge.results.schema import Outcome
from bridge.scoring.options import ScoreOptions
from herohe_model.engines.scorer import Scorer
from herohe_model.model.compute import Compute
from herohe_model.model.score import CompositeScore, CompositeScorer, ScorerInfo

OPTIONS = BatchOptions(region_classes=("Tumor",), score=ScoreOptions(composites=2))
WISHES = Compute("cpu", "fp32")


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scorer]:
    with Scorer.load(small_model(tmp_path_factory.mktemp("model") / "m.safetensors"), WISHES) as scorer:
        yield scorer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(2):
        slide = small_slide(tmp_path / f"s{number}.tif", seed=number)
        write_annotations(slide, [drawn(64, 64, 256, 320)])
    return tmp_path


def run(
    folder: Path, scorer: CompositeScorer, expected: ScorerInfo | None, options: BatchOptions = OPTIONS
) -> tuple[BatchSummary, bool]:
    """How a run ended, and whether it needed the scorer."""
    with ThreadExecutor(scorer, 2) as threads:
        executor = DeferredExecutor(lambda: threads, expected, scorer.info.model)
        summary = run_batch_on(
            executor, open_collection(folder), options, output=folder / "out", listener=NullListener()
        )
        return summary, executor.begun


def test_nothing_is_begun_where_all_is_known(folder: Path, scorer: Scorer) -> None:
    first, begun = run(folder, scorer, None)
    assert begun and first.outcomes == {Outcome.SCORED: 2}
    results = (folder / "out" / "results.json").read_bytes()
    again, begun = run(folder, scorer, scorer.info)
    assert not begun
    assert (again.outcomes, again.reused) == ({Outcome.SCORED: 2}, 2)
    assert (folder / "out" / "results.json").read_bytes() == results


def test_nothing_is_begun_where_nothing_matches(folder: Path, scorer: Scorer) -> None:
    summary, begun = run(folder, scorer, None, replace(OPTIONS, region_classes=("Necrosis",)))
    assert not begun
    assert summary.outcomes == {Outcome.NO_MATCHING_ANNOTATION: 2}
    assert {
        result.provenance.device for result in read_json(folder / "out" / "results.json") if result.provenance
    } == {""}


def test_one_slide_that_is_new_begins_it(folder: Path, scorer: Scorer) -> None:
    run(folder, scorer, None)
    write_annotations(folder / "s1.tif", [drawn(64, 64, 200, 320)])
    summary, begun = run(folder, scorer, scorer.info)
    assert begun and (summary.outcomes, summary.reused) == ({Outcome.SCORED: 2}, 1)


class Renamed:
    """A scorer that says it is another engine."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self.info = replace(scorer.info, engine="openvino 2020.1")

    head = None

    def submit(self, pixels: NDArray[np.uint8]) -> Future[CompositeScore]:
        return self._scorer.submit(pixels)

    def close(self) -> None: ...


def test_another_engine_than_the_last_time_scores_every_slide(folder: Path, scorer: Scorer) -> None:
    former = Renamed(scorer)
    run(folder, former, None)
    small_slide(folder / "s2.tif", seed=2)
    write_annotations(folder / "s2.tif", [drawn(64, 64, 256, 320)])
    summary, begun = run(folder, scorer, former.info)
    assert begun and (summary.outcomes, summary.reused) == ({Outcome.SCORED: 3}, 0)
    results = read_json(folder / "out" / "results.json")
    engines = [result.provenance.engine for result in results if result.provenance]
    assert engines == [scorer.info.engine] * 3


def test_what_scored_is_remembered_for_the_same_model_and_wishes(scorer: Scorer) -> None:
    assert last_scorer(scorer.info.model, WISHES) is None
    remember_scorer(scorer.info, WISHES)
    assert last_scorer(scorer.info.model, WISHES) == scorer.info
    assert last_scorer(scorer.info.model, Compute()) is None
    assert last_scorer(replace(scorer.info.model, sha256="0" * 64), WISHES) is None
    newer = replace(scorer.info, engine="torch 99")
    remember_scorer(newer, WISHES)
    assert last_scorer(scorer.info.model, WISHES) == newer
