"""The scale of each slide of a folder, from a table: for files that do not say theirs, or say it wrongly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from herohe_model.dataset.cases import case_id
from herohe_model.dataset.tables import TableError, read_table

_SLIDE = ("slide", "case", "file", "name")
_MPP = ("mpp", "um/px", "µm/px", "microns per pixel")


def read_scales(path: Path) -> Mapping[str, float]:
    """Read a table with a slide and its µm per level-0 px in each row.

    Returns
    -------
    mapping
        µm/px by the slide's name without its extension.

    Raises
    ------
    TableError
        If it cannot be read, lacks a column, names a slide twice, or a scale cannot be one.
    """
    table = read_table(path)
    header = [name.strip().lower() for name in table.header]
    slide, mpp = (
        next((i for i, name in enumerate(header) if name in names), None) for names in (_SLIDE, _MPP)
    )
    if slide is None or mpp is None:
        raise TableError(
            f"{path} has the columns {', '.join(table.header)}", "Name one of them slide, and one mpp (µm/px)"
        )
    found: dict[str, float] = {}
    for row in table.rows:
        name, text = case_id(row.cells[slide]), row.cells[mpp]
        try:
            scale = float(text.replace(",", "."))
        except ValueError:
            scale = 0.0
        if not 0.01 <= scale <= 100.0:
            raise TableError(
                f"{path}, row {row.number}: {text!r} is no scale", "Give µm per pixel, 0.01 to 100"
            )
        if found.setdefault(name, scale) != scale:
            raise TableError(f"{path}, row {row.number}: {name} has two scales", "Keep one of them")
    return found
