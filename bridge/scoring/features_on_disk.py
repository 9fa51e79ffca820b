"""Features of a slide that another tool made: which lie in a region, and what a bag model says of these.

No pixel is read; of the slide's file only what says its size, its scale and who it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from bridge.annotations.regions import Region
from bridge.results.schema import RegionResult
from bridge.scoring.bags import bag_region
from bridge.scoring.options import ScoreOptions
from herohe_model.bag.card import check_features
from herohe_model.errors import ModelFileError
from herohe_model.features.read import read_features
from herohe_model.features.schema import FeatureFileError
from herohe_model.files import sha256_of
from herohe_model.model.bag_model import BagModel
from herohe_model.model.card import ModelCard
from herohe_model.model.score import BagHead, CompositeScore, ScorerInfo
from herohe_model.sampling.coverage import valid_area
from herohe_model.sampling.patches import PatchSet
from herohe_model.slides.source import SlideSource, check_scale

NOT_LOOKED_AT: Final = (
    "Scored from features on the disk ({name}, {layout}): of the slide no pixel was read, so that neither "
    "stain nor focus nor artefacts were looked at; which patches are tissue, the tool said that made them."
)
_AGAIN: Final = "Extract its features again, or score without --features"
_ROUNDING_PX: Final = 1.5
"""By how much sides of patches may differ: tools round level-0 px down or up."""
_TOLERANCE: Final = 1e-9


class HeadScorer:
    """A bag model without its encoder, which scores features alone. A context manager.

    Implements :class:`~herohe_model.model.score.CompositeScorer`, save that nothing can be submitted.
    """

    def __init__(self, model: BagModel) -> None:
        self.head = model
        self.info = ScorerInfo(model.card, model.sha256, "cpu", "fp32", f"numpy {np.__version__}")

    def submit(self, pixels: NDArray[np.uint8]) -> Future[CompositeScore]:
        """Refuse pixels."""
        raise ModelFileError(
            f"{self.info.card.name} was begun without its encoder, for features on the disk",
            "Score the slides without --features",
        )

    def close(self) -> None:
        """Do nothing."""

    def __enter__(self) -> HeadScorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FeaturesOnDisk:
    """The features of one slide, placed on it.

    Parameters
    ----------
    path
        A file of TRIDENT, STAMP, CLAM or our own.
    source
        The slide that they are of.
    card, head
        Of the model that scores them.

    Raises
    ------
    FeatureFileError
        If the file cannot be read, holds no coordinates, or features of another encoder, grid or slide.
    SlideScaleError
        If the slide's µm/px are not known, or cannot be true.

    Attributes
    ----------
    sha256
        Of the file.
    warning
        What a result by it must say.
    """

    def __init__(self, path: Path, source: SlideSource, card: ModelCard, head: BagHead) -> None:
        check_scale(source, card.mpp)
        found = read_features(path, slide_mpp=source.mpp)
        check_features(card, found)
        if found.coords is None:
            raise FeatureFileError(
                f"{path} does not say where its patches lie", "Predict from it with: herohe-bridge predict"
            )
        expected = card.patch_px * card.mpp / source.mpp
        side = found.patch_size_level0 or round(expected)
        if abs(side - expected) > _ROUNDING_PX:
            raise FeatureFileError(
                f"{path} has patches of {side} level-0 px; at this slide's scale, {source.mpp:g} µm/px, the "
                f"model's have {expected:.0f}",
                "Check the slide's µm per pixel, or extract its features as the model's card says",
            )
        width, height = source.size
        if len(found.coords) and bool(
            (found.coords < 0).any() or (found.coords + side > (width + side, height + side)).any()
        ):
            raise FeatureFileError(
                f"{path} has patches outside of the slide, which has {width} x {height} px",
                "It is of another slide: check the names",
            )
        self.sha256 = sha256_of(path) or ""
        self._card, self._head = card, head
        self._features = found.features
        self._size = side
        self._corners = found.coords
        self._order = np.lexsort((found.coords[:, 0], found.coords[:, 1]))
        self.warning = NOT_LOOKED_AT.format(name=path.name, layout=found.layout)

    def patches(self, geometry: BaseGeometry | None, options: ScoreOptions) -> PatchSet:
        """Return the patches of a region as :func:`herohe_model.sampling.patches.find_patches` does.

        Parameters
        ----------
        geometry
            Level-0 px of the slide; None for all.

        Raises
        ------
        RegionError
            If the geometry cannot be made valid.
        """
        corners = self._corners[self._order]
        share = (
            np.ones(len(corners))
            if geometry is None
            else covered_share(valid_area(geometry), corners, self._size)
        )
        inside = share >= options.min_coverage - _TOLERANCE
        return PatchSet(
            x=corners[inside, 0],
            y=corners[inside, 1],
            size=self._size,
            saturation=np.full(int(inside.sum()), np.nan),
            coverage=share[inside],
            covered=int(inside.sum()),
            threshold=float("nan"),
        )

    def score(
        self, regions: Sequence[tuple[Region, PatchSet, bool]], options: ScoreOptions
    ) -> list[RegionResult]:
        """Score the bag of each region, given with its patches and whether these are enough."""
        row = {tuple(corner): k for k, corner in enumerate(self._corners.tolist())}
        results = []
        for region, patches, enough in regions:
            bag = None
            if enough:
                rows = [row[corner] for corner in zip(patches.x.tolist(), patches.y.tolist(), strict=True)]
                bag = self._head.score(np.ascontiguousarray(self._features[rows]))
            results.append(bag_region(region, patches, bag, self._card, options))
        return results


def covered_share(region: BaseGeometry, corners: NDArray[np.int64], size: int) -> NDArray[np.float64]:
    """Return how much of each square a region covers, 0 to 1, shape (n,).

    Parameters
    ----------
    region
        A valid polygon or multi-polygon.
    corners, size
        Upper left corners of the squares, (n, 2), and their side; in the region's px.
    """
    x, y = corners[:, 0], corners[:, 1]
    squares = shapely.box(x, y, x + size, y + size)
    shapely.prepare(region)
    share = np.asarray(shapely.contains(region, squares), dtype=np.float64)
    crossed = shapely.intersects(region, squares) & (share == 0)
    share[crossed] = shapely.area(shapely.intersection(region, squares[crossed])) / float(size) ** 2
    return share
