from __future__ import annotations

import msgspec
import pytest
from helpers.example_results import STEPS, made_provenance, made_region, made_result

from bridge.results.schema import (
    Outcome,
    SlideResult,
    image_metadata,
    measurements,
    rounded,
    tile_measurements,
    tiles,
)


def test_measurement_names_are_those_that_users_scripts_rely_on() -> None:
    assert measurements(made_region()) == {
        "HER2-HE: P(>=1+)": 0.9,
        "HER2-HE: P(>=2+)": 0.75,
        "HER2-HE: P(3+)": 0.2,
        "HER2-HE: P(positive)": 0.75,
        "HER2-HE: expected grade": 1.85,
        "HER2-HE: P(positive) SD": 0.012345,
        "HER2-HE: patches foreground": 4.0,
        "HER2-HE: patches sampled": 3.0,
        "HER2-HE: composites": 2.0,
    }


def test_measurements_are_python_floats_because_paquo_takes_no_others() -> None:
    assert {type(value) for value in measurements(made_region()).values()} == {float}


def test_a_region_without_prediction_has_counts_only() -> None:
    region = msgspec.structs.replace(made_region(), prediction=None, composites=(), patches=())
    assert set(measurements(region)) == {
        "HER2-HE: patches foreground",
        "HER2-HE: patches sampled",
        "HER2-HE: composites",
    }


def test_a_patch_drawn_twice_is_one_tile_with_its_mean_contributions() -> None:
    found = tiles(made_region())
    assert [(t.x, t.y) for t in found] == [(100, 200), (150, 200), (100, 250), (200, 250)]
    assert found[0].contributions == (-0.375, 0.625, 1.0)


def test_an_unsampled_tile_has_saturation_only() -> None:
    assert tile_measurements(tiles(made_region())[-1], STEPS) == {"HER2-HE: saturation": 0.125}


def test_a_sampled_tile_says_its_share_of_each_logit_by_the_steps_name() -> None:
    assert tile_measurements(tiles(made_region())[1], STEPS) == {
        "HER2-HE: saturation": 0.375,
        "HER2-HE: contribution 3+": -0.5,
        "HER2-HE: contribution >=2+": 0.5,
        "HER2-HE: contribution >=1+": 1.0,
    }


def test_image_metadata_have_the_same_keys_whatever_the_outcome() -> None:
    scored = image_metadata(made_result())
    failed = image_metadata(SlideResult(entry="1", slide="s", path="", outcome=Outcome.INSUFFICIENT_TISSUE))
    assert scored.keys() == failed.keys()
    assert scored["HER2-HE grade"] == "2+" and failed["HER2-HE grade"] == ""
    assert scored["HER2-HE P(positive)"] == "0.750000"
    assert failed["HER2-HE outcome"] == "insufficient_tissue"
    assert scored["HER2-HE call"] == "" and failed["HER2-HE call"] == ""


def test_image_metadata_name_a_toy_before_its_name() -> None:
    result = made_result()
    assert result.provenance is not None
    toy = msgspec.structs.replace(result.provenance, knowledge="demo")
    text = image_metadata(msgspec.structs.replace(result, provenance=toy))["HER2-HE model"]
    assert text == f"[demo: means nothing] {image_metadata(result)['HER2-HE model']}"


def test_the_run_does_not_depend_on_itself_but_on_everything_else() -> None:
    facts = made_provenance()
    assert facts.digest() == msgspec.structs.replace(facts, run="other").digest()
    assert facts.digest() != msgspec.structs.replace(facts, seed=8).digest()
    assert facts.digest() != msgspec.structs.replace(facts, model_sha256="ac" * 32).digest()


def test_a_result_says_research_use_only() -> None:
    assert b"Research use only" in msgspec.json.encode(made_result())


@pytest.mark.parametrize("outcome", Outcome)
def test_only_what_went_wrong_counts_as_failure(outcome: Outcome) -> None:
    wrong = {Outcome.UNREADABLE, Outcome.FAILED, Outcome.CANCELLED}
    assert outcome.is_failure == (outcome in wrong)


def test_rounding_keeps_six_decimals_and_no_negative_zero() -> None:
    assert rounded([1 / 3, -1e-9]) == [0.333333, 0.0]
    assert str(rounded(-1e-9)[0]) == "0.0"
