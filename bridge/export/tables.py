"""A run's results as flat tables.

They are ``slides``, ``regions``, ``composites`` and ``patches``, as CSV (UTF-8, commas, line feeds) or
Parquet, with the same columns. Rows are joined by ``entry`` and ``region``. Everything is written slide by
slide, so memory does not grow with the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import msgspec

from bridge.export.geojson import Exported, step_name
from bridge.results.files import ResultFileError
from bridge.results.run import ScoredRun
from bridge.results.schema import RESEARCH_USE_ONLY, RegionResult, SlideResult
from herohe_model.dataset.tables import CsvWriter
from herohe_model.errors import OptionError
from herohe_model.files import replacing
from herohe_model.grades import Target

Kind = Literal["text", "integer", "number"]
Column = tuple[str, Kind]
Format = Literal["csv", "parquet"]
TABLES: Final = ("slides", "regions", "composites", "patches")

_BATCH_ROWS: Final = 20_000

_KEY: Final[tuple[Column, ...]] = (("entry", "text"), ("slide", "text"), ("region", "text"))
_PREDICTION: Final[tuple[Column, ...]] = (
    ("call", "text"),
    ("grade", "text"),
    ("status", "text"),
    ("p_positive", "number"),
    ("p_positive_sd", "number"),
    ("p_ge_1", "number"),
    ("p_ge_2", "number"),
    ("p_3", "number"),
    ("p_low", "number"),
    ("expected_grade", "number"),
    ("p_positive_from", "number"),
    ("p_positive_to", "number"),
    ("p_positive_member_sd", "number"),
)
_COUNTS: Final[tuple[Column, ...]] = (
    ("patches_foreground", "integer"),
    ("patches_sampled", "integer"),
    ("patches_artefact", "integer"),
    ("composites", "integer"),
)
_PROVENANCE: Final[tuple[Column, ...]] = (
    ("run", "text"),
    ("model", "text"),
    ("model_sha256", "text"),
    ("target", "text"),
    ("seed", "integer"),
    ("device", "text"),
    ("precision", "text"),
    ("options", "text"),
    ("versions", "text"),
    ("regions_sha256", "text"),
    ("slide_fingerprint", "text"),
    ("slide_mpp", "number"),
    ("model_mpp", "number"),
    ("patch_px", "integer"),
    ("engine", "text"),
    ("positive_step", "text"),
    ("decision_threshold", "number"),
    ("threshold_chosen", "text"),
    ("temperature", "number"),
    ("trained_on", "text"),
    ("knowledge", "text"),
    ("call_chosen", "text"),
    ("calibrated_for", "text"),
)


def table_columns(targets: Sequence[Target]) -> dict[str, tuple[Column, ...]]:
    """Return the columns of each table, for runs whose models learned these targets."""
    steps = [step_name(s) for s in dict.fromkeys(step for target in targets for step in target.steps)]
    levels = dict.fromkeys(level for target in targets for level in target.levels)
    of_levels: tuple[Column, ...] = tuple((f"p_level_{level}", "number") for level in levels)
    what: tuple[Column, ...] = (("outcome", "text"), ("message", "text"))
    return {
        "slides": (
            *(("entry", "text"), ("slide", "text"), ("path", "text")),
            *what,
            *(("error_code", "text"), ("warnings", "text")),
            *_PREDICTION,
            *of_levels,
            *_COUNTS,
            *_PROVENANCE,
            ("note", "text"),
        ),
        "regions": (
            *_KEY,
            *(("region_name", "text"), ("region_class", "text"), ("annotations", "text")),
            *what,
            *_PREDICTION,
            *of_levels,
            *_COUNTS,
        ),
        "composites": (
            *_KEY,
            *(("composite", "integer"), ("grade", "text"), ("p_positive", "number")),
            *((f"logit_{step}", "number") for step in steps),
        ),
        "patches": (
            *_KEY,
            *(("composite", "integer"), ("cell", "integer"), ("x", "integer"), ("y", "integer")),
            *(("size", "integer"), ("saturation", "number")),
            *((f"contribution_{step}", "number") for step in steps),
        ),
    }


def export_tables(run: ScoredRun, folder: Path, format: Format) -> Exported:
    """Write the four tables of a run.

    A patch that no composite drew, where the run kept these, stands in ``patches`` without composite, cell
    and contributions. Coordinates are level-0 px of the slide as OpenSlide counts them.

    Raises
    ------
    OptionError
        If Parquet is wanted and pyarrow is not installed.
    ResultFileError
        If the results cannot be read or the tables not be written.
    """
    targets = {r.provenance.target: None for r in run.slides() if r.provenance is not None}
    columns = table_columns([Target(name) for name in targets] or [Target.IHC])
    begin = _CsvTable if format == "csv" else _parquet_table()
    paths = {name: folder / f"{name}.{format}" for name in TABLES}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            parts = {name: stack.enter_context(replacing(path)) for name, path in paths.items()}
            tables = {name: begin(parts[name], columns[name]) for name in TABLES}
            for table in tables.values():
                stack.callback(table.close)
            for result in run.slides():
                for name, rows in _rows(result).items():
                    for row in rows:
                        tables[name].add(row)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return Exported(tuple(paths.values()))


Row = dict[str, Any]


def _rows(result: SlideResult) -> dict[str, Iterator[Row]]:
    """Return a slide's rows for each table."""
    regions = [] if result.union is None else [result.union, *result.annotations]
    key = {"entry": result.entry, "slide": result.slide}
    return {
        "slides": iter([_slide_row(result) | key]),
        "regions": (_region_row(r) | key for r in regions),
        "composites": (row | key for r in regions for row in _composite_rows(result, r)),
        "patches": (row | key for r in regions for row in _patch_rows(result, r)),
    }


