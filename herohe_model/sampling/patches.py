"""Patches: the grid over a slide, which of it a region covers, and which of that is foreground.

A patch has `patch_px` px at the model's scale. The grid starts at the upper left corner of the slide's bounds
and lies edge to edge; patch i starts at the rounded i-th multiple of the exact, rarely whole, step, so that
rounding does not add up. A patch is sampled from when it lies within the bounds and the region covers enough
of it.

When the slide's own grid gives fewer than 25 covered patches, each disjoint part of the region gets a grid
of its own, centred on the part's bounding box, with the rows and columns that give most patches; whichever
variant gives more patches is taken. There, a patch's covered share is measured against the most that the part
could cover of one: a part smaller than a patch need not fill half of it, since this is where the pathologist
drew. Parts of less than 1/16 of a patch are taken for slips of the pen, and of patches around neighbouring
parts that overlap, the first from above is kept.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from herohe_model.errors import CancelledError, RegionError
from herohe_model.sampling.artefacts import UNSCANNED, ArtefactRule, Evidence, count_reasons
from herohe_model.sampling.coverage import clipped_area, grid_coverage, polygons, valid_area
from herohe_model.sampling.saturation import Piece, foreground_downsample, mean_saturation, otsu
from herohe_model.sampling.stain import StainColours, stain_colours
from herohe_model.slides.source import Box, SlideSource, check_scale, level_read

ENOUGH: Final = 25
"""Covered patches from which the slide's own grid is kept: one composite's."""

SMALLEST_PART: Final = 1 / 16
"""Share of a patch's area below which a part of a region gets no patch of its own."""

MOST_PATCHES: Final = 1 << 21
"""Patches of a region's bounding box, foreground or not; a slide of 300,000 px has 343,000 of 512 px."""

_TOLERANCE: Final = 1e-9

_Check = Callable[[], None]


@dataclass(frozen=True)
class PatchSet:
    """The foreground patches of one region, in row-major order (by y, then x).

    Attributes
    ----------
    x, y
        Upper left corners, level-0 px of the slide, shape (n,), int64.
    size
        Side of every patch, level-0 px.
    saturation
        Mean saturation, shape (n,), float64, 0 to 1.
    coverage
        Share of the patch inside the region (inside the part it is centred on, where the grid was
        re-anchored), shape (n,), float64, 0 to 1.
    covered
        How many patches the region covers, foreground or not.
    stain
        The colours of what was read to judge them.
    artefacts
        How many patches have enough saturation and cannot be judged, by reason
        (:data:`herohe_model.sampling.artefacts.REASONS`); those left out are not among the patches.
    reasons
        Code of each patch's reason, shape (n,), uint8; 0 for none. Only where artefacts are marked.
    threshold
        Mean saturation from which patches were foreground.
    """

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    size: int
    saturation: NDArray[np.float64]
    coverage: NDArray[np.float64]
    covered: int
    stain: StainColours = field(default_factory=StainColours)
    artefacts: Mapping[str, int] = field(default_factory=dict)
    reasons: NDArray[np.uint8] | None = None
    threshold: float = 0.0

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class PatchGrid:
    """The patches' scale on one slide.

    Attributes
    ----------
    bounds
        Where patches may lie.
    step
        Distance from patch to patch, level-0 px.
    size
        Side of a patch, the rounded step, level-0 px.
    """

    bounds: Box
    step: float
    size: int

    @classmethod
    def over(cls, source: SlideSource, *, patch_px: int, mpp: float) -> PatchGrid:
        """Return the grid of patches of `patch_px` px at `mpp` µm/px over a slide.

        Raises
        ------
        SlideScaleError
            If the slide's µm/px are not known, or cannot be true.
        """
        check_scale(source, mpp)
        step = patch_px * mpp / source.mpp
        return cls(source.bounds, step, max(1, math.floor(step + 0.5)))

    def columns(self, left: float, right: float) -> NDArray[np.int64]:
        """Left edges, level-0 px, of the slide's own columns that overlap (left, right)."""
        return self._edges(self.bounds.x, self.bounds.width, left, right)

    def rows(self, top: float, bottom: float) -> NDArray[np.int64]:
        """Upper edges, level-0 px, of the slide's own rows that overlap (top, bottom)."""
        return self._edges(self.bounds.y, self.bounds.height, top, bottom)

    def _edges(self, start: int, length: int, low: float, high: float) -> NDArray[np.int64]:
        # Of the whole grid only what may overlap, with a patch to spare: a slide can claim any size.
        first = max(0, math.floor((max(low, start) - self.size - start) / self.step) - 1)
        last = math.ceil((min(high, start + length) - start) / self.step) + 1
        if last - first > MOST_PATCHES:
            raise _too_many(last - first)
        edges: NDArray[np.int64] = start + np.floor(np.arange(first, last) * self.step + 0.5).astype(np.int64)
        inside = edges + self.size <= start + length
        edges = edges[inside & (edges + self.size > low) & (edges < high)]
        return edges

    def centred(self, count: int, low: float, high: float, start: int, length: int) -> NDArray[np.int64]:
        """Edges of `count` patches around the middle of (low, high), moved to lie in the bounds if they fit.

        `start` and `length` are the bounds along the same axis.
        """
        span = (count - 1) * self.step + self.size
        first = (low + high - span) / 2
        if span <= length:
            first = min(max(first, start), start + length - span)
        edges: NDArray[np.int64] = np.floor(first + np.arange(count) * self.step + 0.5).astype(np.int64)
        edges = edges[(edges >= start) & (edges + self.size <= start + length)]
        return edges


