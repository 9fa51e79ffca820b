"""A download becomes a folder that ``train`` and ``score`` take: slides by split, outlines, labels.

Slides are linked, not copied; what the cohort gives out as pictures is converted once. A second run makes
what is missing.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from bridge.annotations.geojson_writing import write_annotations
from bridge.annotations.outlines import OutlineFileError, read_aperio, read_bcnb
from bridge.cohorts.find import Found, FoundSlide, find
from bridge.cohorts.known import Cohort
from herohe_model.dataset.labels import LabelError, read_labels
from herohe_model.dataset.tables import CsvWriter
from herohe_model.errors import CancelledError, OptionError, SlideError
from herohe_model.files import WriteError, write_atomically
from herohe_model.slides.pictures import convert_picture

RECORD: Final = "cohort.json"
LABELS: Final = "labels.csv"
TUMOUR: Final = "Tumor"
"""Class of the outlines."""

_FORMAT: Final = 1
_COLUMNS: Final = (
    *("case", "split", "patient", "ihc", "ish", "status", "laboratory"),
    *("er", "pr", "tumour grade", "age", "site", "official split"),
)
_DOUBTED: Final = (("ihc", "ish"), ("status",))
"""What a row loses whose label words cannot all be true, the less telling first."""


class CohortRecord(msgspec.Struct, frozen=True):
    """What a prepared folder is, as it stands in ``cohort.json``.

    Attributes
    ----------
    slides
        By split, how many there are.
    outlines
        How many of them have outlines.
    mpp
        µm/px of slides that were pictures, and where it comes from; None where files say it.
    missing, left_out, warnings
        In sentences.
    """

    format: int
    cohort: str
    download: str
    slides: dict[str, int]
    outlines: int
    mpp: tuple[float, str] | None
    missing: tuple[str, ...]
    left_out: tuple[str, ...]
    warnings: tuple[str, ...]


def prepare(
    cohort: Cohort,
    download: Path,
    output: Path,
    *,
    begin: Callable[[int], None] = lambda _: None,
    progress: Callable[[int], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> CohortRecord:
    """Prepare a cohort.

    Parameters
    ----------
    download
        As it was unpacked; searched through, and left as it is.
    output
        Made if it is not there.
    begin, progress
        Told how many slides there are, and how many are done.
    stop
        Asked between slides; what is done then stays, and the next run goes on.

    Raises
    ------
    OptionError
        If the download holds no slide of the cohort, or the folder is something else's.
    CancelledError
        When `stop` said so.
    HeroheError
        If nothing can be written.
    """
    if not download.is_dir():
        raise OptionError(f"{download} is no folder", "Name the folder that the download was unpacked into")
    _check_own(output, cohort)
    found = find(cohort.name, download)
    if not found.slides:
        raise OptionError(
            f"{download} holds no slide of {cohort.title}",
            f"Unpack what is given out at {cohort.where}, and name the folder",
        )
    output.mkdir(parents=True, exist_ok=True)
    # First of all, so that a run that was stopped is known as ours.
    _write_record(output, _record(cohort, download, found, 0, ()))
    warnings: list[str] = []
    outlines = 0
    begin(len(found.slides))
    for done, slide in enumerate(found.slides, start=1):
        if stop():
            raise CancelledError(
                f"Stopped after {done - 1} of {len(found.slides)} slides",
                "Give the same command again to go on",
            )
        try:
            placed = _place(slide, found, output, stop)
            outlines += _draw(slide, placed, warnings)
        except (SlideError, OutlineFileError) as error:
            warnings.append(f"{slide.path.name}: {error}")
        progress(done)
    warnings += _write_labels(found.slides, output / LABELS)
    record = _record(cohort, download, found, outlines, warnings)
    _write_record(output, record)
    return record


def read_record(folder: Path) -> CohortRecord | None:
    """Return what a folder is, None where it is no prepared cohort."""
    try:
        record = msgspec.json.decode((folder / RECORD).read_bytes(), type=CohortRecord)
    except (OSError, msgspec.MsgspecError, ValueError):
        return None
    return record if record.format == _FORMAT else None


def _check_own(output: Path, cohort: Cohort) -> None:
    """Refuse a folder that holds anything but this cohort, prepared before."""
    before = read_record(output)
    if before is not None and before.cohort != cohort.name:
        raise OptionError(f"{output} holds {before.cohort}", "Name another --output")
    if before is None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OptionError(f"{output} is not empty, and was not made here", "Name another --output")


def _record(
    cohort: Cohort, download: Path, found: Found, outlines: int, warnings: Sequence[str]
) -> CohortRecord:
    splits = [slide.split for slide in found.slides]
    return CohortRecord(
        format=_FORMAT,
        cohort=cohort.name,
        download=str(download.absolute()),
        slides={split: splits.count(split) for split in sorted(set(splits))},
        outlines=outlines,
        mpp=found.mpp,
        missing=tuple(found.missing),
        left_out=tuple(found.left_out),
        warnings=tuple(warnings),
    )


def _write_record(output: Path, record: CohortRecord) -> None:
    write_atomically(output / RECORD, msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")


def _place(slide: FoundSlide, found: Found, output: Path, stop: Callable[[], bool]) -> Path:
    """Link a slide into its split's folder, or convert it there if it is a picture; return where it is."""
    folder = output / "slides" / slide.split
    folder.mkdir(parents=True, exist_ok=True)
    if found.mpp is not None:
        placed = folder / f"{slide.case}.tif"
        if not placed.exists():
            convert_picture(slide.path, placed, mpp=found.mpp[0], stop=stop)
        return placed
    placed = folder / slide.path.name
    _link(slide.path, placed)
    pixels = slide.path.with_suffix("")
    if slide.path.suffix.lower() == ".mrxs" and pixels.is_dir():
        _link(pixels, placed.with_suffix(""))
    return placed


