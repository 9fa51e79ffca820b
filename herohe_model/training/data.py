"""What training sees: which composite comes when, and its pixels.

Everything is a function of the seed and of the position in training, so that a run can stop and go on
anywhere, and any number of processes can share it, without a state to carry along.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from math import gcd
from pathlib import Path
from threading import Lock
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from herohe_model.dataset.cases import Case, level_of, target_arrays
from herohe_model.errors import SlideUnreadableError
from herohe_model.grades import Target
from herohe_model.read_ahead import read_ahead
from herohe_model.sampling.composite import draw_composites
from herohe_model.sampling.patches import PatchSet
from herohe_model.slides.guarded_slide import GuardedSlide
from herohe_model.slides.slide_file import COPY_AGAIN
from herohe_model.training.augment import Augmentation, compress, draw_augmentation
from herohe_model.training.options import TrainOptions

_ORDER: Final = 1
_COMPOSITE: Final = 2
_AUGMENTATION: Final = 3
DROPOUT: Final = 4

_GOLDEN: Final = 0.618
_MOST_TRIES: Final = 25
"""Unreadable patches found in a row after which the slide as a whole is given up."""


@dataclass(frozen=True)
class TrainingSlide:
    """A slide and what is known of it.

    Attributes
    ----------
    case
        Its labels, and what names it in tables and messages.
    geometry
        Where to sample, level-0 px of the slide; None for the whole slide.
    mpp
        µm per level-0 px, overriding the file's; None for the file's own.
    fingerprint
        Of the slide's content; "" where it was not taken.
    """

    case: Case
    path: Path
    geometry: BaseGeometry | None = None
    mpp: float | None = None
    fingerprint: str = ""

    @property
    def name(self) -> str:
        """Split and ID, for messages."""
        return f"{self.case.split}/{self.case.id}"


@dataclass(frozen=True)
class Position:
    """Which composite stands at a position of training: number `number` of a slide in an epoch."""

    epoch: int
    slide: int
    number: int


class Curriculum:
    """The order of composites over all epochs, and what each counts in the loss.

    Parameters
    ----------
    slides
        The slides trained on, in an order that does not change from run to run.

    Attributes
    ----------
    slides
        How many there are.
    per_epoch
        Composites of an epoch.
    steps
        Optimiser steps of the whole training; the last may reach into an epoch beyond.
    """

    def __init__(self, slides: Sequence[TrainingSlide], options: TrainOptions) -> None:
        self._options = options
        self.slides = len(slides)
        target = Target(options.target)
        self._bits, known = target_arrays([slide.case for slide in slides], target)
        self._known = known.astype(np.float64)
        self._shares = _slide_shares([level_of(slide.case, target) for slide in slides], options)
        self.bit_weights = _bit_weights(self._bits, self._known, options)
        self.per_epoch = len(slides) * options.composites_per_slide
        self.steps = -(-options.epochs * self.per_epoch // options.batch)
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    def places(self, positions: Iterable[int]) -> list[Position]:
        """Return what stands at positions, counted from the start of training."""
        found = []
        for position in positions:
            epoch, index = divmod(position, self.per_epoch)
            slide, number = self._epoch(epoch)[index].tolist()
            found.append(Position(epoch, slide, number))
        return found

    def bits(self, places: Sequence[Position]) -> NDArray[np.float32]:
        """Return the bits to be learned at places, shape (len(places), bits), float32."""
        return self._bits[[place.slide for place in places]].astype(np.float32)

    def loss_weights(self, places: Sequence[Position], step: int) -> NDArray[np.float32]:
        """Weights of the bits of some composites of a step; over the whole step they sum to 1.

        Returns
        -------
        ndarray
            Shape (len(places), bits), float32; all 0 when nothing is known of a whole step.
        """
        batch = self._options.batch
        whole = sum(
            float(self._weights(place.slide).sum())
            for place in self.places(range(step * batch, (step + 1) * batch))
        )
        weights = np.array([self._weights(place.slide) for place in places])
        return (weights / whole if whole else weights * 0).astype(np.float32)

    def _weights(self, slide: int) -> NDArray[np.float64]:
        both = self.bit_weights[self._bits[slide], np.arange(self._bits.shape[1])]
        return np.asarray(both * self._known[slide], dtype=np.float64)

    def _draw_epoch(self, epoch: int) -> NDArray[np.int64]:
        """Return (slide, number) of each composite of an epoch, shape (per_epoch, 2)."""
        bits = np.random.PCG64(derived_seed(self._options.seed, _ORDER, epoch))
        # Systematic sampling: each slide comes as often as its share says, give or take one.
        offset = float(bits.random_raw(1)[0] >> 11) * 2.0**-53
        edges = np.concatenate([[0.0], np.cumsum(self._shares)]) * self.per_epoch
        counts = np.diff(np.floor(edges + offset)).astype(np.int64)
        if self._options.balance != "levels":
            counts = np.full(len(self._shares), self._options.composites_per_slide, dtype=np.int64)
        slides = np.repeat(np.arange(len(counts)), counts)
        numbers = np.concatenate([np.arange(count) for count in counts])
        order = np.argsort(bits.random_raw(len(slides)), kind="stable")
        return np.stack([slides, numbers], axis=1)[order]


def derived_seed(*parts: int) -> int:
    """Return a seed of 63 bits that follows from numbers, alike on every platform."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _slide_shares(levels: Sequence[str | None], options: TrainOptions) -> NDArray[np.float64]:
    """Return the share of each slide in an epoch; they sum to 1."""
    shares = np.ones(len(levels))
    if options.balance == "levels":
        known = [level for level in levels if level is not None]
        each = len(known) / max(1, len(set(known)))
        # A slide whose level is not known belongs to none: it has the share of one slide.
        shares = np.array([1.0 if level is None else each / levels.count(level) for level in levels])
    return np.asarray(shares / shares.sum(), dtype=np.float64)


