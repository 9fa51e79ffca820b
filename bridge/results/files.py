"""``results.csv`` and ``results.json``: a run's results as files, written beside and then put in place."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from bridge.results.schema import RESEARCH_USE_ONLY, RegionResult, SlideResult
from herohe_model.dataset.tables import CsvWriter
from herohe_model.errors import HeroheError
from herohe_model.files import replacing
from herohe_model.sampling.artefacts import artefacts_in_words

JSON_FORMAT: Final = "herohe-bridge results"
JSON_VERSION: Final = 1

COLUMNS: Final = (
    "slide",
    "region",
    "outcome",
    "call",
    "grade",
    "status",
    "p_positive",
    "p_positive_sd",
    "p_ge_1",
    "p_ge_2",
    "p_3",
    "p_low",
    "expected_grade",
    "p_positive_from",
    "p_positive_to",
    "p_positive_member_sd",
    "patches_foreground",
    "patches_sampled",
    "patches_artefact",
    "artefacts",
    "composites",
    "region_name",
    "region_class",
    "message",
    "warnings",
    "model",
    "model_sha256",
    "knowledge",
    "seed",
    "threshold",
    "threshold_chosen",
    "call_chosen",
    "run",
    "entry",
    "path",
    "note",
)


class ResultFileError(HeroheError):
    """A result file cannot be written."""

    code = "result_file"


def write_csv(path: Path, results: Iterable[SlideResult]) -> None:
    """Write one line a slide, and one an annotation where annotations were scored for themselves.

    UTF-8, commas, line feeds; numbers with 6 decimals; a slide's own line has the region ``slide``.
    """

    def fill(file: IO[str]) -> None:
        writer = CsvWriter(file)
        writer.writerow(COLUMNS)
        for result in results:
            for row in _rows(result):
                writer.writerow([row.get(column, "") for column in COLUMNS])

    _replace(path, fill)


def write_json(path: Path, results: Iterable[SlideResult], *, collection: Path | None = None) -> None:
    """Write everything: each sampled patch, each composite, and the provenance; one slide a line.

    `collection` is the folder that the paths of slides are relative to. It is written relative to this file,
    so that slides are still found when both were moved together.
    """

    def fill(file: IO[str]) -> None:
        head = {"format": JSON_FORMAT, "version": JSON_VERSION, "note": RESEARCH_USE_ONLY}
        if collection is not None:
            head["collection"] = _seen_from(path.parent, collection)
        file.write(msgspec.json.encode(head).decode()[:-1] + ',"slides":[')
        for number, result in enumerate(results):
            file.write(("," if number else "") + "\n" + msgspec.json.encode(result).decode())
        file.write("\n]}\n")

    _replace(path, fill)


def read_json(path: Path) -> list[SlideResult]:
    """Read a ``results.json``.

    Raises
    ------
    ResultFileError
        If it is not there or not one of ours.
    """

    class File(msgspec.Struct):
        format: str
        version: int
        slides: list[SlideResult]

    try:
        file = msgspec.json.decode(path.read_bytes(), type=File)
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise ResultFileError(f"{path} cannot be read as results: {error}", "Name a results.json") from error
    if file.format != JSON_FORMAT or file.version != JSON_VERSION:
        raise ResultFileError(
            f"{path} holds '{file.format}' version {file.version}", f"Version {JSON_VERSION} is understood"
        )
    return file.slides


def _seen_from(folder: Path, other: Path) -> str:
    """Return the way from one folder to another, with forward slashes; absolute from one drive to another."""
    folder, other = folder.resolve(), other.resolve()
    if folder.anchor != other.anchor:
        return other.as_posix()
    return Path(os.path.relpath(other, folder)).as_posix()


def _rows(result: SlideResult) -> Iterator[dict[str, Any]]:
    common: dict[str, Any] = {
        "slide": result.slide,
        "entry": result.entry,
        "path": result.path,
        "warnings": " | ".join(result.warnings),
        "note": RESEARCH_USE_ONLY,
    }
    if result.provenance is not None:
        common |= {
            "model": result.provenance.model,
            "model_sha256": result.provenance.model_sha256,
            "knowledge": result.provenance.knowledge,
            "seed": result.provenance.seed,
            "threshold": result.provenance.decision_threshold,
            "threshold_chosen": result.provenance.threshold_chosen,
            "call_chosen": result.provenance.call_chosen,
            "run": result.provenance.run,
        }
    whole = {"region": "slide", "outcome": result.outcome.value, "message": result.message}
    yield common | (_region_cells(result.union) if result.union else {}) | whole
    for region in result.annotations:
        yield common | _region_cells(region)


def _region_cells(region: RegionResult) -> dict[str, Any]:
    cells: dict[str, Any] = {
        "region": region.region,
        "outcome": region.outcome.value,
        "message": region.message,
        "patches_foreground": region.patches_foreground,
        "patches_sampled": region.patches_sampled,
        "patches_artefact": region.patches_artefact,
        "artefacts": artefacts_in_words(region.artefacts or {}),
        "composites": len(region.composites),
        "region_name": region.name,
        "region_class": region.class_name,
    }
    p = region.prediction
    if p is not None:
        numbers = {
            "p_positive": p.p_positive,
            "p_positive_sd": p.p_positive_sd,
            "p_ge_1": p.at_least.get("1+"),
            "p_ge_2": p.at_least.get("2+"),
            "p_3": p.at_least.get("3+"),
            "p_low": p.p_low,
            "expected_grade": p.expected_grade,
            "p_positive_from": p.p_positive_from,
            "p_positive_to": p.p_positive_to,
            "p_positive_member_sd": p.p_positive_member_sd,
        }
        cells |= {"call": p.call, "grade": p.grade, "status": p.status}
        cells |= {name: f"{value:.6f}" for name, value in numbers.items() if value is not None}
    return cells


def _replace(path: Path, fill: Callable[[IO[str]], None]) -> None:
    """Write a whole file in place of the old one. The manifest lets one run at a time do so."""
    try:
        with (
            replacing(path, alone=True) as beside,
            beside.open("x", encoding="utf-8", newline="") as file,
        ):
            fill(file)
    except OSError as error:
        raise ResultFileError(
            f"{path} cannot be written: {error.strerror or error}",
            "Close it elsewhere, check the free space and the folder's permissions, or name another --output",
        ) from error
