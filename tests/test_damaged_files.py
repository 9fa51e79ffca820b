from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.parser_fuzz import (
    Case,
    annotation_cases,
    model_cases,
    project_cases,
    run_cases,
    table_cases,
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("cases", "count"),
    [(annotation_cases, 400), (table_cases, 200), (model_cases, 200), (project_cases, 400)],
)
def test_a_damaged_file_is_read_or_refused_with_an_error_of_ours(
    tmp_path: Path, cases: Callable[[Path, int], Iterator[Case]], count: int
) -> None:
    found = run_cases(cases(tmp_path, 2026), count)
    assert found.slowest_s < 10
    # A fuzzer whose files are all refused at the door, or all read, looks at nothing.
    assert found.read > count // 100
    assert found.refused > count // 100
