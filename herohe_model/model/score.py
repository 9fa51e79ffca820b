"""Each patch's share of a logit, exactly.

A logit is the mean over the final map of a linear function of the features, plus a bias (Zhou et al. 2016,
*Learning Deep Features for Discriminative Localization*). The mean is a sum over the map's cells, so it can
be parted among the patches: a cell that straddles patches is parted by area, the bias equally. The map's
cells are taken to tile the composite evenly, as they do for networks that pad.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from herohe_model.errors import OptionError
from herohe_model.model.card import ModelCard


@dataclass(frozen=True)
class CompositeScore:
    """What the network says of one composite.

    Attributes
    ----------
    logits
        Shape (bits,), float32, highest step first.
    contributions
        Shape (cells, bits), float32: each patch's share of each logit, patches row-major. They add up to the
        logits within 1e-4.
    members
        Shape (members, bits), float32: the logits of each network of an ensemble, whose mean `logits` are;
        None of a single network.
    """

    logits: NDArray[np.float32]
    contributions: NDArray[np.float32]
    members: NDArray[np.float32] | None = None

    @property
    def each_member(self) -> NDArray[np.float32]:
        """Logits of every network, of a single one too: shape (members, bits)."""
        return self.logits[None] if self.members is None else self.members


@dataclass(frozen=True)
class BagScore:
    """What a bag model says of one bag.

    Attributes
    ----------
    logits
        Shape (members, bits), float32, highest step first; the model's are their mean.
    contributions
        Shape (n, bits), float32: each patch's share of the model's logits. They add up to them within 1e-4.
    attention
        Shape (n,), float32, sums to 1; the mean of the members'.
    distance
        How far the bag's mean lies from the training slides', see :func:`mean_distance`; the members' mean.
    """

    logits: NDArray[np.float32]
    contributions: NDArray[np.float32]
    attention: NDArray[np.float32]
    distance: float = float("nan")


def mean_distance(
    features: NDArray[np.floating], centre: NDArray[np.floating], scale: NDArray[np.floating]
) -> float:
    """Return how far the mean of a bag lies from a centre, in patches' standard deviations: root mean square.

    Parameters
    ----------
    features
        Shape (n, dimension), n at least 1.
    centre, scale
        Shape (dimension,).
    """
    away = (features.mean(axis=0, dtype=np.float64) - centre) / scale
    return float(np.sqrt(np.square(away).mean()))


def features_as_score(features: NDArray[np.float32]) -> CompositeScore:
    """Return features of a column of patches, (n, dimension) float32, as they travel: as contributions."""
    return CompositeScore(np.zeros(features.shape[1], dtype=np.float32), features)


def features_of(score: CompositeScore) -> NDArray[np.float32]:
    """Return the features, (n, dimension) float32, that :func:`features_as_score` was given."""
    return score.contributions


def area_shares(cells: int, grid: int) -> NDArray[np.float64]:
    """Which part of each of `cells` equal intervals lies in each of `grid` equal intervals.

    Returns
    -------
    ndarray
        Shape (grid, cells), float64, 0 to 1; columns sum to 1.
    """
    # Edges in units of 1/(cells * grid) of the side: whole numbers, so that nothing is lost by rounding.
    patch = np.arange(grid)[:, None] * cells
    cell = np.arange(cells)[None, :] * grid
    overlap = np.minimum(patch + cells, cell + grid) - np.maximum(patch, cell)
    return np.asarray(np.clip(overlap, 0, None) / grid, dtype=np.float64)


def share_out(linear: NDArray[np.float32], biases: NDArray[np.float32], grid: int) -> CompositeScore:
    """Logits of one composite, and each patch's share of them.

    Parameters
    ----------
    linear
        Shape (bits, h, w): the head's linear function at each cell of the final map, without bias.
    biases
        Shape (bits,).
    grid
        The composite has grid x grid patches.
    """
    bits, height, width = linear.shape
    rows = np.einsum("ih,bhw->biw", area_shares(height, grid), linear.astype(np.float64))
    shares = np.einsum("biw,jw->ijb", rows, area_shares(width, grid)) / (height * width)
    shares = shares.reshape(grid * grid, bits) + biases.astype(np.float64) / (grid * grid)
    return CompositeScore(shares.sum(axis=0).astype(np.float32), shares.astype(np.float32))


def mean_score(scores: Sequence[CompositeScore]) -> CompositeScore:
    """Average the logits of an ensemble's members; contributions stay additive, as the mean is linear."""
    if len(scores) == 1:
        return scores[0]
    return CompositeScore(
        np.asarray(np.mean([s.logits for s in scores], axis=0, dtype=np.float64), dtype=np.float32),
        np.asarray(np.mean([s.contributions for s in scores], axis=0, dtype=np.float64), dtype=np.float32),
        np.stack([s.logits for s in scores]),
    )


SYMMETRIES: Final = 8
"""Of the square: four quarters, each mirrored or not."""


