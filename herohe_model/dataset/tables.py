"""Tables as people keep them: CSV with commas, semicolons or tabs, from any editor, and Excel workbooks.

Cells come back as text without surrounding white space, each row with the number that a spreadsheet shows.
Nothing that is written is a formula: a spreadsheet would run one that somebody put into a slide's name.
"""

from __future__ import annotations

import csv
import io
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, TypeVar

from herohe_model.errors import HeroheError
from herohe_model.printable import printable

DELIMITERS: Final = (";", ",", "\t")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
"""How a cell begins that a spreadsheet takes for a formula, some of them after white space."""
_TEXT: Final = "'"
"""What a spreadsheet is told by that a cell is text."""
_NAMES: Final = {";": "semicolons", ",": "commas", "\t": "tabs"}
_XLSX: Final = b"PK\x03\x04"
_XLS: Final = b"\xd0\xcf\x11\xe0"
MAX_BYTES: Final = 1 << 26
MAX_COLUMNS: Final = 1000
MAX_ROWS: Final = 500_000
MAX_CELLS: Final = 5_000_000


_Cell = TypeVar("_Cell")


class TableError(HeroheError):
    """A table, or what it says, cannot be used."""

    code = "table"


@dataclass(frozen=True)
class Problem:
    """Something in a file that is wrong, or only worth knowing.

    Attributes
    ----------
    row
        As a spreadsheet counts, the first row being 1; None for the file as a whole.
    problem, remedy
        What is wrong and what to do; sentences without their full stops.
    fatal
        Whether the file must not be used.
    """

    file: Path
    row: int | None
    problem: str
    remedy: str
    fatal: bool = True


@dataclass(frozen=True)
class Row:
    """A row that is not empty; as many cells as the header has."""

    number: int
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A file's first table: its header, its rows, and the rows that do not fit the header."""

    path: Path
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    problems: tuple[Problem, ...]


def read_table(path: Path) -> Table:
    """Read a CSV file or the first sheet of an .xlsx workbook.

    The delimiter is the one that splits the header; a byte order mark, carriage returns and blank rows are no
    matter. A CSV file that is not UTF-8 is read as Windows-1252, and a problem that is not fatal says so.

    Raises
    ------
    TableError
        If the file cannot be read, or holds no table.
    """
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_BYTES else b""
    except OSError as error:
        reason = error.strerror or error
        raise TableError(f"{path} cannot be read ({reason})", "Check the path and its permissions") from error
    if size > MAX_BYTES:
        raise TableError(f"{path} is larger than {MAX_BYTES >> 20} MiB", "Name a table of cases")
    if data.startswith(_XLS):
        raise TableError(f"{path} is an Excel 97 workbook", "Save it as .xlsx or CSV")
    if data.startswith(_XLSX):
        return _table(path, _sheet(path, data), None, [])
    text, problems = _decoded(path, data)
    delimiter = _delimiter(text)
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        records = _bounded(rows, _plain, path)
    except csv.Error as error:
        raise TableError(f"{path} is no CSV file ({error})", "Save it again as CSV") from error
    return _table(path, records, delimiter, problems)


class CsvWriter:
    """Writer of CSV in UTF-8 text: commas, line feeds, and no cell that a spreadsheet takes for a formula.

    Text that would be one gets an apostrophe in front, which :func:`read_table` takes away again.
    """

    def __init__(self, file: IO[str]) -> None:
        self._writer = csv.writer(file, lineterminator="\n")

    def writerow(self, cells: Iterable[object]) -> None:
        """Write a row; None is an empty cell."""
        self._writer.writerow([_harmless(cell) if isinstance(cell, str) else cell for cell in cells])


def _harmless(text: str) -> str:
    text = printable(text)
    formula = text.lstrip(" ").startswith(_FORMULA) or (text.startswith(_TEXT) and _plain(text) != text)
    return _TEXT + text if formula and not _is_number(text) else text


def _plain(text: str) -> str:
    """Take away what :func:`_harmless` put in front."""
    bare = text[1:] if text.startswith(_TEXT) else text
    return bare if bare is not text and bare.lstrip(" '").startswith(_FORMULA) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def explain(problems: tuple[Problem, ...] | list[Problem]) -> list[str]:
    """Return problems as sentences, rows with the same problem in one, in the order of their first row."""
    grouped: dict[tuple[Path, str, str], list[int]] = {}
    for p in sorted(problems, key=lambda p: (p.row is not None, p.row or 0)):
        rows = grouped.setdefault((p.file, p.problem, p.remedy), [])
        if p.row is not None:
            rows.append(p.row)
    lines = []
    for (file, problem, remedy), rows in grouped.items():
        where = f", {'row' if len(rows) == 1 else 'rows'} {_listed(rows)}" if rows else ""
        lines.append(f"{file}{where}: {problem}. {remedy}.")
    return lines


