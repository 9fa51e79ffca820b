"""Files of features as TRIDENT, STAMP and CLAM write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
SLIDE_MPP = 0.25


def bag(count: int = 6, dimension: int = 4, *, side: int = 512, seed: int = 0) -> tuple[Floats, Floats]:
    """Features that float16 holds exactly, and corners on a grid of level-0 px."""
    features = np.random.default_rng(seed).integers(-8, 8, (count, dimension)).astype(np.float32) / 4
    corners = np.array([(side * (2 + i % 3), side * (1 + i // 3)) for i in range(count)], dtype=np.int64)
    return features, corners.reshape(count, 2)


def write_trident(path: Path, features: Floats, corners: Floats, *, encoder: str = "uni_v1") -> Path:
    """As its ``save_h5`` does, of 256 px at 20 x on a slide scanned at 40 x."""
    with h5py.File(path, "w") as file:
        for name, values in (("features", features), ("coords", np.asarray(corners, np.int64))):
            file.create_dataset(
                name,
                data=values,
                maxshape=(None, *values.shape[1:]),
                chunks=(1, *(max(1, length) for length in values.shape[1:])),
            )
        file["features"].attrs.update({"name": path.stem, "savetodir": str(path.parent), "encoder": encoder})
        file["coords"].attrs.update(
            {"patch_size": 256, "patch_size_level0": 512, "level0_magnification": 40, "overlap": 0}
            | {"target_magnification": 20, "name": path.stem, "savetodir": "None"}
            | {"level0_width": 20_000, "level0_height": 10_000}
        )
    return path


def write_stamp(path: Path, features: Floats, corners: Floats, *, convention: str = "2.1") -> Path:
    """As STAMP 2.1 and later, 2.0, and its first versions do, of tiles of 512 level-0 px."""
    um = np.asarray(corners) * SLIDE_MPP
    side = 512 * SLIDE_MPP
    with h5py.File(path, "w") as file:
        file["feats"] = features.astype(np.float16)
        match convention:
            case "2.1":
                file["coords"] = um.astype(np.float32)
                file.attrs.update({"unit": "um", "tile_size_um": side, "tile_size_px": 256})
                file.attrs.update({"extractor": "uni", "feat_type": "tile", "stamp_version": "2.4.0"})
            case "2.0":
                file["coords"] = um.astype(np.float32)
                file.attrs.update({"unit": "um", "tile_size": side, "extractor": "uni"})
            case "historic":
                file["coords"] = np.rint(um * 224 / 256).astype(np.int64)
    return path


def write_clam(path: Path, features: Floats, corners: Floats, **attributes: object) -> Path:
    """As its ``extract_features_fp.py`` does, which leaves the attributes of coordinates out."""
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=features, maxshape=(None, features.shape[1]), chunks=True)
        file.create_dataset("coords", data=np.asarray(corners, np.int32), maxshape=(None, 2), chunks=True)
        file["coords"].attrs.update(attributes)
    return path
