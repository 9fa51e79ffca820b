from __future__ import annotations

import os
from pathlib import Path

import pytest

from herohe_model.files import replacing, write_atomically


def test_a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    write_atomically(tmp_path / "new" / "file", b"first")
    write_atomically(tmp_path / "new" / "file", b"second")
    assert {p.name: p.read_bytes() for p in (tmp_path / "new").iterdir()} == {"file": b"second"}


@pytest.mark.parametrize("alone", [True, False])
def test_what_was_there_stays_when_writing_fails(tmp_path: Path, alone: bool) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"before")
    with pytest.raises(RuntimeError), replacing(file, alone=alone) as part:
        part.write_bytes(b"half")
        raise RuntimeError
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"file": b"before"}


def test_the_one_who_writes_alone_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(b"half")
    with replacing(tmp_path / "file", alone=True) as part, part.open("xb") as file:
        file.write(b"whole")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"file": b"whole"}


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_no_planted_link_is_followed(tmp_path: Path) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "shared"
    victim.write_bytes(b"somebody's work")
    folder.mkdir()
    for name in ("file", "file.part"):
        (folder / name).symlink_to(victim)
    with replacing(folder / "file", alone=True) as part, part.open("xb") as file:
        file.write(b"result")
    assert victim.read_bytes() == b"somebody's work"
    assert [p.name for p in folder.iterdir() if not p.is_symlink()] == ["file"]
