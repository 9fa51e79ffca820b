"""A run's patches as AnnData, for scverse and LazySlide: features or contributions, and where they lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from bridge.export.geojson import Exported, file_stem, step_name
from bridge.results.run import ScoredRun
from bridge.results.schema import RESEARCH_USE_ONLY, RegionResult, SlideResult, image_metadata, tiles
from herohe_model.dataset.cases import case_id
from herohe_model.errors import ALLOW, HeroheError, OptionError, os_problem
from herohe_model.features.find import find_features
from herohe_model.features.read import read_features
from herohe_model.features.schema import FeatureFileError
from herohe_model.files import WriteError, replacing

_TILES: Final = "tiles"
"""What LazySlide calls the shapes that a table of patches belongs to."""


def export_anndata(run: ScoredRun, folder: Path, features: Path | None = None) -> Exported:
    """Write a ``.h5ad`` file a slide, a row a distinct patch that was sampled.

    ``X`` holds the patch's features, float32 (n, dimension), or without `features` its shares of the logits
    (n, steps). ``obs`` has x, y, size (level-0 px), saturation, a ``contribution_`` a step and, of a bag
    model, the attention; ``obsm["spatial"]`` the patches' centres, level-0 px, float64 (n, 2);
    ``uns["herohe_bridge"]`` what was said of the slide and what made it. ``uns["spatialdata_attrs"]`` names
    the columns by which SpatialData joins the rows to shapes.

    Parameters
    ----------
    features
        Folder of files of features that hold the patches of the run.

    Raises
    ------
    OptionError
        If the library anndata is not installed.
    ResultFileError, FeatureFileError, WriteError
        If the results, or the folder of features, cannot be read, or files cannot be written.
    """
    try:
        import anndata
    except ImportError as error:
        raise OptionError(
            f"AnnData needs a library that is not here ({error})", "pip install 'herohe-bridge[export]'"
        ) from error
    found = None if features is None else find_features(features)
    files, left_out = [], []
    for number, result in enumerate(run.slides(), start=1):
        region = result.union
        if region is None or not region.patches or result.provenance is None:
            continue
        try:
            shown = _columns(region, result.provenance.steps)
            x: NDArray[np.float32] = np.stack(
                [shown[name] for name in shown if "contribution_" in name], axis=1
            )
            names = [step_name(step) for step in result.provenance.steps]
            if found is not None:
                x = _features(found.get(case_id(result.slide)), result, shown)
                names = [f"feature_{k}" for k in range(x.shape[1])]
        except HeroheError as error:
            left_out.append((result.slide, str(error)))
            continue
        rows = [f"{x}_{y}" for x, y in zip(shown["x"].tolist(), shown["y"].tolist(), strict=True)]
        table = anndata.AnnData(
            X=x.astype(np.float32),
            obs=_frame({"tile_id": np.arange(len(rows)), "library_id": _category(len(rows)), **shown}, rows),
            var=_frame({}, names),
            obsm={"spatial": np.stack([shown[axis] + shown["size"] / 2 for axis in "xy"], axis=1)},
            uns={
                "herohe_bridge": {
                    **image_metadata(result),
                    "slide": result.slide,
                    "provenance": msgspec.json.encode(result.provenance, order="sorted").decode(),
                    "note": RESEARCH_USE_ONLY,
                },
                "spatialdata_attrs": {
                    "region": _TILES,
                    "region_key": "library_id",
                    "instance_key": "tile_id",
                },
            },
        )
        path = folder / f"{file_stem(number, result.slide)}.h5ad"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as part:
                table.write_h5ad(part)
        except OSError as error:
            raise WriteError(f"{path} cannot be written: {os_problem(error)}", ALLOW) from error
        files.append(path)
    return Exported(tuple(files), tuple(left_out))


def _columns(region: RegionResult, steps: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Return what is known of each distinct patch that was sampled, by column."""
    sampled = [tile for tile in tiles(region) if tile.contributions is not None]
    columns: dict[str, NDArray[Any]] = {
        axis: np.array([getattr(tile, axis) for tile in sampled], dtype=np.int64)
        for axis in ("x", "y", "size")
    }
    saturation = [np.nan if tile.saturation is None else tile.saturation for tile in sampled]
    columns["saturation"] = np.array(saturation, dtype=np.float64)
    shares = np.array([tile.contributions for tile in sampled], dtype=np.float64)
    for k, step in enumerate(steps):
        columns[f"contribution_{step_name(step)}"] = shares[:, k]
    attention = {(patch.x, patch.y): patch.attention for patch in region.patches}
    if all(weight is not None for weight in attention.values()):
        weights = [attention[tile.x, tile.y] for tile in sampled]
        columns["attention"] = np.array(weights, dtype=np.float64)
    return columns


def _features(path: Path | None, result: SlideResult, shown: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Return the features of the patches, in their order."""
    if path is None:
        raise FeatureFileError(f"There are no features of {result.slide}", "Extract them")
    assert result.provenance is not None
    held = read_features(path, slide_mpp=result.provenance.slide_mpp)
    corners = {} if held.coords is None else {tuple(c): k for k, c in enumerate(held.coords.tolist())}
    wanted = list(zip(shown["x"].tolist(), shown["y"].tolist(), strict=True))
    missing = sum(corner not in corners for corner in wanted)
    if missing:
        raise FeatureFileError(
            f"{path} lacks {missing} of the {len(wanted)} patches that were scored",
            "Name the features that the run was scored from, or extract them on the same grid",
        )
    return held.features[[corners[corner] for corner in wanted]]


def _frame(columns: dict[str, Any], index: list[str]) -> Any:
    import pandas

    return pandas.DataFrame(columns, index=pandas.Index(index, dtype=str))


def _category(count: int) -> Any:
    import pandas

    return pandas.Categorical([_TILES] * count)
