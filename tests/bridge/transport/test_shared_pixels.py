from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bridge.protocol.messages import ArrayHeader
from bridge.transport.shared_pixels import SharedPixelsDirectory, SharedPixelsReader, SharedPixelsWriter

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no slots on Windows")

SHAPE = (5, 7, 3)


def pixels(seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, SHAPE, dtype=np.uint8)


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEROHE_RUNTIME_DIR", str(tmp_path / "run"))


def test_pixels_are_read_as_they_were_put(tmp_path: Path) -> None:
    writer, reader = SharedPixelsWriter(tmp_path, 105, 2), SharedPixelsReader(str(tmp_path))
    names = [writer.put(pixels(seed)) for seed in range(2)]
    for seed, name in enumerate(names):
        read = reader.read(ArrayHeader(SHAPE, slot=name))
        assert np.array_equal(read, pixels(seed))
        assert not read.flags.writeable
        del read
    reader.close()
    writer.close()


def test_a_slot_is_used_again_only_after_it_was_released(tmp_path: Path) -> None:
    writer = SharedPixelsWriter(tmp_path, 105, 1)
    name = writer.put(pixels())
    assert name is not None
    assert writer.put(pixels()) is None
    writer.release(name)
    assert writer.put(pixels(1)) == name
    assert len(list(tmp_path.glob("[0-9a-f]" * 32))) == 1
    writer.close()
    assert not list(tmp_path.glob("[0-9a-f]" * 32))


def test_without_room_there_is_no_slot(tmp_path: Path) -> None:
    writer = SharedPixelsWriter(tmp_path / "absent", 105, 2)
    assert writer.put(pixels()) is None
    writer.close()
    writer = SharedPixelsWriter(tmp_path, 1, 2)
    assert writer.put(pixels()) is None
    writer.close()


def test_what_lies_in_no_slot_is_not_read(tmp_path: Path) -> None:
    reader = SharedPixelsReader(str(tmp_path))
    (tmp_path / ("a" * 32)).write_bytes(bytes(104))
    (tmp_path / ("b" * 32)).write_bytes(b"")
    (tmp_path / ("c" * 32)).symlink_to("/dev/zero")
    for name in "abcd":
        with pytest.raises(OSError):
            reader.read(ArrayHeader(SHAPE, slot=name * 32))
    with pytest.raises(OSError):
        SharedPixelsReader("").read(ArrayHeader(SHAPE, slot="a" * 32))
    reader.close()


def test_a_file_that_was_cut_short_is_not_read_beyond_its_end(tmp_path: Path) -> None:
    writer, reader = SharedPixelsWriter(tmp_path, 105, 1), SharedPixelsReader(str(tmp_path))
    name = writer.put(pixels())
    reader.read(ArrayHeader(SHAPE, slot=name))
    os.truncate(tmp_path / str(name), 10)
    with pytest.raises(OSError, match="too short"):
        reader.read(ArrayHeader(SHAPE, slot=name))
    reader.close()
    writer.close()


def test_memory_of_removed_files_is_given_back(tmp_path: Path) -> None:
    writer, reader = SharedPixelsWriter(tmp_path, 105, 1), SharedPixelsReader(str(tmp_path))
    name = writer.put(pixels())
    reader.read(ArrayHeader(SHAPE, slot=name))
    reader.forget_removed()
    reader.read(ArrayHeader(SHAPE, slot=name))
    writer.close()
    reader.forget_removed()
    with pytest.raises(FileNotFoundError):
        reader.read(ArrayHeader(SHAPE, slot=name))


def test_what_a_killed_server_left_is_removed_by_the_next_and_a_living_ones_is_not(tmp_path: Path) -> None:
    living = SharedPixelsDirectory()
    killed = subprocess.run(
        [sys.executable, "-c", "import os; from bridge.transport.shared_pixels import SharedPixelsDirectory;"
         "d = SharedPixelsDirectory(); print(d.path, flush=True); os._exit(9)"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    left = Path(killed.stdout.strip())
    assert left.is_dir()
    following = SharedPixelsDirectory()
    assert not left.exists()
    assert Path(living.path).is_dir()
    for directory in (living, following):
        path = Path(directory.path)
        directory.remove()
        assert not path.exists()
