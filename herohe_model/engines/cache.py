"""What was found out about this machine once, in small files of the user's cache folder.

Found out by one process at a time: others wait, and take what the first one found.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import platformdirs
from filelock import FileLock, Timeout

from herohe_model.files import WriteError, write_atomically

CACHE_VARIABLE: Final = "HEROHE_CACHE_DIR"
"""Names the cache folder; by default it is the platform's own, for the user."""

FORMAT: Final = 1
_WAIT_S: Final = 600.0

_log = logging.getLogger(__name__)

T = TypeVar("T", bound=msgspec.Struct)


def cache_folder() -> Path:
    """Return the cache folder, which need not exist."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).absolute()
    return platformdirs.user_cache_path("herohe-bridge", appauthor=False)


class _Content(msgspec.Struct, frozen=True):
    format: int
    facts: dict[str, Any]
    found: msgspec.Raw


class MeasurementCache:
    """Findings of one kind.

    Parameters
    ----------
    kind
        Name of their folder.
    folder
        The cache folder; None for :func:`cache_folder`.
    """

    def __init__(self, kind: str, folder: Path | None = None) -> None:
        self.folder = (folder or cache_folder()) / kind

    def path(self, facts: Mapping[str, Any]) -> Path:
        """Where the finding about these facts is kept."""
        return self.folder / f"{hashlib.sha256(_json(facts)).hexdigest()[:32]}.json"

    def known(self, facts: Mapping[str, Any], kind: type[T]) -> T | None:
        """Return what is remembered of these facts; a file that is damaged counts as none."""
        return _read(self.path(facts), facts, kind)

    def remember(self, facts: Mapping[str, Any], found: msgspec.Struct) -> None:
        """Put a finding in the place of what was remembered.

        Raises
        ------
        OSError, WriteError
            If it cannot be kept.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        content = _Content(FORMAT, dict(facts), msgspec.Raw(_json(found)))
        write_atomically(self.path(facts), _json(content))

    def recall(
        self,
        facts: Mapping[str, Any],
        kind: type[T],
        find_out: Callable[[], T],
    ) -> T | None:
        """Return what is remembered of these facts, or find it out and remember it.

        A file that is damaged, or of another format, counts as none.

        Parameters
        ----------
        facts
            All that the finding depends on; JSON.

        Returns
        -------
        T or None
            None where nothing can be remembered, which is logged; `find_out` is not called then.
        """
        path = self.path(facts)
        known = self.known(facts, kind)
        if known is not None:
            return known
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock"), timeout=_WAIT_S):
                known = self.known(facts, kind)
                if known is not None:
                    return known
                # Before the work, which would be for nothing: can it be written?
                probe = path.with_suffix(f".{os.getpid()}.probe")
                write_atomically(probe, b"")
                probe.unlink()
                found = find_out()
                self.remember(facts, found)
                return found
        except (OSError, NotImplementedError, Timeout, WriteError) as error:
            _log.warning(
                "Nothing can be remembered in %s (%s); name another folder with %s",
                self.folder,
                str(error).rstrip("."),
                CACHE_VARIABLE,
            )
            return None


def _read(path: Path, facts: Mapping[str, Any], kind: type[T]) -> T | None:
    try:
        content = msgspec.json.decode(path.read_bytes(), type=_Content)
        if content.format != FORMAT or _json(content.facts) != _json(facts):
            return None
        return msgspec.json.decode(content.found, type=kind)
    except (OSError, UnicodeDecodeError, msgspec.DecodeError):
        return None


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value, order="deterministic")
