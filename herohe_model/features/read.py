"""Features of a slide from a file of TRIDENT, STAMP, CLAM or our own.

Layouts: TRIDENT's ``trident/IO.py`` and ``wsi_objects/WSI.py`` (2.x), which ours follow; STAMP's
``stamp/modeling/data.py`` (``get_coords``: 2.1 and later, 2.0, and historic files); CLAM's
``utils/file_utils.py`` and ``wsi_core/WholeSlideImage.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from herohe_model.features.hdf5 import (
    AGAIN,
    check_size,
    dataset,
    matrix_shape,
    number,
    open_hdf5,
    read_matrix,
    text,
)
from herohe_model.features.pt_file import read_pt
from herohe_model.features.schema import (
    PROVENANCE,
    FeatureFacts,
    FeatureFileError,
    SlideFeatures,
    facts_of,
    placed,
)

UM_AT_1X: Final = 10.0
"""µm per px at a magnification of 1, by convention: 0.5 at 20, 0.25 at 40."""
_HISTORIC_PX: Final = 224
_HISTORIC_UM: Final = 256.0
"""Tiles of STAMP's first files: 256 µm, their coordinates in px of which a tile has 224."""
_BLOCK_BYTES: Final = 1 << 24
_FARTHEST: Final = 1 << 40


def read_features(path: Path, *, slide_mpp: float | None = None) -> SlideFeatures:
    """Read a slide's features.

    Parameters
    ----------
    path
        An HDF5 file, or a ``.pt`` tensor of CLAM, which has no coordinates and of which nothing is executed.
    slide_mpp
        µm per level-0 px of the slide, which a STAMP file needs to say where patches lie in pixels.

    Raises
    ------
    FeatureFileError
        If it cannot be read, holds no features of patches, or numbers that are not finite.
    """
    if path.suffix.lower() == ".pt":
        return read_pt(path)
    with open_hdf5(path) as file:
        facts, features = _facts(file, path)
        check_size(features, 4, path)
        rows = read_matrix(features, path=path).astype(np.float32, copy=False)
        _check_finite(rows, path)
        corners = _read_coords(file, path) if "coords" in file else None
    if corners is None:
        return SlideFeatures(**vars(facts), features=rows)
    if facts.coordinates == "px":
        return SlideFeatures(**vars(facts), features=rows, coords=np.rint(corners).astype(np.int64))
    found = SlideFeatures(**vars(facts), features=rows, coords_um=corners)
    return found if slide_mpp is None else placed(found, slide_mpp)


def read_facts(path: Path) -> FeatureFacts:
    """Read what a file says of its features, without them; a ``.pt``, which says nothing, is read whole.

    Raises
    ------
    FeatureFileError
        As of :func:`read_features`, but for what only reading tells.
    """
    if path.suffix.lower() == ".pt":
        return facts_of(read_pt(path))
    with open_hdf5(path) as file:
        return _facts(file, path)[0]


def _facts(file: h5py.File, path: Path) -> tuple[FeatureFacts, h5py.Dataset]:
    """Return what a file says, and the array of its features, not read yet."""
    kind = text(file, "feat_type")
    if kind not in (None, "tile"):
        raise FeatureFileError(
            f"{path} holds features of a {kind}, not of patches", "Name the folder of the patches' features"
        )
    name = next((name for name in ("features", "feats", "patch_embeddings") if name in file), None)
    if name is None:
        held = ", ".join(sorted(file)[:5]) or "nothing"
        raise FeatureFileError(
            f"{path} holds no features of patches (but {held})",
            "Name a folder of TRIDENT's, STAMP's or CLAM's features, not of their coordinates",
        )
    features = dataset(file, name, path)
    count, dimension = matrix_shape(features, path=path)
    coords = dataset(file, "coords", path) if "coords" in file else None
    if coords is not None and (rows := matrix_shape(coords, 2, path=path)[0]) != count:
        raise FeatureFileError(f"{path} holds {count} features, but coordinates of {rows} patches", AGAIN)
    said = (
        _of_trident_or_clam(file, features, coords, path)
        if name == "features"
        else _of_stamp(file, coords, path)
    )
    return FeatureFacts(path=path, name=path.stem, count=count, dimension=dimension, **said), features


