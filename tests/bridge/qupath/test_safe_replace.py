from __future__ import annotations

from pathlib import Path

import pytest

from bridge.qupath.safe_replace import Backups, replace_file
from herohe_model.errors import EntryChangedError, WriteBackError
from herohe_model.files import sha256_of

BEFORE, AFTER = b"what was there", b"what shall be there"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data.bin"
    path.write_bytes(BEFORE)
    return path


def put(path: Path) -> None:
    path.write_bytes(AFTER)


def accept(_: Path) -> None:
    pass


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_and_nothing_is_left_beside_it(file: Path) -> None:
    file.chmod(0o640)
    digest = replace_file(file, put, accept, expected=sha256_of(file), what="it")
    assert file.read_bytes() == AFTER
    assert digest == sha256_of(file)
    assert file.stat().st_mode & 0o777 == 0o640
    assert names(file.parent) == ["data.bin"]


def test_a_file_that_was_not_there_is_made(tmp_path: Path) -> None:
    replace_file(tmp_path / "new", put, accept, expected=None, what="it")
    assert names(tmp_path) == ["new"]


def test_left_overs_of_a_killed_process_are_in_nobodys_way(file: Path) -> None:
    for suffix in (".part", ".herohe-old"):
        file.with_name(file.name + suffix).write_bytes(b"half")
    replace_file(file, put, accept, expected=sha256_of(file), what="it")
    assert file.read_bytes() == AFTER
    assert names(file.parent) == ["data.bin"]


def test_a_file_changed_by_somebody_else_is_left_alone(file: Path) -> None:
    read = sha256_of(file)
    file.write_bytes(b"saved by QuPath")
    with pytest.raises(EntryChangedError, match="changed since it was read"):
        replace_file(file, put, accept, expected=read, what="it")
    assert file.read_bytes() == b"saved by QuPath"
    assert names(file.parent) == ["data.bin"]


def test_a_file_that_appeared_meanwhile_is_left_alone(file: Path) -> None:
    with pytest.raises(EntryChangedError):
        replace_file(file, put, accept, expected=None, what="it")
    assert file.read_bytes() == BEFORE


def test_what_does_not_verify_takes_nothing_from_its_place(file: Path) -> None:
    def refuse(path: Path) -> None:
        assert path.read_bytes() == AFTER
        raise WriteBackError("no")

    with pytest.raises(WriteBackError):
        replace_file(file, put, refuse, expected=sha256_of(file), what="it")
    assert file.read_bytes() == BEFORE
    assert names(file.parent) == ["data.bin"]


def test_a_write_that_fails_half_way_leaves_the_old_file(file: Path) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(WriteBackError, match=r"No space left on device.*as it was"):
        replace_file(file, fail, accept, expected=sha256_of(file), what="it")
    assert file.read_bytes() == BEFORE
    assert names(file.parent) == ["data.bin"]


def test_a_file_is_backed_up_once_a_run_as_it_was_before_it(file: Path, tmp_path: Path) -> None:
    backups = Backups(tmp_path, tmp_path / "kept")
    backups.keep(file)
    file.write_bytes(AFTER)
    backups.keep(file)
    backups.keep(tmp_path / "not there")
    (copy,) = (tmp_path / "kept").glob("*/*")
    assert copy.read_bytes() == BEFORE
    another_run = Backups(tmp_path, tmp_path / "kept")
    another_run.keep(file)
    assert sorted(c.read_bytes() for c in (tmp_path / "kept").glob("*/data.bin")) == [AFTER, BEFORE]


def test_nothing_is_made_before_the_first_backup(tmp_path: Path) -> None:
    Backups(tmp_path, tmp_path / "kept").keep(tmp_path / "not there")
    assert not (tmp_path / "kept").exists()


def test_no_room_for_a_backup_is_an_error(file: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"a file where a folder should be")
    with pytest.raises(WriteBackError, match="No backup"):
        Backups(tmp_path, tmp_path / "kept").keep(file)
