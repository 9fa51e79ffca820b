"""The composites of a slide's regions: drawn, read ahead of the scorer, and put together again."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, wait
from contextlib import closing
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bridge.annotations.regions import Region
from bridge.results.schema import RegionResult
from bridge.scoring.options import ScoreOptions
from bridge.scoring.progress import Progress, ProgressCallback
from bridge.scoring.region import region_result
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
    cells = card.grid * card.grid
    sampled = [
        (
            region,
            patches,
            draw_composites(len(patches), composites=options.composites, seed=options.seed, cells=cells)
            if enough
            else np.empty((0, cells), dtype=np.int64),
        )
        for region, patches, enough in regions
    ]
    total = sum(len(drawn) for _, _, drawn in sampled)
    blurred: list[NDArray[np.bool_]] = []

    def look(picture: NDArray[np.uint8]) -> None:
        blurred.append(composite_out_of_focus(picture, card.grid, card.mpp))

    notice(Progress("composites", 0, total))
    with closing(
        _score_all(
            source,
            sampled,
            scorer,
            SYMMETRIES if options.symmetries else 1,
            check,
            lambda done: notice(Progress("composites", done, total)),
            None if options.artefact_rule == "ignore" else look,
        )
    ) as scores:
        results, first = [], 0
        for region, patches, drawn in sampled:
            of_region = [next(scores) for _ in drawn]
            seen = blurred[first : first + len(drawn)]
            first += len(drawn)
            results.append(
                region_result(region, patches, drawn, of_region, card, options, blurred=np.array(seen))
            )
        return results


def _score_all(
    source: SlideSource,
    sampled: Sequence[tuple[Region, PatchSet, NDArray[np.int64]]],
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

    drawn = [(patches, cells) for _, patches, cells in sampled]
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
