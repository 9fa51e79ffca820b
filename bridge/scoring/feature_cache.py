"""Features of patches that were embedded before on this machine, by slide, encoder and grid.

They lie in the user's cache folder, a folder for each slide, encoder and size of patch, in files that are
only added: so a region that is drawn anew, another head or another seed embeds nothing twice, and what was
embedded before a kill is there after it. What is not there is computed; the folder may be deleted.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from herohe_model.engines.cache import cache_folder
from herohe_model.files import WriteError, write_atomically

LIMIT_BYTES: Final = 8 << 30
"""Of all features that are kept: 1,000 slides of 2,000 patches by an encoder of 1,024 numbers."""

FORMAT: Final = 1
_PART_BYTES: Final = 16 << 20
"""Features that are written at a time."""

_log = logging.getLogger(__name__)


class FeatureCache:
    """Features on this machine.

    Parameters
    ----------
    folder
        The cache folder; None for the user's.
    limit_bytes
        What is kept at most; what was not used for longest goes first.
    """

    def __init__(self, folder: Path | None = None, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder = (folder or cache_folder()) / "features"
        self._limit = limit_bytes

    def of(self, facts: Mapping[str, Any], dimension: int) -> KnownFeatures:
        """Return the features that are known of a slide.

        Parameters
        ----------
        facts
            All that a feature depends on but its patch's corner; JSON.
        """
        named = msgspec.json.encode({"format": FORMAT, **facts}, order="deterministic")
        return KnownFeatures(self.folder / hashlib.sha256(named).hexdigest()[:32], dimension)

    def prune(self) -> None:
        """Remove what was not used for longest, until the rest is within the limit."""
        folders = []
        with suppress(OSError):
            for folder in self.folder.iterdir():
                with suppress(OSError):
                    size = sum(file.stat().st_size for file in folder.iterdir())
                    folders.append((folder.stat().st_mtime, size, folder))
        total = sum(size for _, size, _ in folders)
        for _, size, folder in sorted(folders):
            if total <= self._limit:
                return
            shutil.rmtree(folder, ignore_errors=True)
            total -= size


class KnownFeatures:
    """Features of one slide, encoder and grid.

    Parameters
    ----------
    folder
        Its own; None to keep nothing beyond this object.
    """

    def __init__(self, folder: Path | None, dimension: int) -> None:
        self._folder = folder
        self._rows: dict[tuple[int, int], NDArray[np.float32]] = {}
        self._new: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
        self._dimension = dimension
        for corners, features in self._parts():
            self._rows.update(zip(map(tuple, corners.tolist()), features, strict=True))
        if folder is not None:
            with suppress(OSError):
                os.utime(folder)

    def lacking(self, corners: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of the patches at `corners`, (n, 2), are not known, (n,)."""
        return np.array([(x, y) not in self._rows for x, y in corners.tolist()], dtype=np.bool_)

    def rows(self, corners: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the features of patches that are all known, (n, dimension)."""
        return np.stack([self._rows[x, y] for x, y in corners.tolist()])

    def add(self, corners: NDArray[np.int64], features: NDArray[np.float32]) -> None:
        """Take features of patches, (n, dimension); they are written some at a time."""
        self._rows.update(zip(map(tuple, corners.tolist()), features, strict=True))
        self._new.append((corners, features))
        if sum(rows.nbytes for _, rows in self._new) >= _PART_BYTES:
            self.write()

    def write(self) -> None:
        """Write what was added; where nothing can be kept, nothing is, which is logged."""
        if not self._new or self._folder is None:
            return
        corners, features = (np.concatenate(parts) for parts in zip(*self._new, strict=True))
        self._new = []
        name = hashlib.sha256(np.ascontiguousarray(corners).tobytes()).hexdigest()[:32]
        data = safetensors.numpy.save({"corners": corners, "features": features})
        try:
            write_atomically(self._folder / f"{name}.safetensors", data)
        except WriteError as error:
            _log.warning("%s: features are not kept, and will be computed again", error.problem)

    def _parts(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Read what is kept; what is damaged counts as none."""
        files: list[Path] = []
        if self._folder is not None:
            with suppress(OSError):
                files = sorted(self._folder.glob("*.safetensors"))
        for file in files:
            try:
                held = safetensors.numpy.load(file.read_bytes())
                corners, features = held["corners"], held["features"]
            except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError):
                continue
            fits = corners.dtype == np.int64 and features.dtype == np.float32
            if (
                fits
                and corners.shape == (len(features), 2)
                and features.shape[1:] == (self._dimension,)
                and bool(np.isfinite(features).all())
            ):
                yield corners, features
