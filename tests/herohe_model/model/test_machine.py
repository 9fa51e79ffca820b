from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from herohe_model.model.machine import machine_memory

TOTAL = psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("limit", "bytes_"),
    [("max\n", TOTAL), ("2147483648\n", 2 << 30), (None, TOTAL), ("9223372036854771712\n", TOTAL)],
)
def test_a_container_has_the_memory_it_is_allowed(
    limit: str | None, bytes_: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    monkeypatch.setattr("herohe_model.model.machine._CONTAINER_LIMITS", (tmp_path / "memory.max",))
    assert machine_memory() == bytes_