def _listed(rows: list[int]) -> str:
    words = [str(row) for row in rows]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def _decoded(path: Path, data: bytes) -> tuple[str, list[Problem]]:
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
        problems = []
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
        problems = [
            Problem(path, None, "It is not UTF-8 and was read as Windows-1252", "Check its names", False)
        ]
    if "\0" in text:
        raise TableError(f"{path} is no text file", "Name a CSV file or an .xlsx workbook")
    return text, problems


def _delimiter(text: str) -> str:
    """Return what splits the first row that is not blank; the semicolon where nothing does."""
    for line in text.splitlines():
        if line.strip(" \t;,"):
            outside = "".join(line.split('"')[::2])
            counts = Counter({d: outside.count(d) for d in DELIMITERS})
            return max(DELIMITERS, key=lambda d: counts[d])
    return DELIMITERS[0]


def _sheet(path: Path, data: bytes) -> list[list[str]]:
    """Return the first sheet's cells; computed values where there are formulas."""
    try:
        from openpyxl import load_workbook
    except ModuleNotFoundError as error:
        raise TableError(
            f"{path} is an Excel workbook, and openpyxl is not installed to read it",
            "Save it as CSV, or install with: pip install 'herohe-bridge[train]'",
        ) from error
    try:
        with warnings.catch_warnings():
            # openpyxl warns of styles and validations that it does not read; nor do we.
            warnings.simplefilter("ignore")
            _look_into(data, path)
            book = load_workbook(io.BytesIO(data), read_only=True, data_only=True)
            try:
                sheet = book.worksheets[0]
                sheet.reset_dimensions()
                return _bounded(sheet.iter_rows(values_only=True), _text, path)
            finally:
                book.close()
    except TableError:
        raise
    except Exception as error:
        # Whatever its parsers of XML, numbers and dates raise; there is no list of it.
        reason = f"{type(error).__name__}: {error}"
        raise TableError(
            f"{path} is no Excel workbook ({reason})", "Save it again as .xlsx or CSV"
        ) from error


def _look_into(data: bytes, path: Path) -> None:
    """Refuse a workbook that unpacks to more than a table of cases takes."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = sum(info.file_size for info in archive.infolist() if info.filename.endswith((".xml", ".rels")))
    if size > MAX_BYTES:
        raise TableError(f"{path} unpacks to more than {MAX_BYTES >> 20} MiB", "Name a table of cases")


def _bounded(rows: Iterable[Sequence[_Cell]], text: Callable[[_Cell], str], path: Path) -> list[list[str]]:
    """Return rows as text, without cells for those that are empty.

    Raises TableError at the first row or cell too many for a table of cases: a workbook of a few bytes may
    stand for billions.
    """
    found: list[list[str]] = []
    cells = 0
    for row in rows:
        cells += len(row)
        if len(found) >= MAX_ROWS or cells > MAX_CELLS:
            raise TableError(f"{path} has more rows or cells than a table of cases", "Name a table of cases")
        texts = [text(cell) for cell in row[:MAX_COLUMNS]]
        found.append(texts if any(texts) else [])
    return found


def _text(value: object) -> str:
    """Return a cell as it is seen: a whole number without decimals."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _table(path: Path, records: list[list[str]], delimiter: str | None, problems: list[Problem]) -> Table:
    header: tuple[str, ...] | None = None
    rows = []
    for number, record in enumerate(records, start=1):
        cells = tuple(cell.replace("\xa0", " ").strip() for cell in record)
        if not any(cells):
            continue
        if header is None:
            header = _without_empty_end(cells)
            continue
        width = len(header)
        if delimiter is None:
            # A sheet's cells know their column: what stands beside the table is a remark.
            rows.append(Row(number, (cells + ("",) * width)[:width]))
        elif len(cells) >= width and not any(cells[width:]):
            rows.append(Row(number, cells[:width]))
        else:
            problems.append(_misfit(path, number, cells, width, delimiter))
    if header is None:
        raise TableError(f"{path} is empty", "Name a table with a header and a row a case")
    return Table(path, header, tuple(rows), tuple(problems))


def _without_empty_end(cells: tuple[str, ...]) -> tuple[str, ...]:
    while cells and not cells[-1]:
        cells = cells[:-1]
    return cells


def _misfit(path: Path, number: int, cells: tuple[str, ...], width: int, delimiter: str) -> Problem:
    """Say how a row does not fit the header."""
    text = delimiter.join(cells)
    for other in DELIMITERS:
        if other != delimiter and text.count(other) == width - 1:
            return Problem(
                path,
                number,
                f"It is split by {_NAMES[other]}, the header by {_NAMES[delimiter]}",
                "Use one of them throughout",
            )
    return Problem(
        path,
        number,
        f"It has {len(cells)} cells and the header has {width}",
        "Give it one cell a column, and put quotation marks around text that holds the delimiter",
    )