def _link(source: Path, placed: Path) -> None:
    """Make a link; where the system allows none, as Windows often, of the same disk, or else a copy."""
    if placed.is_symlink() and not (placed.exists() and os.path.samefile(source, placed)):
        placed.unlink()  # It leads to where a slide was before.
    if placed.exists():
        return
    try:
        placed.symlink_to(source.absolute(), target_is_directory=source.is_dir())
    except OSError:
        try:
            if source.is_dir():
                shutil.copytree(source, placed, copy_function=_hard_link)
            else:
                _hard_link(str(source), str(placed))
        except OSError as error:
            raise WriteError(
                f"{placed} cannot be made: {error.strerror or error}", "Check the disk"
            ) from error


def _hard_link(source: str, placed: str) -> Any:
    try:
        os.link(source, placed)
    except OSError:
        shutil.copy2(source, placed)


def _draw(slide: FoundSlide, placed: Path, warnings: list[str]) -> bool:
    """Write a slide's outlines beside it; whether it has any."""
    if slide.outline is None:
        return False
    read = read_bcnb if slide.outline.suffix.lower() == ".json" else read_aperio
    annotations, said = read(slide.outline, class_name=TUMOUR)
    warnings += said
    if not annotations:
        warnings.append(f"{slide.outline.name} holds no outline.")
        return False
    write_annotations(placed, annotations, origin=(0, 0))
    return True


def _write_labels(slides: Sequence[FoundSlide], path: Path) -> list[str]:
    """Write the labels as ``train`` reads them; return a sentence for each row that had to lose a word."""
    rows = [{"case": slide.case, "split": slide.split, **slide.facts} for slide in slides]
    lost: list[str] = []
    for doubted in (*_DOUBTED, ()):
        write_atomically(path, _table(rows))
        try:
            read_labels(path)
            return lost
        except LabelError as error:
            if not doubted:
                raise
            for problem in error.problems:
                if problem.fatal and problem.row is not None and 2 <= problem.row < len(rows) + 2:
                    row = rows[problem.row - 2]
                    lost.append(
                        f"Case {row['case']}: {problem.problem}; its {' and '.join(doubted)} "
                        f"({', '.join(row.get(name, '') for name in doubted)}) are left out."
                    )
                    row.update(dict.fromkeys(doubted, ""))
    return lost


def _table(rows: Sequence[dict[str, str]]) -> bytes:
    used = [name for name in _COLUMNS if any(row.get(name) for row in rows)]
    text = io.StringIO(newline="")
    writer = CsvWriter(text)
    writer.writerow(used)
    for row in rows:
        writer.writerow([row.get(name, "") for name in used])
    return text.getvalue().encode("utf-8")
