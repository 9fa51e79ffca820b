from __future__ import annotations

import pytest

from bridge.annotations.classes import (
    GRADE_COLOURS,
    OWN_COMPONENTS,
    components,
    derived_class,
    is_ignored,
    matches,
    own_colour,
    user_class,
)
from herohe_model.grades import GRADES


def test_a_grade_is_added_to_the_users_class() -> None:
    assert derived_class("Tumor", "2+") == "Tumor: HER2-HE 2+"
    assert derived_class("Tumor: Invasive", "0") == "Tumor: Invasive: HER2-HE 0"
    assert derived_class("", "3+") == "HER2-HE 3+"


def test_a_second_grade_replaces_the_first() -> None:
    assert derived_class("Tumor: HER2-HE 1+", "3+") == "Tumor: HER2-HE 3+"
    assert derived_class("HER2-HE 1+", "3+") == "HER2-HE 3+"


@pytest.mark.parametrize("grade", GRADES)
@pytest.mark.parametrize("mine", ["", "Tumor", "Tumor: Invasive", "Ignore*"])
def test_the_users_class_comes_back_from_the_derived_one(mine: str, grade: str) -> None:
    assert user_class(derived_class(mine, grade)) == mine


def test_no_component_is_a_staining_intensity() -> None:
    assert not {"1+", "2+", "3+", "Positive", "Negative"} & set(OWN_COMPONENTS)
    assert all(len(components(name)) == 1 for name in OWN_COMPONENTS)


def test_colours_are_qupaths() -> None:
    assert own_colour("Tumor: HER2-HE 2+") == (225, 150, 50)
    assert own_colour("HER2-HE 0") == GRADE_COLOURS["0"] == (90, 90, 180)
    assert own_colour("Tumor") is None


def test_a_class_matches_itself_and_its_bases() -> None:
    for wanted in ("Tumor", "Tumor: Invasive"):
        assert matches("Tumor: Invasive", wanted)
        assert matches("Tumor: Invasive: HER2-HE 2+", wanted)
    assert matches("Tumor: HER2-HE 2+", "Tumor: HER2-HE 2+")
    assert not matches("Tumor", "Tumor: Invasive")
    assert not matches("Tumour", "Tumor")
    assert not matches("tumor", "Tumor")
    assert not matches("Stroma: Tumor", "Tumor")
    assert not matches("", "Tumor")


def test_a_star_at_the_end_of_the_users_class_means_ignored() -> None:
    assert is_ignored("Ignore*")
    assert is_ignored("Tumor: Ignore*: HER2-HE 2+")
    assert not is_ignored("Tumor")
    assert not is_ignored("")
