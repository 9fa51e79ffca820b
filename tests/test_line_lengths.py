"""Groovy and JavaScript keep to the width that CONTRIBUTING names; Python has ruff for it."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("bridge", "herohe_model", "qupath_scripts", "tests")
FILES = sorted(
    path for folder in FOLDERS for kind in ("groovy", "js") for path in (ROOT / folder).rglob(f"*.{kind}")
)
LONGEST = 120


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_lines_are_at_most_120_characters_long(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [number for number, line in enumerate(lines, 1) if len(line) > LONGEST] == []
