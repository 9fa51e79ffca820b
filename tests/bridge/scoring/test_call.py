"""What a result says follows from what its model learned: grades, calls, and what contradicts itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.small_slides import drawn, small_model, small_slide

from bridge.annotations.regions import build_regions
from bridge.results.files import COLUMNS, write_csv
from bridge.results.schema import SlideResult, image_metadata, measurements
from bridge.scoring.options import ScoreOptions, WriteOptions
from bridge.scoring.region import contradiction
from bridge.scoring.slide import score_slide
from bridge.writing.plan import plan_writing
from herohe_model.engines.scorer import Scorer
from herohe_model.model.calibration import CallRule, Platt
from herohe_model.model.checkpoint import join_members, load_model
from herohe_model.model.compute import Compute
from herohe_model.slides.slide import Slide

ISH = ">=2+/ISH+"
LINE = Platt(slope=2.0, intercept=-0.5, cases=40, reached=20)
RULE = CallRule(positive_above=0.7, negative_below=0.3, positive_chosen="so", negative_chosen="so")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model") / "m.safetensors", target="ihc+ish")


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slide]:
    with Slide(small_slide(tmp_path_factory.mktemp("slide") / "s.tif")) as slide:
        yield slide


def scored(model: Path, slide: Slide, *, options: ScoreOptions | None = None, **card: Any) -> SlideResult:
    loaded, state, _ = load_model(model)
    changed = msgspec.structs.replace(loaded, **card)
    if changed.members > 1:
        _card, more, _ = load_model(small_model(model.with_name("other"), seed=1, target="ihc+ish"))
        state = join_members([state, more])
    regions = build_regions(
        [drawn(64, 64, 320, 320)], region_classes=("Tumor",), exclude_classes=(), slide_box=slide.bounds
    )
    with Scorer(changed, state, Compute("cpu", "fp32", "torch")) as scorer:
        return score_slide(slide, regions, options or ScoreOptions(composites=3), scorer)


def test_labels_of_the_status_alone_give_no_grade_anywhere(model: Path, slide: Slide, tmp_path: Path) -> None:
    result = scored(model, slide, knowledge="trained", learned=(ISH,))
    assert result.union is not None and result.union.prediction is not None
    prediction = result.union.prediction
    assert (prediction.grade, prediction.expected_grade, prediction.p_low) == ("", None, None)
    assert prediction.at_least == prediction.levels == {}
    assert {composite.grade for composite in result.union.composites} == {""}
    assert result.provenance is not None and result.provenance.steps == (ISH,)
    assert {len(patch.contributions) for patch in result.union.patches} == {1}
    told = measurements(result.union)
    assert not [name for name in told if "grade" in name or "P(>=" in name or "P(3+)" in name]
    assert image_metadata(result)["HER2-HE grade"] == ""
    plan = plan_writing(result, WriteOptions(), {"a1": drawn(64, 64, 320, 320).geometry})
    assert [annotation.grade for annotation in plan.annotations] == [None]
    write_csv(tmp_path / "r.csv", [result])
    line = (tmp_path / "r.csv").read_text(encoding="utf-8").splitlines()[1].split(",")
    cells = dict(zip(COLUMNS, line, strict=False))
    assert {cells[name] for name in ("grade", "p_ge_1", "p_ge_2", "p_3", "p_low", "expected_grade")} == {""}
    assert prediction.status in ("HER2-positive", "HER2-negative")


def test_a_model_without_thresholds_calls_nothing(model: Path, slide: Slide) -> None:
    result = scored(model, slide, knowledge="trained")
    assert result.union is not None and result.union.prediction is not None
    assert result.union.prediction.call == ""
    assert result.union.prediction.p_positive_from is None


def test_a_calibrated_ensemble_calls_in_three_by_the_ends_of_its_spread(model: Path, slide: Slide) -> None:
    learned = (ISH, ">=1+")
    result = scored(
        model,
        slide,
        knowledge="trained",
        members=2,
        learned=learned,
        calibration={ISH: LINE, ">=1+": LINE},
        call=RULE,
    )
    assert result.union is not None and result.union.prediction is not None
    found = result.union.prediction
    assert found.p_positive_from is not None and found.p_positive_to is not None
    assert found.p_positive_from < found.p_positive < found.p_positive_to
    assert found.call == RULE.call(found.p_positive_from, found.p_positive_to)
    assert found.p_positive_member_sd is not None and found.p_positive_member_sd > 0
    assert found.p_low == pytest.approx(found.at_least["1+"] - found.p_positive, abs=2e-6)
    assert {len(composite.members) for composite in result.union.composites} == {2}
    assert image_metadata(result)["HER2-HE call"] == found.call
    assert measurements(result.union)["HER2-HE: P(HER2-low)"] == found.p_low


@pytest.mark.parametrize("knowledge", ["demo", "random"])
def test_a_toy_says_first_of_all_that_it_means_nothing(model: Path, slide: Slide, knowledge: str) -> None:
    result = scored(model, slide, knowledge=knowledge)
    assert "means nothing" in result.warnings[0]
    assert image_metadata(result)["HER2-HE model"].startswith(f"[{knowledge}: means nothing]")


def test_what_contradicts_itself_is_said(model: Path, slide: Slide) -> None:
    result = scored(model, slide, knowledge="trained")
    assert result.union is not None and result.union.prediction is not None
    replace = msgspec.structs.replace
    base = replace(result.union.prediction, status="HER2-positive", grade="2+", call="")
    assert contradiction(base) == ()
    assert contradiction(replace(base, call="uncertain: IHC, and ISH at 2+")) == ()
    (said,) = contradiction(replace(base, grade="1+"))
    assert "HER2-positive, but grade 1+" in said
    (said,) = contradiction(replace(base, status="HER2-negative", grade="3+", call="likely negative"))
    assert "grade 3+, but HER2-negative and likely negative" in said


def test_symmetries_give_the_mean_of_eight_positions_with_shares_that_add_up(
    model: Path, slide: Slide
) -> None:
    options = ScoreOptions(composites=2, symmetries=True)
    result = scored(model, slide, options=options)
    plain = scored(model, slide, options=ScoreOptions(composites=2))
    assert result.union is not None and plain.union is not None
    for number, composite in enumerate(result.union.composites):
        shares = [p.contributions for p in result.union.patches if p.composite == number]
        for bit, logit in enumerate(composite.logits):
            assert sum(share[bit] for share in shares) == pytest.approx(logit, abs=1e-4)
    where = [(p.x, p.y, p.composite, p.cell) for p in plain.union.patches]
    assert [(p.x, p.y, p.composite, p.cell) for p in result.union.patches] == where
    assert result.union.composites != plain.union.composites