def turned(pixels: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """Turn a composite (side, side, 3) by one of the eight symmetries of the square.

    Parameters
    ----------
    turn
        0 to 7: by ``turn % 4`` quarters to the left, then mirrored left to right from 4 on.
    """
    quarters = np.rot90(pixels, turn % 4)
    return np.ascontiguousarray(quarters[:, ::-1] if turn >= 4 else quarters)


def turned_back(score: CompositeScore, turn: int) -> CompositeScore:
    """Return the score of a composite that was turned, with each patch's share at the patch's own cell."""
    cells, bits = score.contributions.shape
    side = math.isqrt(cells)
    shares = score.contributions.reshape(side, side, bits)
    shares = np.rot90(shares[:, ::-1] if turn >= 4 else shares, -(turn % 4))
    return CompositeScore(score.logits, np.ascontiguousarray(shares).reshape(cells, bits), score.members)


def mean_over_symmetries(scores: Sequence[CompositeScore]) -> CompositeScore:
    """Average the scores of one composite in several positions; members stay members."""
    mean = mean_score([CompositeScore(s.logits, s.contributions) for s in scores])
    members = [s.members for s in scores if s.members is not None]
    if not members:
        return CompositeScore(mean.logits, mean.contributions)
    each = np.asarray(np.mean(members, axis=0, dtype=np.float64), dtype=np.float32)
    return CompositeScore(mean.logits, mean.contributions, each)


@dataclass(frozen=True)
class Embeds:
    """What embeds a bag model's patches.

    Attributes
    ----------
    side_px
        Side of a patch as the encoder sees it, px.
    batch
        Patches of a forward pass, and of a column.
    weights_sha256
        Of the encoder's weights, hexadecimal.
    """

    side_px: int
    batch: int
    weights_sha256: str


class BagHead(Protocol):
    """The part of a bag model that pools: :class:`herohe_model.model.bag_model.BagModel`."""

    def score(self, features: NDArray[np.float32]) -> BagScore:
        """Score one bag, (n, dimension) float32, n at least 1."""
        ...


@dataclass(frozen=True)
class ScoringModel:
    """A model that scores, as it is known without being loaded: its card, and the SHA-256 of its file."""

    card: ModelCard
    sha256: str


@dataclass(frozen=True)
class ScorerInfo:
    """What scores: a model, and what computes it, as they stand in results.

    Attributes
    ----------
    card
        The model's card.
    model_sha256
        SHA-256 of the model file, hexadecimal; "" for a model that was never a file.
    device
        Such as ``cpu`` or ``cuda:0 NVIDIA H200``.
    precision
        ``fp32`` or ``bf16``.
    engine
        What computes, and its version, such as ``torch 2.15.0`` or ``openvino 2026.4.1``.
    embeds
        Of a bag model, what embeds its patches; None of one that sees composites.
    """

    card: ModelCard
    model_sha256: str
    device: str
    precision: str
    engine: str
    embeds: Embeds | None = None

    @property
    def largest_rows(self) -> int:
        """Height of a composite, or of the largest column of patches, px."""
        return self.card.side_px if self.embeds is None else self.embeds.side_px * self.embeds.batch

    def check_shape(self, shape: tuple[int, ...], dtype: str = "uint8") -> None:
        """Raise an OptionError for what is no composite of the model, or no column of patches."""
        side = self.card.side_px if self.embeds is None else self.embeds.side_px
        rows, most = shape[0] if shape else 0, self.largest_rows
        if dtype != "uint8" or shape[1:] != (side, 3) or rows % side or not side <= rows <= most:
            what = "A composite" if self.embeds is None else f"A column of up to {self.embeds.batch} patches"
            fits = f"is uint8 of shape ({most}, {side}, 3), not {dtype} of shape {shape}"
            raise OptionError(f"{what} for {self.card.name} {fits}")

    @property
    def model(self) -> ScoringModel:
        """The model."""
        return ScoringModel(self.card, self.model_sha256)

    @property
    def computes_on(self) -> str:
        """Device, precision and engine in words."""
        return f"{self.device} ({', '.join(filter(None, (self.precision, self.engine)))})"


class CompositeScorer(Protocol):
    """Anything that scores composites: :class:`Scorer` in this process, or a client of a server.

    Of a bag model it embeds patches instead: it takes a column of them, (n * side, side, 3) with n up to
    ``info.embeds.batch``, and what it gives are their features, see :func:`features_of`. What they mean
    together is for its :attr:`head` to say.
    """

    @property
    def info(self) -> ScorerInfo:
        """What scores."""
        ...

    @property
    def head(self) -> BagHead | None:
        """What pools a bag model's patches; None of a model that sees composites."""
        ...

    def submit(self, pixels: NDArray[np.uint8]) -> Future[CompositeScore]:
        """Score one composite, uint8 (side, side, 3); the array must not change until the future is done."""
        ...

    def close(self) -> None:
        """Cancel what has not begun and let go of the device; may be called twice."""
        ...