def find_patches(
    source: SlideSource,
    geometry: BaseGeometry | None,
    *,
    patch_px: int,
    mpp: float,
    threshold: float | Literal["otsu"],
    min_coverage: float = 0.5,
    exact: bool = False,
    artefacts: ArtefactRule = "leave-out",
    cancelled: Callable[[], bool] | None = None,
    progress: Callable[[float], None] | None = None,
) -> PatchSet:
    """Find the foreground patches inside a region.

    Parameters
    ----------
    source
        The slide.
    geometry
        Where patches may lie, level-0 px of the slide; polygons of any kind, valid or not. None for the whole
        slide.
    patch_px, mpp
        Side of a patch in px at the model's scale, and that scale in µm/px.
    threshold
        Mean saturation from which a patch is foreground, 0 to 1; ``otsu`` for what parts the patches of the
        whole slide best into two classes (Otsu 1979, *A Threshold Selection Method from Gray-Level
        Histograms*): within a tumour it would part tumour from stroma.
    min_coverage
        Share of a patch's area that the region must cover, above 0 and up to 1.
    exact
        Judge the saturation on level 0 instead of the pyramid, for checking.
    artefacts
        Whether patches that cannot be judged are left out, marked, or taken for tissue without a look.
    cancelled
        Asked before each piece of work; a true answer stops.
    progress
        Told the share of the patches that were looked at, 0 to 1.

    Raises
    ------
    CancelledError
        When `cancelled` said so.
    RegionError
        If the geometry cannot be made valid, or is of more than :data:`MOST_PATCHES` patches.
    SlideScaleError
        If the slide's µm/px are not known, or cannot be true.
    SlideUnreadableError
        If pixels that a covered patch needs are damaged.
    """

    def check() -> None:
        if cancelled is not None and cancelled():
            raise CancelledError(f"Looking for tissue in {source.path.name} was cancelled")

    grid = PatchGrid.over(source, patch_px=patch_px, mpp=mpp)
    x, y, coverage = _covered_patches(grid, geometry, min_coverage, check)

    def done(count: int) -> None:
        check()
        if progress is not None:
            progress(count / len(x))

    downsample = 1.0 if exact else foreground_downsample(source.level_downsamples, grid.size)
    colours: list[StainColours] = []
    evidence = Evidence(len(x))

    def see(piece: Piece) -> None:
        colours.append(stain_colours(piece.pixels))
        if artefacts != "ignore" and (threshold == "otsu" or piece.saturation.max() >= threshold):
            evidence.add(piece)

    saturation = mean_saturation(
        source,
        x,
        y,
        grid.size,
        downsample=downsample,
        progress=done,
        seen=see,
    )
    if threshold == "otsu":
        everywhere = _covered_patches(grid, None, min_coverage, check)
        threshold = otsu(
            saturation
            if geometry is None
            else mean_saturation(
                source, *everywhere[:2], grid.size, downsample=downsample, progress=lambda _: check()
            )
        )
    stain = sum(colours, StainColours())
    tissue = saturation >= threshold
    reasons = evidence.reasons(tissue) if artefacts != "ignore" else np.zeros(len(x), dtype=np.uint8)
    kept = tissue & (reasons == 0) if artefacts == "leave-out" else tissue
    lacking = np.flatnonzero(kept)[source.lacks_pixels(x[kept], y[kept], grid.size, patch_px)]
    if len(lacking):
        # What is not there to be read is no tissue, whatever a coarser level shows.
        read_from = source.level_downsamples[level_read(source.level_downsamples, grid.size / patch_px)]
        saturation[lacking] = mean_saturation(
            source, x[lacking], y[lacking], grid.size, downsample=read_from, progress=lambda _: check()
        )
        gone = lacking[saturation[lacking] < threshold]
        kept[gone] = False
        reasons[gone] = UNSCANNED
    if progress is not None:
        progress(1.0)
    return PatchSet(
        x=x[kept],
        y=y[kept],
        size=grid.size,
        saturation=saturation[kept],
        coverage=coverage[kept],
        covered=len(x),
        stain=stain,
        artefacts=count_reasons(reasons),
        reasons=reasons[kept] if artefacts == "mark" else None,
        threshold=float(threshold),
    )