def _slide_row(result: SlideResult) -> Row:
    row = _region_row(result.union) if result.union is not None else {}
    made = result.provenance
    if made is not None:
        row |= {name: getattr(made, name) for name, _ in _PROVENANCE if name not in ("options", "versions")}
        row |= {
            name: msgspec.json.encode(getattr(made, name), order="sorted").decode()
            for name in ("options", "versions")
        }
    return row | {
        "path": result.path,
        "outcome": result.outcome.value,
        "message": result.message,
        "error_code": result.error_code,
        "warnings": " | ".join(result.warnings),
        "note": RESEARCH_USE_ONLY,
    }


def _region_row(region: RegionResult) -> Row:
    row: Row = {
        "region": region.region,
        "region_name": region.name,
        "region_class": region.class_name,
        "annotations": " ".join(region.annotations),
        "outcome": region.outcome.value,
        "message": region.message,
        "patches_foreground": region.patches_foreground,
        "patches_sampled": region.patches_sampled,
        "patches_artefact": region.patches_artefact,
        "composites": len(region.composites),
    }
    p = region.prediction
    if p is not None:
        row |= {
            **{name: getattr(p, name) for name, _ in _PREDICTION if not name.startswith(("p_ge_", "p_3"))},
            "p_ge_1": p.at_least.get("1+"),
            "p_ge_2": p.at_least.get("2+"),
            "p_3": p.at_least.get("3+"),
            **{f"p_level_{level}": share for level, share in p.levels.items()},
        }
    return row


def _by_step(result: SlideResult, prefix: str, values: Sequence[float]) -> Row:
    steps = result.provenance.steps if result.provenance else ()
    return {f"{prefix}_{step_name(step)}": value for step, value in zip(steps, values, strict=True)}


def _composite_rows(result: SlideResult, region: RegionResult) -> Iterator[Row]:
    for composite in region.composites:
        yield {
            "region": region.region,
            "composite": composite.index,
            "grade": composite.grade,
            "p_positive": composite.p_positive,
            **_by_step(result, "logit", composite.logits),
        }


def _patch_rows(result: SlideResult, region: RegionResult) -> Iterator[Row]:
    for patch in region.patches:
        yield {
            "region": region.region,
            **{name: getattr(patch, name) for name in ("composite", "cell", "x", "y", "size", "saturation")},
            **_by_step(result, "contribution", patch.contributions),
        }
    for rest in region.unsampled:
        yield {
            "region": region.region,
            **{name: getattr(rest, name) for name in ("x", "y", "size", "saturation")},
        }


class _Table(Protocol):
    """A table being written, row by row."""

    def add(self, row: Row) -> None: ...

    def close(self) -> None: ...


class _CsvTable:
    def __init__(self, path: Path, columns: Sequence[Column]) -> None:
        self._names = [name for name, _ in columns]
        self._numbers = {name for name, kind in columns if kind == "number"}
        self._file = path.open("x", encoding="utf-8", newline="")
        self._writer = CsvWriter(self._file)
        self._writer.writerow(self._names)

    def add(self, row: Row) -> None:
        self._writer.writerow([self._cell(name, row.get(name)) for name in self._names])

    def close(self) -> None:
        self._file.close()

    def _cell(self, name: str, value: Any) -> Any:
        # Plain decimals: spreadsheets read 5e-06 as text in some languages.
        return f"{value:.6f}" if name in self._numbers and value is not None else value


def _parquet_table() -> Callable[[Path, Sequence[Column]], _Table]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise OptionError(
            "Parquet needs pyarrow", "Install it with: pip install 'herohe-bridge[export]'"
        ) from error

    types = {"text": pyarrow.string(), "integer": pyarrow.int64(), "number": pyarrow.float64()}

    class ParquetTable:
        def __init__(self, path: Path, columns: Sequence[Column]) -> None:
            self._schema = pyarrow.schema([(name, types[kind]) for name, kind in columns])
            self._writer = pyarrow.parquet.ParquetWriter(path, self._schema, compression="zstd")
            self._rows: list[Row] = []

        def add(self, row: Row) -> None:
            self._rows.append(row)
            if len(self._rows) >= _BATCH_ROWS:
                self._flush()

        def close(self) -> None:
            self._flush()
            self._writer.close()

        def _flush(self) -> None:
            if self._rows:
                self._writer.write_table(pyarrow.Table.from_pylist(self._rows, schema=self._schema))
                self._rows = []

    return ParquetTable


def _unwritable(folder: Path, error: OSError) -> ResultFileError:
    return ResultFileError(
        f"The export to {folder} cannot be written: {error.strerror or error}",
        "Close its files elsewhere, check the free space and the folder's permissions, or name another --to",
    )
