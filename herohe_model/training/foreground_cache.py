"""The foreground of many slides, found once and kept beside the run."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from herohe_model.errors import CancelledError, HeroheError, SlideError
from herohe_model.files import write_atomically
from herohe_model.read_ahead import read_ahead
from herohe_model.sampling.patches import PatchSet, find_patches
from herohe_model.sampling.stain import StainColours
from herohe_model.slides.guarded_slide import GuardedSlide
from herohe_model.training.data import TrainingSlide
from herohe_model.training.options import TrainOptions

_VERSION: Final = 3
"""Changes when :func:`~herohe_model.sampling.patches.find_patches` comes to other patches."""


@dataclass(frozen=True)
class Unusable:
    """A slide that cannot be trained on, and why."""

    name: str
    path: Path
    reason: str


def find_foreground(
    slides: Sequence[TrainingSlide],
    options: TrainOptions,
    folder: Path,
    *,
    workers: int,
    progress: Callable[[int], None],
    cancelled: Callable[[], bool],
) -> list[PatchSet | Unusable]:
    """Find the foreground patches of slides, or take them from `folder`, where they are kept.

    Parameters
    ----------
    folder
        Files are named for what decides their content: the slide's fingerprint and scale, the region, and
        the options of finding patches.
    workers
        Threads.
    progress
        Told how many slides are done.

    Returns
    -------
    list
        For each slide its patches, or why it cannot be used: it is unreadable, or has too few of them.

    Raises
    ------
    CancelledError
        When `cancelled` said so.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def find(slide: TrainingSlide) -> PatchSet | Unusable:
        try:
            patches = _find(slide, options, folder, cancelled)
        except CancelledError:
            raise
        except HeroheError as error:
            return Unusable(slide.name, slide.path, str(error))
        if len(patches) < options.min_patches:
            where = "the slide" if slide.geometry is None else "its region"
            reason = f"{len(patches)} foreground patches of {patches.covered} in {where}"
            return Unusable(slide.name, slide.path, f"{reason}; at least {options.min_patches} are needed.")
        return patches

    found = []
    for patches in read_ahead(slides, find, workers=workers, ahead=2 * workers):
        found.append(patches)
        progress(len(found))
    return found


def unusable_error(problems: Sequence[Unusable], of: int) -> SlideError:
    """Return the error that names every slide that cannot be used."""
    listed = "\n".join(f"  {p.name} ({p.path}): {p.reason}" for p in problems)
    return SlideError(
        f"{len(problems)} of {of} slides cannot be used:\n{listed}".removesuffix("."),
        "Mend or remove them, or leave them out with --skip-unusable",
    )


def _find(
    slide: TrainingSlide, options: TrainOptions, folder: Path, cancelled: Callable[[], bool]
) -> PatchSet:
    # One reader: many slides are looked at at once.
    with GuardedSlide(slide.path, mpp=slide.mpp, readers=1) as source:
        path = folder / f"{_key(source, slide, options)}.npz"
        kept = _load(path)
        if kept is not None:
            return kept
        patches = find_patches(
            source,
            slide.geometry,
            patch_px=options.patch_px,
            mpp=options.mpp,
            threshold=options.foreground_threshold,
            min_coverage=options.min_coverage,
            artefacts=options.artefacts,
            cancelled=cancelled,
        )
    _save(path, patches)
    return patches


def _key(source: GuardedSlide, slide: TrainingSlide, options: TrainOptions) -> str:
    region = "" if slide.geometry is None else hashlib.sha256(slide.geometry.wkb).hexdigest()
    decides = (
        _VERSION,
        source.fingerprint,
        source.mpp,
        region,
        options.patch_px,
        options.mpp,
        options.foreground_threshold,
        options.min_coverage,
        options.artefacts,
    )
    return hashlib.sha256(msgspec.json.encode(decides)).hexdigest()[:32]


def _save(path: Path, patches: PatchSet) -> None:
    data = io.BytesIO()
    np.savez(
        data,
        x=patches.x,
        y=patches.y,
        saturation=patches.saturation,
        coverage=patches.coverage,
        counts=np.array([patches.size, patches.covered]),
        stain=np.array([patches.stain.tissue, patches.stain.brown, *patches.stain.density]),
    )
    write_atomically(path, data.getvalue())


def _load(path: Path) -> PatchSet | None:
    """Return what is kept; None when nothing is, or it is damaged and must be found again."""
    try:
        # Of a path, numpy leaves a damaged file open.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as kept:
            size, covered = kept["counts"].tolist()
            tissue, brown, *density = kept["stain"].tolist()
            arrays = {key: kept[key] for key in ("x", "y", "saturation", "coverage")}
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
        return None
    stain = StainColours(tissue, brown, (density[0], density[1], density[2]))
    return PatchSet(**arrays, size=size, covered=covered, stain=stain)
