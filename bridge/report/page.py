"""``report.html``: a run on one page that needs no network, to be looked through, printed and kept.

The same results and slides give the same bytes. The page holds every picture while that keeps it under
:data:`PAGE_LIMIT`; beyond, each slide's details lie in a folder beside the page, and are loaded when it is
opened.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from bridge.report.cohort import Row, Truth, agreement, choices, make_row, summarise
from bridge.report.pictures import COMPACT, FINE, PictureSizes, SlidePictures, draw_pictures
from bridge.report.slide import colour_scale, least_scale, positive_step, slide_detail
from bridge.results.files import ResultFileError
from bridge.results.run import ScoredRun
from bridge.results.schema import SlideResult, tiles
from herohe_model.errors import SlideError
from herohe_model.files import replacing
from herohe_model.notice import TOY_NOTICES
from herohe_model.pages.page import data_uri, json_in_html, write_page
from herohe_model.read_ahead import read_ahead

PAGE_LIMIT: Final = 60_000_000
"""Bytes of the page, beyond which pictures lie beside it."""

FEW: Final = 80
"""Up to so many slides, fine pictures fit into one page."""

MANY: Final = 400
"""Beyond so many, not even compact ones do."""

_ROW_BYTES: Final = 2000
"""What a row of the table takes in the page, beside its thumbnail, generously."""

_OURS: Final = re.compile(r"[0-9]+\.(js|jpg)")


@dataclass(frozen=True)
class WrittenReport:
    """A report on disk.

    Attributes
    ----------
    beside
        The folder of the slides' details; None when the page holds them.
    slides
        How many it shows.
    without_pictures
        Name and reason, for each scored slide of which pictures are missing.
    """

    path: Path
    beside: Path | None
    slides: int
    without_pictures: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Survey:
    """What is known of a run after its results were read once."""

    rows: tuple[Row, ...]
    scales: dict[str, float]
    floor: float
    made_by: tuple[tuple[str, str], ...]
    cut: float | None
    toys: tuple[str, ...]


@dataclass(frozen=True)
class _Drawn:
    """One slide as the page shows it; `detail` is JSON that can stand in HTML and in a script alike."""

    number: int
    slide: str
    scored: bool
    thumbnail: bytes | None
    size: tuple[int, int]
    problem: str
    detail: str


def write_report(
    run: ScoredRun,
    path: Path,
    *,
    title: str = "",
    truth: Truth | None = None,
    threads: int | None = None,
    limit: int = PAGE_LIMIT,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> WrittenReport:
    """Write the page of a run.

    Parameters
    ----------
    path
        The page. Where it is needed, a folder of its name and ``-slides`` is made beside it; one that an
        earlier report left is replaced or removed.
    title
        Its heading; "" for the name of what was scored.
    truth
        What is known of the slides.
    threads
        Slides read at a time; None for as many as there are processors, up to 8.
    limit
        Bytes of the page beyond which the details of slides, and at last thumbnails too, lie beside it.
    progress
        Called with the number of slides read, and of all.

    Raises
    ------
    ResultFileError
        If the results cannot be read, or the page cannot be written.
    """
    survey = _survey(run, truth)
    count = len(survey.rows)
    scored = sum(row.p is not None for row in survey.rows)
    sizes = COMPACT if FEW < scored <= MANY else FINE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            spool = Path(folder)
            # Details wait on the disk: whether they fit into the page is known when the last is drawn.
            (spool / "slides").mkdir()
            drawn: list[_Drawn] = []
            for slide in _draw_all(run, survey.rows, sizes, threads or min(8, os.cpu_count() or 1)):
                _detail_path(spool, slide.number).write_text(slide.detail, encoding="utf-8", newline="")
                drawn.append(replace(slide, detail=""))
                progress(len(drawn), count)
            return _put_together(run, path, title or run.title, survey, drawn, spool, truth, limit)
    except OSError as error:
        raise ResultFileError(
            f"{path} cannot be written: {error.strerror or error}",
            "Check the free space and the folder's permissions, or name another place with --to",
        ) from error


def _survey(run: ScoredRun, truth: Truth | None) -> _Survey:
    """Read the results once: rows of the table, scales of the colours, and what made them."""
    rows: list[Row] = []
    shares: dict[str, list[NDArray[np.float32]]] = {}
    made_by: dict[str, dict[str, None]] = {}
    cuts: set[float | None] = set()
    toys: dict[str, None] = {}
    cells = 1
    for number, result in enumerate(run.slides(), start=1):
        rows.append(make_row(number, result, truth))
        if result.provenance is None:
            continue
        made = result.provenance
        cuts.add(made.decision_threshold)
        if made.is_toy:
            toys[TOY_NOTICES[made.knowledge]] = None
        for name, value in (
            ("Model", f"{made.model} ({made.model_sha256[:12]})"),
            ("What it knows", TOY_NOTICES.get(made.knowledge, "")),
            ("Target", made.target),
            ("Threshold", "" if made.decision_threshold is None else f"{made.decision_threshold:.3f}"),
            ("Seed", str(made.seed)),
            ("Device", ", ".join(filter(None, (made.device, made.precision, made.engine)))),
        ):
            made_by.setdefault(name, {})[value] = None
        placed = [patch.contributions for patch in result.union.patches] if result.union else []
        if placed and result.union:
            cells = max(cells, 1 + max(patch.cell for patch in result.union.patches))
            for step, column in zip(made.steps, np.abs(np.array(placed, dtype=np.float32)).T, strict=True):
                shares.setdefault(step, []).append(column)
    return _Survey(
        tuple(rows),
        {step: colour_scale(np.concatenate(parts), cells) for step, parts in shares.items()},
        least_scale(cells),
        tuple((name, ", ".join(filter(None, values))) for name, values in made_by.items() if any(values)),
        cuts.pop() if len(cuts) == 1 else None,
        tuple(toys),
    )


def _draw_all(run: ScoredRun, rows: Sequence[Row], sizes: PictureSizes, threads: int) -> Iterator[_Drawn]:
    """Return the slides in order, a few of them being read ahead."""

    def matched() -> Iterator[tuple[Row, SlideResult]]:
        for row, result in zip_longest(rows, run.slides()):
            if row is None or result is None or row.entry != result.entry:
                raise ResultFileError(f"{run.results} changed while it was read", "Give the command again")
            yield row, result

    return read_ahead(matched(), lambda pair: _draw(run, *pair, sizes), workers=threads, ahead=2 * threads)


def _draw(run: ScoredRun, row: Row, result: SlideResult, sizes: PictureSizes) -> _Drawn:
    """Read one slide; without it, the page says so."""
    bounds = None
    pictures = SlidePictures()
    if result.provenance is not None:
        try:
            with run.open_slide(result) as slide:
                bounds = slide.bounds
                shown = tiles(result.union) if result.union else ()
                pictures = draw_pictures(slide, result.union, shown, positive_step(result), sizes)
        except SlideError as error:
            pictures = SlidePictures(problem=str(error))
    detail = slide_detail(result, pictures, bounds=bounds, ihc=row.ihc)
    return _Drawn(
        number=row.number,
        slide=row.name,
        scored=row.p is not None,
        thumbnail=pictures.thumbnail,
        size=pictures.size,
        problem=pictures.problem,
        detail=json_in_html(detail),
    )


def _put_together(
    run: ScoredRun,
    path: Path,
    title: str,
    survey: _Survey,
    drawn: Sequence[_Drawn],
    spool: Path,
    truth: Truth | None,
    limit: int,
) -> WrittenReport:
    """Write the page, decide what lies beside it, and move both into place."""
    beside = path.with_name(f"{path.stem}-slides")
    rows_bytes = len(drawn) * _ROW_BYTES
    thumbnails_bytes = sum(len(slide.thumbnail or b"") for slide in drawn) * 4 // 3
    details_bytes = sum(_detail_path(spool, slide.number).stat().st_size for slide in drawn)
    details_inside = rows_bytes + thumbnails_bytes + details_bytes <= limit
    thumbnails_inside = rows_bytes + thumbnails_bytes <= limit
    missing = tuple((slide.slide, slide.problem) for slide in drawn if slide.problem)

    def thumbnail(slide: _Drawn) -> str:
        if slide.thumbnail is None:
            return ""
        if thumbnails_inside:
            return data_uri(slide.thumbnail)
        (spool / "slides" / f"{slide.number}.jpg").write_bytes(slide.thumbnail)
        return f"{beside.name}/{slide.number}.jpg"

    def details() -> Iterator[tuple[int, Markup]]:
        for slide in drawn:
            yield slide.number, Markup(_detail_path(spool, slide.number).read_text(encoding="utf-8"))

    context = {
        "title": title,
        "summary": summarise(survey.rows, survey.made_by, survey.cut),
        "notices": [*survey.toys, *_notices(len(drawn), missing, truth)],
        "agreement": agreement(run, survey.rows, truth) if truth is not None else None,
        "choices": choices(survey.rows),
        "rows": [_cells(row, slide, thumbnail(slide)) for row, slide in zip(survey.rows, drawn, strict=True)],
        "run": json_in_html(
            {
                "scales": survey.scales,
                "floor": survey.floor,
                "beside": None if details_inside else beside.name,
            }
        ),
        "details": details() if details_inside else (),
    }
    with replacing(path) as page:
        # A folder's name may be no text; what is shown of it is.
        with page.open("x", encoding="utf-8", errors="backslashreplace", newline="") as file:
            write_page(
                file,
                "report.html",
                context,
                package="bridge.report",
                styles=("charts.css",),
                scripts=("table.js", "heatmap.js", "report.js"),
                files_beside=not details_inside,
            )
        for slide in drawn:
            held = _detail_path(spool, slide.number)
            if not details_inside:
                text = held.read_text(encoding="utf-8")
                script = held.with_suffix(".js")
                script.write_text(f'heroheSlide("{slide.number}", {text});\n', encoding="utf-8", newline="")
            held.unlink()
        _replace_folder(spool / "slides", beside, spool / "before")
    return WrittenReport(path, None if details_inside else beside, len(drawn), missing)


def _detail_path(spool: Path, number: int) -> Path:
    return spool / "slides" / f"{number}.json"


def _cells(row: Row, slide: _Drawn, thumbnail: str) -> dict[str, Any]:
    """Return what the template shows of a row."""
    return {
        **{name: getattr(row, name) for name in Row.__dataclass_fields__},
        **{name: getattr(row, name) for name in ("ihc", "agreement", "low", "high")},
        "thumbnail": thumbnail,
        "width": slide.size[0],
        "height": slide.size[1],
    }


def _notices(count: int, missing: Sequence[tuple[str, str]], truth: Truth | None) -> list[str]:
    said = []
    if missing:
        name, reason = missing[0]
        said.append(f"Pictures are missing of {len(missing)} of {count} slides, such as {name}: {reason}")
    return said + list(truth.warnings if truth is not None else ())


def _replace_folder(made: Path, place: Path, before: Path) -> None:
    """Put a folder in place of one that an earlier report left; an empty one only removes it."""
    if place.exists():
        foreign = next((f.name for f in place.iterdir() if not _OURS.fullmatch(f.name)), None)
        if foreign is not None:
            raise ResultFileError(
                f"{place} holds {foreign}, which no report wrote", "Move it, or name another place with --to"
            )
        os.replace(place, before)
    if any(made.iterdir()):
        os.replace(made, place)
