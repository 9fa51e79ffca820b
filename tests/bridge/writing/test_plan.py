from __future__ import annotations

import msgspec
import pytest
from helpers.example_results import made_result
from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

from bridge.annotations.transform import SlideTransform
from bridge.results.schema import (
    Outcome,
    PlacedPatch,
    RegionResult,
    SlideResult,
    measurements,
)
from bridge.scoring.options import WriteOptions
from bridge.writing.for_script import composite_layout
from bridge.writing.plan import kept_result, plan_writing

# Patches of made_result(), 50 px wide: sampled at (100, 200), (150, 200), (100, 250); not at (200, 250).
BIG, SMALL = box(80, 180, 400, 400), box(90, 190, 160, 260)
BOTH = {"a": BIG, "b": SMALL}


def corners(
    result: SlideResult, options: WriteOptions, areas: dict[str, BaseGeometry]
) -> dict[str, set[object]]:
    plan = plan_writing(result, options, areas)
    return {a.id: {(t.x, t.y) for t in a.tiles} for a in plan.annotations}


def test_every_sampled_annotation_carries_the_slides_values() -> None:
    result = made_result()
    plan = plan_writing(result, WriteOptions(), BOTH)
    assert result.union is not None
    assert [a.id for a in plan.annotations] == ["a", "b"]
    assert all(a.measurements == measurements(result.union) for a in plan.annotations)
    assert all(a.grade == "2+" for a in plan.annotations)
    assert plan.whole_image is None


def test_a_tile_goes_under_the_smallest_annotation_that_contains_its_centre() -> None:
    assert corners(made_result(), WriteOptions(), BOTH) == {"b": {(100, 200)}, "a": {(150, 200), (100, 250)}}


def test_a_tile_whose_centre_is_in_none_goes_to_the_nearest() -> None:
    areas = {"a": box(0, 0, 95, 300), "b": box(160, 190, 300, 240)}
    assert corners(made_result(), WriteOptions(), areas) == {"a": {(100, 250), (100, 200)}, "b": {(150, 200)}}


def test_a_patch_drawn_twice_is_one_tile() -> None:
    assert plan_writing(made_result(), WriteOptions(), BOTH).tile_count == 3


@pytest.mark.parametrize(("tiles", "count"), [("none", 0), ("sampled", 3), ("all", 4)])
def test_tiles_are_shown_as_asked(tiles: str, count: int) -> None:
    options = msgspec.convert({"tiles": tiles}, WriteOptions)
    assert plan_writing(made_result(), options, BOTH).tile_count == count


def test_classes_are_left_alone_when_asked() -> None:
    plan = plan_writing(made_result(), WriteOptions(classify=False), BOTH)
    assert [a.grade for a in plan.annotations] == [None, None]


def own(id: str, *places: tuple[int, int], grade: str = "3+") -> RegionResult:
    """The result of one annotation that was scored for itself."""
    region = made_result().union
    assert region is not None
    assert region.prediction is not None
    return msgspec.structs.replace(
        region,
        region=id,
        annotations=(id,),
        patches=tuple(PlacedPatch(x, y, 50, 0, 0, 0.5, (9.0, 9.0, 9.0)) for x, y in places),
        unsampled=(),
        prediction=msgspec.structs.replace(region.prediction, grade=grade),
    )


def test_annotations_scored_for_themselves_carry_their_own() -> None:
    result = msgspec.structs.replace(
        made_result(), annotations=(own("a", (300, 300), (100, 200)), own("b", (100, 200), grade="0"))
    )
    plan = plan_writing(result, WriteOptions(), BOTH)
    assert [a.grade for a in plan.annotations] == ["3+", "0"]
    assert corners(result, WriteOptions(), BOTH) == {"a": {(300, 300)}, "b": {(100, 200)}}


def test_an_annotation_too_small_for_itself_shows_the_unions_patches() -> None:
    poor = msgspec.structs.replace(
        own("b"), outcome=Outcome.INSUFFICIENT_TISSUE, prediction=None, patches=(), composites=()
    )
    result = msgspec.structs.replace(made_result(), annotations=(own("a", (300, 300)), poor))
    plan = plan_writing(result, WriteOptions(), BOTH)
    assert [a.grade for a in plan.annotations] == ["3+", None]
    assert "HER2-HE: P(positive)" not in plan.annotations[1].measurements
    assert corners(result, WriteOptions(), BOTH) == {"a": {(300, 300)}, "b": {(100, 200)}}


def test_a_whole_slide_gets_one_annotation() -> None:
    result = made_result()
    assert result.union is not None
    result = msgspec.structs.replace(result, union=msgspec.structs.replace(result.union, annotations=()))
    plan = plan_writing(result, WriteOptions(), {})
    assert plan.annotations == ()
    assert plan.whole_image is not None
    assert plan.whole_image.grade == "2+"
    assert len(plan.whole_image.tiles) == 3


def test_too_little_tissue_gives_counts_but_no_grade() -> None:
    result = made_result()
    assert result.union is not None
    poor = msgspec.structs.replace(
        result.union, outcome=Outcome.INSUFFICIENT_TISSUE, prediction=None, patches=(), composites=()
    )
    plan = plan_writing(msgspec.structs.replace(result, union=poor), WriteOptions(), BOTH)
    assert [a.grade for a in plan.annotations] == [None, None]
    assert plan.annotations[0].measurements["HER2-HE: patches foreground"] == 4.0
    whole = msgspec.structs.replace(result, union=msgspec.structs.replace(poor, annotations=()))
    assert not plan_writing(whole, WriteOptions(), {})


def test_nothing_is_planned_without_a_region() -> None:
    result = msgspec.structs.replace(made_result(), union=None, outcome=Outcome.NO_MATCHING_ANNOTATION)
    assert not plan_writing(result, WriteOptions(), BOTH)


def test_what_is_kept_for_the_panel_has_everything_but_patches() -> None:
    result = made_result()
    kept = msgspec.json.decode(kept_result(result))["result"]
    assert result.union is not None and result.union.prediction is not None and result.provenance is not None
    assert kept["union"]["prediction"]["p_positive"] == result.union.prediction.p_positive
    assert kept["provenance"]["trained_on"] == result.provenance.trained_on
    assert kept["provenance"]["decision_threshold"] == result.provenance.decision_threshold
    assert not {"patches", "composites", "unsampled"} & kept["union"].keys() and "outlines" not in kept


def test_composites_of_annotations_with_one_identifier_are_all_kept() -> None:
    result = made_result()
    assert result.union is not None
    twin = msgspec.structs.replace(result.union, region="twin")
    both = msgspec.structs.replace(result, annotations=(twin, twin))
    layout = composite_layout(both, SlideTransform(1000, 1000))
    assert len(layout["regions"]["twin"]) == 2 * len(result.union.composites)
