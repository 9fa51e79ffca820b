"""Features of every sampled patch, as arrays that tools for single-cell and spatial data can take up.

A patch is seen by the network among its neighbours in a composite, so there is a row for each cell of each
composite. A feature is the mean of a channel of the backbone's final map over the patch; the patch's
contribution to a logit is the head's linear function of its features, divided by the number of cells.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from bridge.export.geojson import Exported, file_stem
from bridge.results.run import ScoredRun
from bridge.results.schema import RESEARCH_USE_ONLY, PlacedPatch, RegionResult, SlideResult
from herohe_model.errors import OptionError, SlideError
from herohe_model.files import write_atomically
from herohe_model.model.checkpoint import load_model
from herohe_model.model.device import choose_device, device_label
from herohe_model.model.network import OrdinalNetwork, load_networks
from herohe_model.model.score import area_shares
from herohe_model.sampling.composite import assemble
from herohe_model.slides.slide_file import SlideFile

TOLERANCE: Final = 0.05
"""How far a logit may lie from the recorded one before a warning: bf16 differs from fp32 by less."""


def export_features(
    run: ScoredRun,
    folder: Path,
    model: Path,
    *,
    device: str = "auto",
    progress: Callable[[str], None] = lambda slide: None,
) -> Exported:
    """Write a ``.npz`` file a slide: features, contributions and places of its sampled patches.

    The arrays, n rows in the order of regions, composites and cells:

    ``X`` (n, members x channels), float32; ``contributions`` (n, bits), float32, as recorded; ``x``, ``y``,
    ``size`` (n,), int64, level-0 px; ``saturation`` (n,), float64, NaN where no pixel was read;
    ``composite``, ``cell`` (n,), int64; ``region`` (n,), text; ``steps`` (bits,), text; ``about``, JSON text.
    Nothing in it is pickled.

    Parameters
    ----------
    model
        The very model file that scored the run.
    device
        As for scoring; features are computed in float32.
    progress
        Called with the name of each slide before it is read.

    Returns
    -------
    Exported
        Slides that cannot be read are left out, and named; so are those whose logits come out differently.

    Raises
    ------
    OptionError
        If the model is another one.
    ModelFileError, DeviceError, ResultFileError, WriteError
        If it cannot be loaded, or files cannot be read or written.
    """
    card, state, sha256 = load_model(model)
    chosen = choose_device(device)
    networks = [network.to(chosen) for network in load_networks(card, state, str(model))]
    files, left_out = [], []
    for number, result in enumerate(run.slides(), start=1):
        made = result.provenance
        if made is None or result.union is None or not result.union.patches:
            continue
        if made.model_sha256 != sha256:
            raise OptionError(
                f"{result.slide} was scored by {made.model} ({made.model_sha256[:12]}), not by {model} "
                f"({sha256[:12]})",
                "Name the model file that scored the run",
            )
        progress(result.slide)
        regions = [result.union, *result.annotations]
        try:
            with run.open_slide(result) as slide:
                parts = [
                    _features(slide, networks, composite, card.patch_px, card.grid, chosen)
                    for region in regions
                    for composite in _composites(region)
                ]
        except SlideError as error:
            left_out.append((result.slide, str(error)))
            continue
        apart = _distance(regions, [logits for _, logits in parts])
        if apart > TOLERANCE:
            left_out.append((result.slide, f"its logits differ by {apart:.3f} from the recorded ones"))
            continue
        about = {
            "slide": result.slide,
            "entry": result.entry,
            "path": result.path,
            "backbone": card.backbone,
            "members": len(networks),
            "features_device": device_label(chosen),
            "largest_logit_difference": round(apart, 6),
            "provenance": msgspec.to_builtins(made),
            "note": RESEARCH_USE_ONLY,
        }
        path = folder / f"{file_stem(number, result.slide)}.npz"
        write_atomically(path, _archive(result, regions, np.concatenate([x for x, _ in parts]), about))
        files.append(path)
    return Exported(tuple(files), tuple(left_out))


def _composites(region: RegionResult) -> list[list[PlacedPatch]]:
    """Return the patches of each composite, in the order of its cells."""
    found: dict[int, list[PlacedPatch]] = {}
    for patch in region.patches:
        found.setdefault(patch.composite, []).append(patch)
    return [sorted(found[number], key=lambda patch: patch.cell) for number in sorted(found)]


def _features(
    slide: SlideFile,
    networks: Sequence[OrdinalNetwork],
    cells: Sequence[PlacedPatch],
    patch_px: int,
    grid: int,
    device: torch.device,
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the features (cells, members x channels) of one composite, and its logits (bits,)."""
    out = (patch_px, patch_px)
    pixels = assemble(np.stack([slide.read_box(p.x, p.y, p.size, p.size, out) for p in cells]))
    batch = torch.from_numpy(pixels)[None].to(device)
    means, logits = [], []
    with torch.inference_mode():
        for network in networks:
            features = network.features(batch).float()
            linear = network.head.linear(features).mean(dim=(2, 3))[0] + network.head.biases()
            logits.append(linear.cpu().numpy().astype(np.float64))
            final = features[0].cpu().numpy().astype(np.float64)
            rows, columns = area_shares(final.shape[1], grid), area_shares(final.shape[2], grid)
            sums = np.einsum("ih,chw,jw->ijc", rows, final, columns, optimize=True)
            area = rows.sum(axis=1)[:, None, None] * columns.sum(axis=1)[None, :, None]
            means.append((sums / area).reshape(grid * grid, -1))
    return np.concatenate(means, axis=1).astype(np.float32), np.mean(logits, axis=0)


def _distance(regions: Sequence[RegionResult], logits: Sequence[NDArray[np.float64]]) -> float:
    """Return how far the logits lie from the recorded ones at most."""
    recorded = [composite.logits for region in regions for composite in region.composites]
    return float(np.abs(np.array(recorded) - np.array(logits)).max())


def _archive(
    result: SlideResult, regions: Sequence[RegionResult], features: NDArray[np.float32], about: dict[str, Any]
) -> bytes:
    placed = [
        (region.region, patch) for region in regions for cells in _composites(region) for patch in cells
    ]
    steps = result.provenance.steps if result.provenance else ()

    def column(name: str) -> NDArray[np.int64]:
        return np.array([getattr(patch, name) for _, patch in placed], dtype=np.int64)

    file = io.BytesIO()
    np.savez(
        file,
        X=features,
        contributions=np.array([patch.contributions for _, patch in placed], dtype=np.float32),
        saturation=np.array(
            [np.nan if patch.saturation is None else patch.saturation for _, patch in placed],
            dtype=np.float64,
        ),
        region=np.array([region for region, _ in placed], dtype=np.str_),
        steps=np.array(steps, dtype=np.str_),
        about=np.array(msgspec.json.encode(about, order="sorted").decode()),
        composite=column("composite"),
        cell=column("cell"),
        x=column("x"),
        y=column("y"),
        size=column("size"),
    )
    return file.getvalue()