_Found = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]


def _covered_patches(
    grid: PatchGrid, geometry: BaseGeometry | None, min_coverage: float, check: _Check
) -> _Found:
    """Return x, y and coverage of the patches that a region covers, in row-major order."""
    box = grid.bounds
    everything = shapely.box(box.x, box.y, box.x + box.width, box.y + box.height)
    if geometry is None:
        x, y = _squares(grid, (box.x, box.y, box.x + box.width, box.y + box.height))
        return np.tile(x, len(y)), np.repeat(y, len(x)), np.ones(len(x) * len(y))
    region = clipped_area(valid_area(geometry), everything)
    if region.is_empty:
        none = np.empty(0, dtype=np.int64)
        return none, none, np.empty(0)
    x, y = _squares(grid, region.bounds)
    share = grid_coverage(region, x, y, grid.size, check)
    found = _pick(x, y, share, share >= min_coverage - _TOLERANCE)
    if len(found[0]) < ENOUGH:
        own = _own_grids(grid, region, min_coverage, check)
        if len(own[0]) > len(found[0]):
            return own
    return found


def _squares(
    grid: PatchGrid, box: tuple[float, float, float, float]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the grid's columns and rows that overlap a box (left, top, right, bottom)."""
    left, top, right, bottom = box
    x, y = grid.columns(left, right), grid.rows(top, bottom)
    if len(x) * len(y) > MOST_PATCHES:
        raise _too_many(len(x) * len(y))
    return x, y


def _too_many(patches: int) -> RegionError:
    return RegionError(
        f"The region spans {patches:,} patches, and {MOST_PATCHES:,} can be looked at",
        "Check the slide's size and its µm/px, or draw a smaller region",
    )


def _pick(
    x: NDArray[np.int64], y: NDArray[np.int64], share: NDArray[np.float64], which: NDArray[np.bool_]
) -> _Found:
    """Return x, y and coverage of some squares of a grid; `share` and `which` are (rows, columns)."""
    row, column = np.nonzero(which)
    return x[column], y[row], share[which]


def _own_grids(grid: PatchGrid, region: BaseGeometry, min_coverage: float, check: _Check) -> _Found:
    """Give each disjoint part of a region a grid of its own; see the module's docstring."""
    parts = [p for p in polygons(region) if p.area >= SMALLEST_PART * grid.size**2]
    parts.sort(key=lambda p: (p.bounds[1], p.bounds[0], p.bounds[3], p.bounds[2]))
    x, y = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    coverage = np.empty(0)
    for part in parts:
        check()
        px, py, share = _own_grid(grid, part, min_coverage, check)
        taken = (np.abs(px[:, None] - x) < grid.size) & (np.abs(py[:, None] - y) < grid.size)
        free = ~taken.any(axis=1)
        x, y = np.concatenate([x, px[free]]), np.concatenate([y, py[free]])
        coverage = np.concatenate([coverage, share[free]])
    order = np.lexsort((x, y))
    return x[order], y[order], coverage[order]


def _own_grid(grid: PatchGrid, part: BaseGeometry, min_coverage: float, check: _Check) -> _Found:
    """Centre a grid on one part, trying the numbers of rows and columns next to what would fill its box."""
    left, top, right, bottom = part.bounds
    area = float(grid.size) ** 2
    fillable = min(area, part.area, min(grid.size, right - left) * min(grid.size, bottom - top)) / area
    tries = []
    for columns, rows in itertools.product(
        _counts((right - left) / grid.step), _counts((bottom - top) / grid.step)
    ):
        if columns * rows > MOST_PATCHES:
            raise _too_many(columns * rows)
        x = grid.centred(columns, left, right, grid.bounds.x, grid.bounds.width)
        y = grid.centred(rows, top, bottom, grid.bounds.y, grid.bounds.height)
        share = grid_coverage(part, x, y, grid.size, check)
        tries.append(_pick(x, y, share, share >= min_coverage * fillable - _TOLERANCE))
    # Rounded, so that the last digits of an area do not choose between grids that are equally good.
    return max(tries, key=lambda found: (len(found[0]), round(float(found[2].sum()), 6)))


def _counts(patches: float) -> tuple[int, ...]:
    """Return the whole numbers of patches around a length in patches, at least one."""
    return tuple(sorted({max(1, math.floor(patches)), max(1, math.ceil(patches))}))
