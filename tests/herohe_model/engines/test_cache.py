from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from herohe_model.engines.cache import CACHE_VARIABLE, MeasurementCache, cache_folder

FACTS = {"cpu": "Z80", "threads": 1}


class Found(msgspec.Struct, frozen=True):
    number: int


def never() -> Found:
    raise AssertionError("This is remembered")


def test_what_was_found_out_once_is_not_found_out_again(tmp_path: Path) -> None:
    memory = MeasurementCache("numbers", tmp_path / "cache")
    assert memory.recall(FACTS, Found, lambda: Found(7)) == Found(7)
    assert memory.recall(FACTS, Found, never) == Found(7)
    assert MeasurementCache("numbers", tmp_path / "cache").recall(
        dict(reversed(FACTS.items())), Found, never
    ) == Found(7)


def test_other_facts_have_findings_of_their_own(tmp_path: Path) -> None:
    memory = MeasurementCache("numbers", tmp_path)
    memory.recall(FACTS, Found, lambda: Found(7))
    assert memory.recall({**FACTS, "threads": 2}, Found, lambda: Found(8)) == Found(8)
    assert MeasurementCache("others", tmp_path).recall(FACTS, Found, lambda: Found(9)) == Found(9)
    assert memory.recall(FACTS, Found, never) == Found(7)


def test_of_several_at_once_one_finds_out_and_the_others_take_it(tmp_path: Path) -> None:
    count = 4
    together = threading.Barrier(count)
    calls: list[int] = []

    def find_out() -> Found:
        calls.append(1)
        return Found(len(calls))

    def recall(_: int) -> Found | None:
        memory = MeasurementCache("numbers", tmp_path)
        together.wait()
        return memory.recall(FACTS, Found, find_out)

    with ThreadPoolExecutor(count) as pool:
        assert list(pool.map(recall, range(count))) == [Found(1)] * count
    assert calls == [1]


def test_nothing_is_found_out_where_nothing_can_be_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert MeasurementCache("numbers", tmp_path / "file").recall(FACTS, Found, never) is None
    assert "Nothing can be remembered in" in caplog.text


def test_a_failure_to_find_out_is_not_remembered(tmp_path: Path) -> None:
    memory = MeasurementCache("numbers", tmp_path)
    with pytest.raises(AssertionError, match="This is remembered"):
        memory.recall(FACTS, Found, never)
    assert memory.recall(FACTS, Found, lambda: Found(7)) == Found(7)


def test_the_folder_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv(CACHE_VARIABLE)
    assert "herohe-bridge" in cache_folder().parts
