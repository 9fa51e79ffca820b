"""Features of a slide into an HDF5 file as TRIDENT writes it, in pieces as they come, whole or not at all.

The layout is that of TRIDENT's ``save_h5`` and ``coords_to_h5`` (``trident/IO.py``, 2.x): its readers, CLAM's
and Patho-Bench's take these files as they are. How we made them stands in an attribute of the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from herohe_model.features.read import UM_AT_1X
from herohe_model.features.schema import PROVENANCE, FeatureFileError
from herohe_model.files import WriteError, replacing

_CHUNK_BYTES: Final = 1 << 20
_MAGNIFICATIONS: Final = ((0.16, 80), (0.2, 60), (0.3, 40), (0.6, 20), (1.2, 10), (2.4, 5))
"""µm/px below which TRIDENT calls a slide scanned so many times enlarged (``_fetch_magnification``)."""
_NO_ROOM: Final = "Check the free space and the folder's permissions, or name another with --output"


@dataclass(frozen=True)
class PlacedPatches:
    """Where the patches of a slide lie, and what was read there.

    Attributes
    ----------
    corners
        (n, 2) int64, level-0 px (x, y), upper left.
    size
        Side, level-0 px.
    patch_px, mpp
        Side in px at the scale that the encoder wants, and that scale, µm/px.
    slide_size
        (width, height) of level 0, px.
    slide_mpp
        µm per level-0 px.
    """

    corners: NDArray[np.int64]
    size: int
    patch_px: int
    mpp: float
    slide_size: tuple[int, int]
    slide_mpp: float


class FeatureWriter:
    """A file of features that is being filled; made by :func:`writing_features`."""

    def __init__(self, features: h5py.Dataset, path: Path) -> None:
        self._features = features
        self._path = path
        self.written = 0

    def append(self, rows: NDArray[np.float32]) -> None:
        """Write the features (k, dimension) of the next patches.

        Raises
        ------
        FeatureFileError
            If they are not finite.
        """
        if not bool(np.isfinite(rows).all()):
            raise FeatureFileError(
                f"The encoder gave no finite numbers for a patch of {self._path.stem}",
                "Use --precision fp32, and check it with herohe-bridge encoder verify",
            )
        self._features[self.written : self.written + len(rows)] = rows
        self.written += len(rows)


@contextmanager
def writing_features(
    path: Path,
    patches: PlacedPatches,
    *,
    name: str,
    encoder: str,
    dimension: int,
    provenance: Mapping[str, Any],
) -> Iterator[FeatureWriter]:
    """Write a file of features, or leave what was there; as many must be appended as there are patches.

    The same content gives the same bytes. Memory does not grow with the number of patches, but for their
    corners.

    Parameters
    ----------
    name
        The slide's, without its extension.
    provenance
        How the features are made, JSON.

    Raises
    ------
    WriteError
        If it cannot be written.
    FeatureFileError
        If fewer features came than there are patches.
    """
    count = len(patches.corners)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, alone=True) as part:
            # Its name is this run's alone; network shares often refuse locks.
            with h5py.File(part, "x", locking=False) as file:
                rows = max(1, min(count, _CHUNK_BYTES // (4 * dimension)))
                features = file.create_dataset(
                    "features",
                    shape=(count, dimension),
                    maxshape=(None, dimension),
                    chunks=(rows, dimension),
                    dtype=np.float32,
                )
                coords = file.create_dataset(
                    "coords",
                    data=patches.corners.astype(np.int64),
                    maxshape=(None, 2),
                    chunks=(max(1, count), 2),
                )
                features.attrs.update({"name": name, "encoder": encoder})
                coords.attrs.update(_attributes(patches, name))
                file.attrs[PROVENANCE] = msgspec.json.encode(provenance, order="deterministic").decode()
                writer = FeatureWriter(features, path)
                yield writer
            if writer.written != count:
                raise FeatureFileError(
                    f"{path} got {writer.written} features for {count} patches", "Extract it again"
                )
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror or error}", _NO_ROOM) from error


def _attributes(patches: PlacedPatches, name: str) -> dict[str, Any]:
    target = UM_AT_1X / patches.mpp
    scan = next((times for mpp, times in _MAGNIFICATIONS if patches.slide_mpp < mpp), None)
    width, height = patches.slide_size
    return {
        "patch_size": patches.patch_px,
        "patch_size_level0": patches.size,
        "level0_magnification": scan or UM_AT_1X / patches.slide_mpp,
        "target_magnification": round(target) if abs(target - round(target)) < 1e-6 else target,
        "overlap": 0,
        "name": name,
        "level0_width": width,
        "level0_height": height,
    }