def _bit_weights(
    bits: NDArray[np.int64], known: NDArray[np.float64], options: TrainOptions
) -> NDArray[np.float64]:
    """Return the weight of each bit's answers 0 and 1, shape (2, bits)."""
    if options.balance != "bits":
        return np.ones((2, bits.shape[1]))
    counts = np.stack([((bits == answer) * known).sum(axis=0) for answer in (0, 1)])
    # A bit with one answer only has nothing to balance.
    weights = np.where(counts.min(axis=0) > 0, counts.sum(axis=0) / (2 * np.maximum(counts, 1)), 1.0)
    return np.asarray(weights, dtype=np.float64)


@dataclass(frozen=True)
class TrainingComposite:
    """A composite as it was read.

    Attributes
    ----------
    pixels
        Shape (side, side, 3), uint8, as the slide shows them. In pinned memory where asked.
    augmentation
        What is still to be done to them; None for nothing.
    """

    pixels: torch.Tensor
    augmentation: Augmentation | None


class OpenSlides:
    """Slides that are open, the least recently used closed first. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit = max(1, limit)
        self._lock = Lock()
        self._slides: OrderedDict[tuple[Path, float | None], GuardedSlide] = OrderedDict()

    def get(self, path: Path, mpp: float | None) -> GuardedSlide:
        """Return an open slide; it stays open as long as the caller holds it."""
        key = (path, mpp)
        with self._lock:
            if key in self._slides:
                self._slides.move_to_end(key)
                return self._slides[key]
        opened = GuardedSlide(path, mpp=mpp)
        with self._lock:
            slide = self._slides.setdefault(key, opened)
            # Forgotten, not closed: another thread may be reading from it.
            while len(self._slides) > self._limit:
                self._slides.popitem(last=False)
            return slide


class CompositeReader:
    """Reads composites of slides whose foreground is known. Thread-safe.

    A patch that cannot be read is replaced by another one of its slide, always by the same: a few damaged
    tiles among millions shall not end a training of days, and it must go on as it would have.

    Parameters
    ----------
    slides, foreground
        Equally long.
    open_slides
        How many slides stay open.
    pinned
        Put pixels into memory that a GPU copies from at full speed.
    """

    def __init__(
        self,
        slides: Sequence[TrainingSlide],
        foreground: Sequence[PatchSet],
        options: TrainOptions,
        *,
        open_slides: int = 64,
        pinned: bool = False,
    ) -> None:
        self._slides = slides
        self._foreground = foreground
        self._options = options
        self._open = OpenSlides(open_slides)
        self._pinned = pinned
        self._kept: dict[int, NDArray[np.uint8]] = {}
        self._lock = Lock()
        self._damaged: set[tuple[int, int]] = set()
        self._news: list[str] = []

    def preload(self, slides: Iterable[int], *, workers: int, progress: Callable[[int], None]) -> None:
        """Read every foreground patch of slides into memory; later reads come from there."""
        wanted = list(slides)
        everything = read_ahead(wanted, self._all_patches, workers=workers, ahead=2 * workers)
        for done, (slide, patches) in enumerate(zip(wanted, everything, strict=True), start=1):
            self._kept[slide] = patches
            progress(done)

    def preload_bytes(self) -> int:
        """Memory that :meth:`preload` of all slides takes."""
        return sum(map(len, self._foreground)) * self._options.patch_px**2 * 3

    def read(self, place: Position) -> TrainingComposite:
        """Read a composite of training: drawn afresh for its place, with the augmentation for it."""
        options = self._options
        seed = derived_seed(options.seed, _COMPOSITE, place.epoch, place.slide)
        drawn = draw_composites(
            len(self._foreground[place.slide]), composites=place.number + 1, seed=seed, cells=options.cells
        )[place.number]
        parts = (options.seed, _AUGMENTATION, place.epoch, place.slide, place.number)
        augmentation = draw_augmentation(
            np.random.default_rng(derived_seed(*parts)), options.cells, options.augment
        )
        pixels = self._pixels(place.slide, drawn)
        if augmentation.jpeg_quality is not None:
            pixels.copy_(torch.from_numpy(compress(pixels.numpy(), augmentation.jpeg_quality).copy()))
        return TrainingComposite(pixels, augmentation)

    def read_held_out(self, slide: int, cells: NDArray[np.int64]) -> TrainingComposite:
        """Read a composite as it is scored: its patches as they lie in the slide."""
        return TrainingComposite(self._pixels(slide, cells), None)

    def damage(self) -> list[str]:
        """Say which patches were found unreadable, and replaced, since the last call."""
        with self._lock:
            news, self._news = self._news, []
        return news

    def _pixels(self, slide: int, cells: NDArray[np.int64]) -> torch.Tensor:
        px, grid = self._options.patch_px, self._options.grid
        composite = torch.empty((grid * px, grid * px, 3), dtype=torch.uint8, pin_memory=self._pinned)
        canvas = composite.numpy()
        indices, where = np.unique(cells, return_inverse=True)
        # Row-major order of the slide: neighbours share the file's tiles.
        for k, index in enumerate(indices.tolist()):
            patch = self._patch(slide, index)
            for cell in np.flatnonzero(where == k).tolist():
                y, x = (cell // grid) * px, (cell % grid) * px
                canvas[y : y + px, x : x + px] = patch
        return composite

    def _patch(self, slide: int, index: int) -> NDArray[np.uint8]:
        if slide in self._kept:
            kept: NDArray[np.uint8] = self._kept[slide][index]
            return kept
        patches = len(self._foreground[slide])
        # Far apart, since what is damaged is often a whole area; without a common divisor, to come by all.
        stride = next(k for k in count(max(1, int(_GOLDEN * patches))) if gcd(k, patches) == 1)
        tries = 0
        for k in range(patches):
            other = (index + k * stride) % patches
            if (slide, other) in self._damaged:
                continue
            try:
                return self._read_patch(slide, other)
            except SlideUnreadableError as error:
                tries += 1
                if tries == _MOST_TRIES:
                    raise
                self._note(slide, other, error)
        raise SlideUnreadableError(f"No patch of {self._slides[slide].path} can be read", COPY_AGAIN)

    def _read_patch(self, slide: int, index: int) -> NDArray[np.uint8]:
        patches, px = self._foreground[slide], self._options.patch_px
        source = self._open.get(self._slides[slide].path, self._slides[slide].mpp)
        x, y = int(patches.x[index]), int(patches.y[index])
        return source.read_box(x, y, patches.size, patches.size, (px, px))

    def _note(self, slide: int, index: int, error: SlideUnreadableError) -> None:
        with self._lock:
            if (slide, index) not in self._damaged:
                self._damaged.add((slide, index))
                self._news.append(f"{self._slides[slide].name}: another patch stands in. {error}")

    def _all_patches(self, slide: int) -> NDArray[np.uint8]:
        return np.stack([self._patch(slide, index) for index in range(len(self._foreground[slide]))])
