"""Files written beside their place and then moved there: a reader sees the old one or the new one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from herohe_model.errors import HeroheError


class WriteError(HeroheError):
    """A file cannot be written."""

    code = "write"


@contextlib.contextmanager
def replacing(path: Path, *, alone: bool = False) -> Iterator[Path]:
    """Name of a file beside `path`; what is written there takes its place when the block ends without error.

    Otherwise `path` stays as it was. The new file is brought to the disk before it is moved.

    Parameters
    ----------
    alone
        Whether nobody else writes this file at the same time: the name is then always the same, so that what
        a killed process left there is removed by the next.

    Yields
    ------
    Path
        Nothing is there. Opened with ``x``, no link that somebody puts there meanwhile is followed.

    Raises
    ------
    OSError
        If the file cannot be written or moved.
    """
    part = path.with_name(f"{path.name}.part" if alone else f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        part.unlink(missing_ok=True)
        yield part
        # Windows flushes only what was opened for writing.
        _to_disk(part, os.O_RDWR)
        os.replace(part, path)
        # The list of the folder's files; Windows opens no folders, and some network shares flush none.
        with contextlib.suppress(OSError):
            _to_disk(path.parent, os.O_RDONLY)
    finally:
        part.unlink(missing_ok=True)


def _to_disk(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file, or leave what was there untouched; its folder is made if it is not there.

    Raises
    ------
    WriteError
        If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, part.open("xb") as file:
            file.write(data)
    except OSError as error:
        raise WriteError(
            f"{path} cannot be written: {error.strerror or error}",
            "Close it elsewhere, check the free space and the folder's permissions, or name another place",
        ) from error


_CHUNK: Final = 1 << 20


def sha256_of(path: Path) -> str | None:
    """Return the SHA-256 of a file's content, hexadecimal; None when there is no such file."""
    sha = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                sha.update(chunk)
    except FileNotFoundError:
        return None
    return sha.hexdigest()
