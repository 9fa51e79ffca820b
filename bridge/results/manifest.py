"""What a batch has done so far, in an SQLite file: a killed run goes on where it stopped.

A finished slide is found again by its *work key*, a digest of everything that decides its result (slide,
regions, model, options), so a changed annotation or another model is scored again and nothing else is.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec

from bridge.results.schema import Outcome, SlideResult
from herohe_model.errors import HeroheError

MANIFEST_NAME: Final = "manifest.sqlite"
FORMAT: Final = 1
_PATIENCE_S: Final = 0.5
"""How long another process may hold the file, such as one that looks at it, before it counts as a run."""


class ManifestError(HeroheError):
    """The manifest cannot be read or written."""

    code = "manifest"


def work_key(facts: dict[str, Any]) -> str:
    """SHA-256 of the facts that decide a slide's result, as a hexadecimal string."""
    return hashlib.sha256(msgspec.json.encode(facts, order="deterministic")).hexdigest()


def check_free(folder: Path) -> None:
    """Refuse a folder of results that another run uses, before anything is begun for it.

    Raises
    ------
    ManifestError
        If another process holds its manifest, or it cannot be used.
    """
    path = folder / MANIFEST_NAME
    if path.exists():
        Manifest(path).close()


class Manifest:
    """Results by work key, and which result each entry had in the latest run.

    Parameters
    ----------
    path
        The SQLite file; made when absent.

    Raises
    ------
    ManifestError
        If the file cannot be opened, is not a manifest, or the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_symlink():
            raise ManifestError(f"The manifest {path} is a link", "Remove it: a run makes its own")
        with self._errors():
            self._db = sqlite3.connect(path, isolation_level=None, timeout=_PATIENCE_S)
            # Held until the process ends, however it ends: two runs never share an output folder.
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.execute("CREATE TABLE IF NOT EXISTS format (version INTEGER NOT NULL)")
                row = self._db.execute("SELECT version FROM format").fetchone()
                if row is None:
                    self._db.execute("INSERT INTO format VALUES (?)", (FORMAT,))
                elif row[0] != FORMAT:
                    raise ManifestError(
                        f"{path} has the format {row[0]} of another version of herohe-bridge, not {FORMAT}",
                        "Name another --output folder, or remove the file",
                    )
                self._db.execute(
                    "CREATE TABLE IF NOT EXISTS results (key TEXT PRIMARY KEY, result BLOB NOT NULL) STRICT"
                )
                self._db.execute(
                    "CREATE TABLE IF NOT EXISTS latest"
                    " (entry TEXT PRIMARY KEY, position INTEGER NOT NULL, result BLOB NOT NULL) STRICT"
                )
                self._db.execute(
                    "CREATE TABLE IF NOT EXISTS fatal (entry TEXT PRIMARY KEY, file BLOB NOT NULL,"
                    " size INTEGER NOT NULL, changed INTEGER NOT NULL, result BLOB NOT NULL) STRICT"
                )

    def __enter__(self) -> Manifest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def find(self, key: str) -> SlideResult | None:
        """Return the finished result of this work, if there is one; a damaged one is none."""
        with self._errors():
            row = self._db.execute("SELECT result FROM results WHERE key = ?", (key,)).fetchone()
        return _unpack(row[0]) if row else None

    def keep(self, key: str, result: SlideResult) -> None:
        """Remember a finished result; durable when this returns."""
        with self._errors():
            self._db.execute("INSERT OR REPLACE INTO results VALUES (?, ?)", (key, _pack(result)))

    def keep_fatal(self, file: Path, result: SlideResult) -> None:
        """Remember that reading an entry's file ends who reads it, as long as the file stays what it is."""
        with self._errors(), contextlib.suppress(OSError):
            row = (result.entry, os.fsencode(file), *_stamp(file), _pack(result))
            self._db.execute("INSERT OR REPLACE INTO fatal VALUES (?, ?, ?, ?, ?)", row)

    def find_fatal(self, entry: str) -> SlideResult | None:
        """Return the result of an entry whose file was not to be read, and is still the same."""
        with self._errors(), contextlib.suppress(OSError):
            row = self._db.execute("SELECT * FROM fatal WHERE entry = ?", (entry,)).fetchone()
            if row is not None and _stamp(Path(os.fsdecode(row[1]))) == (row[2], row[3]):
                return _unpack(row[4])
        return None

    def begin_run(self, *, restart: bool) -> None:
        """Forget which results the previous run reported; with `restart`, forget all results."""
        with self._errors(), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("DELETE FROM latest")
            if restart:
                self._db.execute("DELETE FROM results")
                self._db.execute("DELETE FROM fatal")

    def report(self, *found: tuple[int, SlideResult]) -> None:
        """Say what this run found for entries, each with the position that orders the reports.

        All of them are durable when this returns, and none if it does not: one sync, however many.
        """
        rows = ((result.entry, position, _pack(result)) for position, result in found)
        with self._errors(), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT OR REPLACE INTO latest VALUES (?, ?, ?)", rows)

    def reported(self) -> Iterator[SlideResult]:
        """Yield this run's results in order, one in memory at a time; a damaged one as a failure."""
        with self._errors():
            for entry, blob in self._db.execute("SELECT entry, result FROM latest ORDER BY position"):
                yield _unpack(blob) or SlideResult(
                    entry=entry,
                    slide=entry,
                    path="",
                    outcome=Outcome.FAILED,
                    message=f"Its result in {self.path} is damaged. Give the same command again.",
                    error_code=ManifestError.code,
                )

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._db.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def _explained(self, error: sqlite3.Error) -> ManifestError:
        """Return the error with the remedy that fits."""
        said = str(error)
        if "locked" in said:
            return ManifestError(
                f"Another run uses {self.path.parent}", "Wait until it has ended, or name another --output"
            )
        if "full" in said or "I/O" in said:
            remedy = "Make room on the disk"
        elif "readonly" in said or "unable to open" in said or "read-only" in said:
            remedy = "Allow writing to its folder, or name another --output"
        else:
            remedy = "Name another --output, or remove the file: slides are then scored again"
        return ManifestError(f"The manifest {self.path} cannot be used: {said}", remedy)


def _stamp(file: Path) -> tuple[int, int]:
    """Return size and time of change, ns, of a file."""
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def _pack(result: SlideResult) -> bytes:
    return zlib.compress(msgspec.json.encode(result), 1)


def _unpack(blob: bytes) -> SlideResult | None:
    try:
        return msgspec.json.decode(zlib.decompress(blob), type=SlideResult)
    except (zlib.error, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
