from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from openpyxl import Workbook

from herohe_model.dataset import tables
from herohe_model.dataset.tables import CsvWriter, TableError, read_table
from herohe_model.printable import printable


def workbook(path: Path, **replaced: str) -> Path:
    """A workbook of three rows, with parts of it replaced by other text."""
    book = Workbook()
    for row in (["Case", "IHC"], [1, "2+"], [2, 0]):
        book.worksheets[0].append(row)
    file = io.BytesIO()
    book.save(file)
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as changed:
        for name in archive.namelist():
            text = archive.read(name)
            for key, value in replaced.items():
                text = value.encode() if name.endswith(f"/{key}.xml") else text
            changed.writestr(name, text)
    return path


NAMESPACE = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
SHEET = f'<worksheet xmlns="{NAMESPACE}"><sheetData>{{}}</sheetData></worksheet>'


@pytest.mark.parametrize(
    "damage",
    [
        {"workbook": "<workbook><unclosed"},
        {"sheet1": "<worksheet"},
        {"styles": "<styleSheet/>", "workbook": ""},
        {"sheet1": SHEET.format('<row r="x"><c r="??1"><v>1</v></c></row>')},
        {"sheet1": SHEET.format('<row r="1"><c r="A1" t="s"><v>99999</v></c></row>')},
        {"sheet1": SHEET.format('<row r="1"><c r="A1" t="d"><v>no date</v></c></row>')},
    ],
)
def test_a_damaged_workbook_is_refused_whatever_its_reader_raises(
    tmp_path: Path, damage: dict[str, str]
) -> None:
    path = workbook(tmp_path / "labels.xlsx", **damage)
    with pytest.raises(TableError, match=r"labels\.xlsx is no Excel workbook"):
        read_table(path)


def test_a_table_that_claims_to_be_huge_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = workbook(
        tmp_path / "far.xlsx",
        sheet1=SHEET.format(
            '<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"/></row>'
        ),
    )
    with pytest.raises(TableError, match="more rows or cells"):
        read_table(far)
    monkeypatch.setattr(tables, "MAX_BYTES", 100_000)
    bomb = workbook(tmp_path / "bomb.xlsx", styles=" " * 200_000)
    with pytest.raises(TableError, match="unpacks to more"):
        read_table(bomb)
    monkeypatch.setattr(tables, "MAX_CELLS", 1000)
    (tmp_path / "wide.csv").write_text("a,b\n" + "1,2\n" * 600)
    with pytest.raises(TableError, match="more rows or cells"):
        read_table(tmp_path / "wide.csv")


FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", " =1", "-", "'=1", "''=1"]


def test_no_cell_is_a_formula_and_each_reads_back_as_it_was(tmp_path: Path) -> None:
    harmless = ["plain", "\r=1", "3+", "-0.5", "+7", "1e-3", "'quoted'", "'", "a=b", "Müller"]
    text = io.StringIO()
    writer = CsvWriter(text)
    writer.writerow(["name", "value"])
    for cell in (*FORMULAS, *harmless):
        writer.writerow([cell, -1.5])
    path = tmp_path / "t.csv"
    path.write_text(text.getvalue(), newline="")
    rows = text.getvalue().splitlines()[1:]
    assert all(row.lstrip('"').startswith("'") for row in rows[: len(FORMULAS)])
    assert "\r" not in text.getvalue()
    read = [row.cells[0] for row in read_table(path).rows]
    assert read == [printable(cell).strip() for cell in (*FORMULAS, *harmless)]
    assert rows[len(FORMULAS)] == "plain,-1.5"
    assert {row.cells[1] for row in read_table(path).rows} == {"-1.5"}
