from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.example_results import made_result

from bridge.results.files import COLUMNS, ResultFileError, read_json, write_csv, write_json
from bridge.results.schema import Outcome, SlideResult


def test_csv_begins_with_the_columns_people_sort_by(tmp_path: Path) -> None:
    write_csv(tmp_path / "results.csv", [made_result()])
    header = (tmp_path / "results.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header.startswith("slide,region,outcome,call,grade,status,p_positive,")


def test_csv_has_a_line_a_slide_and_a_line_an_annotation(tmp_path: Path) -> None:
    write_csv(tmp_path / "results.csv", [made_result("1", per_annotation=True), made_result("2")])
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["slide"], r["region"]) for r in rows] == [
        ("slide-1.tif", "slide"),
        ("slide-1.tif", "a"),
        ("slide-1.tif", "b"),
        ("slide-2.tif", "slide"),
    ]
    assert rows[0]["p_positive"] == "0.750000"
    assert rows[0]["model_sha256"] == "ab" * 32
    assert all("Research use only" in r["note"] for r in rows)


def test_csv_names_slides_that_failed_with_their_reason(tmp_path: Path) -> None:
    failed = SlideResult(
        entry="9", slide="bad.svs", path="", outcome=Outcome.UNREADABLE, message="Truncated."
    )
    write_csv(tmp_path / "results.csv", [failed])
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["outcome"] == "unreadable" and row["message"] == "Truncated." and row["grade"] == ""
    assert set(row) == set(COLUMNS)


def test_json_reads_back_as_written(tmp_path: Path) -> None:
    results = [made_result("1", per_annotation=True), made_result("2")]
    write_json(tmp_path / "results.json", results)
    assert read_json(tmp_path / "results.json") == results
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["slides"][0]["slide"]


def test_json_of_no_slide_is_valid(tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", [])
    assert read_json(tmp_path / "results.json") == []


def test_foreign_json_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"format": "else", "version": 1, "slides": []}', encoding="utf-8")
    with pytest.raises(ResultFileError, match=r"other\.json"):
        read_json(tmp_path / "other.json")


def test_a_failure_while_writing_leaves_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    write_csv(path, [made_result("1")])
    before = path.read_bytes()

    def broken() -> Iterator[SlideResult]:
        yield made_result("2")
        raise OSError(28, "No space left on device")

    with pytest.raises(ResultFileError, match="No space left"):
        write_csv(path, broken())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["results.csv"]
