"""The composites of a slide's regions: drawn, read ahead of the scorer, and put together again."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import closing
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bridge.annotations.regions import Region
from bridge.results.schema import RegionResult
from bridge.scoring.foreground import BLURRED_REFUSED
from bridge.scoring.options import ScoreOptions
from bridge.scoring.progress import Progress, ProgressCallback
from bridge.scoring.region import region_result
from herohe_model.model.card import ModelCard
from herohe_model.model.score import (
    SYMMETRIES,
    CompositeScore,
    CompositeScorer,
    mean_over_symmetries,
    turned,
    turned_back,
)
from herohe_model.sampling.composite import draw_composites
from herohe_model.sampling.composite_reader import read_composites
from herohe_model.sampling.focus import composite_out_of_focus
from herohe_model.sampling.patches import PatchSet
from herohe_model.slides.source import SlideSource

READ_AHEAD: Final = 2
"""Composites of a slide that are in the scorer's hands while the next are being read."""

_REDRAWS: Final = 3
"""Times that composites are drawn anew where too many of their patches are out of focus."""
_FEW_BLURRED: Final = 0.1
"""Share of the cells out of focus up to which composites stay as they are."""

_POLL_S: Final = 0.2
"""How long a wait for the scorer may be deaf to cancelling."""


def score_composites(
    source: SlideSource,
    regions: Sequence[tuple[Region, PatchSet, bool]],
    options: ScoreOptions,
    scorer: CompositeScorer,
    check: Callable[[], None],
    notice: ProgressCallback,
) -> list[RegionResult]:
    """Draw the composites of each region, and have them scored.

    Parameters
    ----------
    regions
        Each with its foreground patches, and whether these are enough to be scored.

    check
        Called several times a second, and before each composite; may raise to stop.
    """
    card = scorer.info.card
    work = [_Sampled(region, patches, enough, card, options) for region, patches, enough in regions]
    begun = finished = 0

    def done(count: int) -> None:
        notice(Progress("composites", finished + count, begun))

    for again in range(1 + _REDRAWS):
        waiting = [one for one in work if (one.redraw() if again else len(one.drawn))]
        begun += sum(len(one.drawn) for one in waiting)
        done(0)
        look = partial(_look, iter([one for one in waiting for _ in one.drawn]))
        with closing(
            _score_all(
                source,
                [(one.patches, one.drawn) for one in waiting],
                scorer,
                SYMMETRIES if options.symmetries else 1,
                check,
                done,
                None if options.artefact_rule == "ignore" else look,
            )
        ) as scores:
            for one in waiting:
                one.scores = [next(scores) for _ in one.drawn]
        finished = begun
        if not waiting:
            break
    return [
        region_result(
            one.region, one.patches, one.drawn, one.scores, card, options, out_of_focus=one.blurred_share
        )
        for one in work
    ]


def _look(owners: Iterator[_Sampled], picture: NDArray[np.uint8]) -> None:
    next(owners).look(picture)


class _Sampled:
    """The composites of one region, and which of its patches turned out to be out of focus.

    Whether a patch is sharp shows only in the pixels that the model sees. Where many of those drawn are not,
    others are drawn in their place, until few are or there are none left.
    """

    def __init__(
        self, region: Region, patches: PatchSet, enough: bool, card: ModelCard, options: ScoreOptions
    ) -> None:
        self.region, self.patches = region, patches
        self.scores: list[CompositeScore] = []
        self._card, self._options = card, options
        self._usable = np.arange(len(patches))
        self._seen = np.zeros(len(patches), dtype=np.bool_)
        self._blurred = np.zeros(len(patches), dtype=np.bool_)
        self._looked = 0
        self.drawn = self._draw() if enough else np.empty((0, self._cells), dtype=np.int64)

    @property
    def _cells(self) -> int:
        return self._card.grid * self._card.grid

    @property
    def blurred_share(self) -> float | None:
        """Share of the patches that were looked at, each counted once; None where none was."""
        return float(self._blurred.sum() / self._seen.sum()) if self._seen.any() else None

    def look(self, picture: NDArray[np.uint8]) -> None:
        """Note which cells of the next composite are out of focus."""
        cells = self.drawn[self._looked]
        self._looked += 1
        self._seen[cells] = True
        self._blurred[cells[composite_out_of_focus(picture, self._card.grid, self._card.mpp)]] = True

    def redraw(self) -> bool:
        """Draw from the patches that are not known to be blurred, if that is called for."""
        bad = float(self._blurred[self.drawn].mean()) if self.drawn.size else 0.0
        left = np.flatnonzero(~self._blurred)
        hopeless = (self.blurred_share or 0.0) > BLURRED_REFUSED or len(left) < self._options.min_patches
        if self._options.artefact_rule != "leave-out" or bad <= _FEW_BLURRED or hopeless:
            return False
        self._usable, self._looked = left, 0
        self.drawn = self._draw()
        return True

    def _draw(self) -> NDArray[np.int64]:
        found = draw_composites(
            len(self._usable), composites=self._options.composites, seed=self._options.seed, cells=self._cells
        )
        return self._usable[found]


def _score_all(
    source: SlideSource,
    drawn: Sequence[tuple[PatchSet, NDArray[np.int64]]],
    scorer: CompositeScorer,
    turns: int,
    check: Callable[[], None],
    done: Callable[[int], None],
    look: Callable[[NDArray[np.uint8]], None] | None,
) -> Generator[CompositeScore, None, None]:
    """Yield the scores of all composites in order, keeping the scorer ahead by :data:`READ_AHEAD`.

    `look` is shown each composite before it is scored.
    """
    waiting: deque[list[Future[CompositeScore]]] = deque()
    finished = 0

    def next_score() -> CompositeScore:
        nonlocal finished
        while True:
            check()
            if not wait(waiting[0], timeout=_POLL_S).not_done:
                finished += 1
                done(finished)
                scores = [future.result() for future in waiting.popleft()]
                back = [turned_back(score, turn) for turn, score in enumerate(scores)]
                return back[0] if len(back) == 1 else mean_over_symmetries(back)
            done(finished)

    with closing(read_composites(source, drawn, patch_px=scorer.info.card.patch_px, check=check)) as pictures:
        try:
            for picture in pictures:
                if look is not None:
                    look(picture)
                waiting.append([scorer.submit(turned(picture, turn)) for turn in range(turns)])
                if len(waiting) > READ_AHEAD:
                    yield next_score()
            while waiting:
                yield next_score()
        finally:
            for future in itertools.chain.from_iterable(waiting):
                future.cancel()
