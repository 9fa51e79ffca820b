from __future__ import annotations

from herohe_model.dataset.cases import Case
from herohe_model.dataset.fingerprints import find_twins, short_digest, together
from herohe_model.dataset.folds import stratified_folds


def cases() -> list[Case]:
    return [Case("train", str(k), status="HER2-positive" if k % 2 else "HER2-negative") for k in range(12)]


def test_one_slide_under_two_cases_is_found_whatever_it_is_called() -> None:
    prints = [f"quickhash-1:{k % 11}" for k in range(12)]
    (pair,) = find_twins(cases(), prints)
    assert [case.id for case in pair.cases] == ["0", "11"]
    assert pair.contradicting and "train/0, train/11" in str(pair) and "other labels" in str(pair)
    assert find_twins(cases(), [""] * 12) == ()


def test_what_one_label_leaves_open_contradicts_nothing() -> None:
    open_case, known = Case("train", "a"), Case("train", "b", "3+")
    (pair,) = find_twins([open_case, known], ["x", "x"])
    assert not pair.contradicting and "the same label" in str(pair)


def test_twins_are_never_in_two_folds() -> None:
    prints = [f"{k % 10}" for k in range(12)]
    twins = find_twins(cases(), prints)
    assert not any(pair.contradicting for pair in twins)
    for seed in range(5):
        for fold in stratified_folds(together(cases(), twins), 3, seed=seed):
            held_out = set(fold.held_out.tolist())
            assert (0 in held_out) == (10 in held_out) and (1 in held_out) == (11 in held_out)


def test_a_short_digest_is_of_a_fingerprint_alone() -> None:
    assert len(short_digest("quickhash-1:ab")) == 16 and short_digest("") == ""
    assert short_digest("quickhash-1:ab") != short_digest("quickhash-1:ac")


def test_a_twin_brings_its_patients_other_slides_and_its_own_twins() -> None:
    known = [
        Case("train", "a", patient="one"),
        Case("train", "b", patient="two"),
        Case("train", "c", patient="two"),
        Case("train", "d"),
        Case("train", "TCGA-A1-A0SB-01Z"),
        Case("train", "other"),
    ]
    twins = (*find_twins(known, ["x", "x", "", "", "", ""]), *find_twins(known, ["", "", "y", "y", "y", ""]))
    owners = [case.owner for case in together(known, twins)]
    assert len(set(owners[:5])) == 1 and owners[5] == known[5].owner
    assert owners[0] == known[0].owner
