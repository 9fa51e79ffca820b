from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from herohe_model.dataset.submission import (
    Submission,
    SubmissionError,
    read_submission,
    write_submission,
)
from herohe_model.dataset.tables import TableError


def made(*rows: tuple[str, float, bool]) -> Submission:
    return Submission(
        tuple(name for name, _, _ in rows),
        np.array([soft for _, soft, _ in rows]),
        np.array([hard for _, _, hard in rows]),
    )


def test_the_file_is_as_the_challenge_asked(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "submission.csv"
    write_submission(path, made(("12", 0.75, True), ("a.1", 1 / 3, False)))
    assert path.read_bytes() == b"caseID,soft_prediction,hard_prediction\n12,0.750000,1\na.1,0.333333,0\n"
    assert [p.name for p in path.parent.iterdir()] == ["submission.csv"]


@pytest.mark.parametrize("spelling", ["hard_prediction", "hard_preditction"])
def test_both_spellings_are_written_and_read(tmp_path: Path, spelling: str) -> None:
    path = tmp_path / "submission.csv"
    write_submission(path, made(("12", 0.75, True), ("13", 0.25, False)), spelling=spelling)
    assert spelling in path.read_text().splitlines()[0].split(",")
    read = read_submission(path)
    assert read.case_ids == ("12", "13")
    assert read.soft.tolist() == [0.75, 0.25] and read.hard.tolist() == [True, False]
    assert not read.warnings


def test_a_file_saved_by_a_spreadsheet_is_read(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_bytes("hard_prediction ;CaseID; soft_prediction\r\n1;12.mrxs;1\r\n;;\r\n".encode("utf-8-sig"))
    read = read_submission(path)
    assert read.case_ids == ("12",) and read.soft.tolist() == [1.0] and read.hard.tolist() == [True]


def test_every_problem_is_named_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text(
        "caseID,soft_prediction,hard_prediction\n1,0.5,1\n1,0.4,0\n2,1.2,1\n3,nan,1\n4,high,1\n5,0.5,yes\n,0.5,1\n6,0.5\n"
    )
    with pytest.raises(SubmissionError) as caught:
        read_submission(path)
    text = str(caught.value)
    for words in (
        "row 3: The caseID 1 stands in row 2 already",
        "row 4: The soft_prediction 1.2 is not from 0 to 1",
        "row 5: The soft_prediction nan is not from 0 to 1",
        "row 6: The soft_prediction 'high' is no number",
        "row 7: The hard_prediction 'yes' is neither 0 nor 1",
        "row 8: It has no caseID",
        "row 9: It has 2 cells and the header has 3",
    ):
        assert words in text


def test_missing_and_double_columns_are_named(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("caseID,soft_prediction\n1,0.5\n")
    with pytest.raises(SubmissionError, match="0 columns named hard_prediction or hard_preditction"):
        read_submission(path)
    path.write_text("caseID,soft_prediction,hard_prediction,hard_preditction\n1,0.5,1,1\n")
    with pytest.raises(SubmissionError, match="2 columns"):
        read_submission(path)
    path.write_text("caseID,soft_prediction,hard_prediction\n")
    with pytest.raises(SubmissionError, match="no prediction"):
        read_submission(path)
    with pytest.raises(TableError, match="nowhere"):
        read_submission(tmp_path / "nowhere.csv")


def test_calls_that_no_threshold_gives_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    write_submission(path, made(("1", 0.4, True), ("2", 0.6, False)))
    assert "no threshold" in read_submission(path).warnings[0]


def test_what_is_not_valid_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("as it was")
    for bad in (made(("1", 1.5, True)), made(("1", 0.5, True), ("1", 0.5, True)), made(("", 0.5, True))):
        with pytest.raises(SubmissionError):
            write_submission(path, bad)
    assert path.read_text() == "as it was"
