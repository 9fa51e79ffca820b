"""Taking away the files of a run: those that are certainly ours, in its folder alone, and no links."""

from __future__ import annotations

import contextlib
import stat
from pathlib import Path
from typing import Final

from bridge.results.files import COLUMNS, JSON_FORMAT, ResultFileError
from bridge.results.manifest import MANIFEST_NAME, check_free
from bridge.results.run import RESULTS_NAME, read_head

_CSV_NAME: Final = "results.csv"
_SQLITE: Final = b"SQLite format 3\0"
_BESIDE: Final = ("-wal", "-shm")
"""What SQLite keeps beside a file that was not closed."""


def result_files(folder: Path) -> tuple[Path, ...]:
    """Return the files of a run in its folder, by name and content; a link is none of them."""
    if folder.is_symlink():
        return ()
    found = [folder / name for name in (_CSV_NAME, RESULTS_NAME) if _is_ours(folder / name)]
    manifest = folder / MANIFEST_NAME
    if _is_ours(manifest):
        beside = (manifest.with_name(manifest.name + end) for end in _BESIDE)
        found += [manifest, *(path for path in beside if _is_file(path))]
    return tuple(found)


def remove_results(folder: Path) -> tuple[Path, ...]:
    """Remove the files of a run, and folders that are empty then; return the files.

    Raises
    ------
    ManifestError
        If a run uses the folder.
    ResultFileError
        If a file cannot be removed.
    """
    if _is_ours(folder / MANIFEST_NAME):
        check_free(folder)
    found = result_files(folder)
    for path in found:
        try:
            # What SQLite kept beside its file may be gone since it was looked at.
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ResultFileError(
                f"{path} cannot be removed ({error.strerror or error})", "Allow writing to its folder"
            ) from error
    for empty in (folder / "geojson", folder):
        with contextlib.suppress(OSError):
            if not empty.is_symlink():
                empty.rmdir()
    return found


def _is_file(path: Path) -> bool:
    """Whether it is a file itself, rather than a link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _is_ours(path: Path) -> bool:
    if not _is_file(path):
        return False
    if path.name == RESULTS_NAME:
        return read_head(path).format == JSON_FORMAT
    begin = ",".join(COLUMNS[:3]).encode() if path.name == _CSV_NAME else _SQLITE
    try:
        with path.open("rb") as file:
            return file.read(len(begin) + 3).removeprefix(b"\xef\xbb\xbf").startswith(begin)
    except OSError:
        return False