def _of_trident_or_clam(
    file: h5py.File, features: h5py.Dataset, coords: h5py.Dataset | None, path: Path
) -> dict[str, Any]:
    if coords is None:
        return {"layout": "clam", "encoder": text(features, "encoder")}
    patch_px, level0 = number(coords, "patch_size"), number(coords, "patch_size_level0")
    encoder = text(features, "encoder")
    if level0 is None and encoder is None:
        # Of the patches' file, whose attributes CLAM leaves out of the features' unless they are copied.
        downsample = number(coords, "downsample") or (1.0 if _level(coords) == 0 else None)
        custom = number(coords, "custom_downsample") or 1.0
        side = None if patch_px is None or downsample is None else round(patch_px * downsample * custom)
        return {
            "layout": "clam",
            "encoder": None,
            "patch_px": _whole(patch_px),
            "patch_size_level0": side,
            "coordinates": "px",
        }
    own = _own(file, path)
    magnification = number(coords, "target_magnification")
    mpp = own.get("mpp") or (None if magnification is None else UM_AT_1X / magnification)
    scan = number(coords, "level0_magnification")
    return {
        "layout": "trident",
        "encoder": encoder,
        "patch_px": _whole(patch_px),
        "patch_size_level0": _whole(level0),
        "patch_um": None if mpp is None or patch_px is None else mpp * patch_px,
        "mpp": mpp,
        "slide_mpp": own.get("slide_mpp") or (None if scan is None else UM_AT_1X / scan),
        "coordinates": "px",
        "provenance": own,
    }


def _of_stamp(file: h5py.File, coords: h5py.Dataset | None, path: Path) -> dict[str, Any]:
    side_um, side_px = _stamp_tile(file, path) if coords is not None else (None, None)
    version = text(file, "stamp_version")
    return {
        "layout": "stamp",
        "encoder": text(file, "extractor"),
        "patch_px": side_px,
        "patch_um": side_um,
        "mpp": None if side_um is None or side_px is None else side_um / side_px,
        "coordinates": None if coords is None else "um",
        "provenance": {} if version is None else {"stamp_version": version},
    }


def _stamp_tile(file: h5py.File, path: Path) -> tuple[float, int | None]:
    """Return the side of a STAMP file's tiles in µm, and in px where that is said."""
    if (side := _stamp_um(file)) is not None:
        return side, _whole(number(file, "tile_size_px"))
    side = number(file, "tile_size") or _stride(_read_array(dataset(file, "coords", path), path))
    if round(side) != _HISTORIC_PX:
        raise FeatureFileError(
            f"{path} does not say in what its coordinates are, and tiles of {side:g} are none of STAMP's",
            "Extract its features again with STAMP 2",
        )
    return _HISTORIC_UM, _HISTORIC_PX


def _stamp_um(file: h5py.File) -> float | None:
    """Return the side of tiles in µm of a STAMP file whose coordinates are µm; None of a historic one."""
    if (side := number(file, "tile_size")) is not None and text(file, "unit") == "um":
        return side
    return number(file, "tile_size_um")


def _stride(coords: NDArray[np.float64]) -> float:
    """Return the smallest distance between columns or rows of patches; 0 where there is only one patch."""
    steps = [np.diff(np.unique(axis)) for axis in coords.T]
    return float(min((step.min() for step in steps if step.size), default=0.0))


def _read_coords(file: h5py.File, path: Path) -> NDArray[np.float64]:
    """Return (n, 2) float64 in the unit that the facts say."""
    corners = _read_array(dataset(file, "coords", path), path)
    historic = "features" not in file and _stamp_um(file) is None
    return corners * (_HISTORIC_UM / _HISTORIC_PX) if historic else corners


def _read_array(coords: h5py.Dataset, path: Path) -> NDArray[np.float64]:
    check_size(coords, 8, path)
    corners = read_matrix(coords, 2, path=path).astype(np.float64)
    if not bool((np.abs(corners) < _FARTHEST).all()):
        raise FeatureFileError(f"{path} holds coordinates that lie on no slide", AGAIN)
    return corners


def _level(coords: h5py.Dataset) -> float | None:
    """Return CLAM's pyramid level of patches, which may be 0 as :func:`number` never is."""
    value = coords.attrs.get("patch_level")
    return None if value is None or np.ndim(value) else float(value)


def _own(file: h5py.File, path: Path) -> dict[str, Any]:
    said = text(file, PROVENANCE)
    if said is None:
        return {}
    try:
        return msgspec.json.decode(said, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise FeatureFileError(f"{path}: what it says of how it was made is no JSON", AGAIN) from error


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _check_finite(rows: NDArray[np.float32], path: Path) -> None:
    """Check by blocks, so that no second array of the size is made."""
    step = max(1, _BLOCK_BYTES // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        if not bool(np.isfinite(rows[start : start + step]).all()):
            raise FeatureFileError(
                f"{path} holds features that are not finite numbers",
                "Extract them again, in float32 where float16 was too small for the encoder",
            )
