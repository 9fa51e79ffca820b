from __future__ import annotations

from bridge.annotations.unmatched_classes import ClassTally


def tally(*slides: dict[str, int]) -> ClassTally:
    made = ClassTally()
    for present in slides:
        made.add(present.items())
    return made


def test_a_class_in_other_letters_is_named_as_what_was_meant() -> None:
    (said,) = tally({"Tumor": 3}, {"Stroma": 1}).unmatched(["tumor"], "--region-class")
    assert said.startswith("No annotation has the class tumor (--region-class; 2 slides")
    assert said.endswith("did you mean Tumor?")


def test_a_part_of_a_class_is_named_as_what_was_meant() -> None:
    (said,) = tally({"Tumor: Invasive": 1}).unmatched(["invasive"], "--region-class")
    assert said.endswith("did you mean Tumor: Invasive?")


def test_without_anything_alike_the_classes_are_listed() -> None:
    (said,) = tally({"Immune cells": 1, "Necrosis": 2, "": 4}).unmatched(["Tumor"], "--region-class")
    assert said.endswith("the classes there are Necrosis, Immune cells.")


def test_a_class_of_one_slide_is_no_miss() -> None:
    assert tally({"": 1}, {"Tumor: Invasive: HER2-HE 2+": 1}).unmatched(["Tumor"], "--region-class") == ()


def test_of_slides_that_could_not_be_looked_at_nothing_is_said() -> None:
    assert tally().unmatched(["Tumor"], "--region-class") == ()


def test_slides_without_annotations_and_without_classes_are_told_apart() -> None:
    assert tally({}).unmatched(["Tumor"], "x")[0].endswith("there are no annotations.")
    assert tally({"": 2}).unmatched(["Tumor"], "x")[0].endswith("the 2 annotations there have no class.")
