"""Replacing a file that somebody's work depends on: all or nothing, with a copy kept of what was there."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from herohe_model.errors import EntryChangedError, WriteBackError
from herohe_model.files import replacing, sha256_of

_OLD: Final = ".herohe-old"
"""Suffix of the file that was replaced, until the new one was read back."""


def replace_file(
    path: Path,
    write: Callable[[Path], None],
    verify: Callable[[Path], None],
    *,
    expected: str | None,
    what: str,
) -> str:
    """Put a new file in a file's place, unless that changed meanwhile; return its SHA-256.

    The new one is written beside the old one, brought to the disk and verified there first, and compared
    once more when it is in place. At every moment `path` is one of the two, whole; what a killed process
    leaves beside it is overwritten the next time.

    Parameters
    ----------
    write
        Writes the new file to the path that it is given.
    verify
        Reads it again from there; raises WriteBackError when it is not as it should be.
    expected
        The SHA-256 that `path` was read with; None when there was no file.
    what
        What the file is, for errors.

    Raises
    ------
    EntryChangedError
        If `path` is no longer what was read.
    WriteBackError
        If writing, verifying or replacing failed. The old file is as it was.
    """
    path = path.resolve()
    old = path.with_name(path.name + _OLD)
    try:
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, "it is read-only")
        with replacing(path, alone=True) as new:
            write(new)
            verify(new)
            written = sha256_of(new)
            if sha256_of(path) != expected:
                raise changed_error(what)
            if expected is not None:
                shutil.copymode(path, new)
                _second_name(path, old)
        if written is None or sha256_of(path) != written:
            _put_back(path, old, existed=expected is not None)
            raise WriteBackError(f"{what} did not read back as it was written", "Check the disk")
        return written
    except OSError as error:
        raise WriteBackError(
            f"{what} could not be written ({error.strerror or error}); it is as it was",
            "Make room on the disk, allow writing there, close QuPath, and run again",
        ) from error
    finally:
        old.unlink(missing_ok=True)


def write_new(content: bytes, path: Path) -> None:
    """Write bytes to a file that is not there yet."""
    with path.open("xb") as file:
        file.write(content)


def changed_error(what: str) -> EntryChangedError:
    """Return the error for a file that somebody else changed after it was read."""
    return EntryChangedError(
        f"{what} changed since it was read, so nothing was written to it",
        "Close the project in QuPath and run again",
    )


class Backups:
    """Copies of the files that a run changes, as they were before it, in one folder named by the time.

    The folder is made with its first copy; a file is copied once a run.

    Parameters
    ----------
    root
        The folder whose files are copied.
    place
        Where backups are kept, one folder a run.
    """

    def __init__(self, root: Path, place: Path) -> None:
        self._root = root.resolve()
        self._place = place
        self._folder: Path | None = None
        self._kept: set[Path] = set()

    def keep(self, path: Path) -> None:
        """Copy a file, if it is there and this run has not copied it yet.

        Raises
        ------
        WriteBackError
            If it cannot be copied, or the copy is not the same.
        """
        path = path.resolve()
        if path in self._kept:
            return
        before = sha256_of(path)
        if before is None:
            return
        try:
            inside = path.is_relative_to(self._root)
            copy = self._own_folder() / (path.relative_to(self._root) if inside else Path(*path.parts[1:]))
            copy.parent.mkdir(parents=True, exist_ok=True)
            with replacing(copy) as part:
                shutil.copy2(path, part)
            kept = sha256_of(copy)
        except OSError as error:
            raise WriteBackError(
                f"No backup of {path} could be made ({error.strerror or error}), so it was left alone",
                f"Make room for it in {self._place}",
            ) from error
        if kept != before:
            raise changed_error(str(path))
        self._kept.add(path)

    def _own_folder(self) -> Path:
        if self._folder is None:
            stamp = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H-%M-%S.%fZ")
            self._folder = self._place / stamp
            self._folder.mkdir(parents=True)
        return self._folder


def _second_name(path: Path, name: Path) -> None:
    """Keep a file reachable by another name while a new one takes its place."""
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError:
        shutil.copy2(path, name)  # a file system without hard links


def _put_back(path: Path, old: Path, *, existed: bool) -> None:
    if existed:
        os.replace(old, path)
    else:
        path.unlink(missing_ok=True)
