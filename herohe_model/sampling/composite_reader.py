"""The composites of a slide, read ahead of who scores them.

Composites come in the order they were drawn, in windows of a few: the patches of a window are read in the
order they lie in the file, by as many threads as the source is best read with, while the window before is
being scored. A patch that stands in a later window too is kept, as far as memory that does not grow with the
slide allows, and not read again. The pictures are those of
:func:`herohe_model.sampling.composite.read_composite`.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from herohe_model.sampling.composite import cell_views
from herohe_model.sampling.patches import PatchSet
from herohe_model.slides.source import Box, SlideSource

_WINDOW_BYTES: Final = 80 << 20
"""Of the composites of one window: 4 of 2560 px. Two windows are in memory at a time."""

_LARGEST_WINDOW: Final = 16

_KEPT_BYTES: Final = 160 << 20
"""Of patches kept for later windows: the 200 of 8 composites of 25 patches of 512 px."""

_POLL_S: Final = 0.2

Drawn = tuple[PatchSet, NDArray[np.int64]]
"""The patches of a region, and which of them stand in each composite: (composites, cells), int64."""


def read_composites(
    source: SlideSource,
    drawn: Sequence[Drawn],
    *,
    patch_px: int,
    check: Callable[[], None] = lambda: None,
) -> Generator[NDArray[np.uint8], None, None]:
    """Yield the composites of all regions in order; close the generator to stop reading.

    Parameters
    ----------
    source
        The slide that the patches were found in. Where it is best read by one thread, the patches of a
        composite are asked for in one question.
    drawn
        The composites of each region; the patches of all regions have one size.
    patch_px
        Side of a patch in the picture, px.
    check
        Called several times a second while it waits for pixels; may raise to stop.

    Yields
    ------
    ndarray
        Shape (grid * patch_px, grid * patch_px, 3), uint8 RGB, each an array of its own.

    Raises
    ------
    SlideUnreadableError
        When it comes to a composite whose pixels are damaged.
    """
    some = [(patches, cells) for patches, cells in drawn if len(cells)]
    if not some:
        return
    plan = _Plan(some)
    reader = _Reader(source, plan, patch_px)
    waiting: deque[_Window] = deque()
    try:
        for numbers in _windows(len(plan.cells), plan.cells.shape[1], patch_px, source.readers):
            waiting.append(reader.begin(numbers))
            if len(waiting) > 1:
                yield from reader.finish(waiting.popleft(), check)
        while waiting:
            yield from reader.finish(waiting.popleft(), check)
    finally:
        reader.stop()


def _windows(composites: int, cells: int, patch_px: int, readers: int) -> Iterator[range]:
    """Yield the numbers of the composites of each window: few at first, so that scoring begins soon."""
    most = min(max(1, _WINDOW_BYTES // (3 * cells * patch_px**2)), _LARGEST_WINDOW) if readers > 1 else 1
    first, size = 0, 1
    while first < composites:
        yield range(first, min(first + size, composites))
        first, size = first + size, min(2 * size, most)


class _Plan:
    """Which patch stands in which cell of which composite, over all regions, each with one composite or more.

    Attributes
    ----------
    boxes
        Of the distinct patches, in row-major order, which is the order in which slides hold them.
    cells
        Index into `boxes`, shape (composites, cells), int64.
    last
        Number of the last composite that holds each patch, shape (len(boxes),), int64.
    """

    def __init__(self, drawn: Sequence[Drawn]) -> None:
        corners = [np.stack([p.y[cells.ravel()], p.x[cells.ravel()]], axis=1) for p, cells in drawn]
        distinct, index = np.unique(np.concatenate(corners), axis=0, return_inverse=True)
        size = drawn[0][0].size
        self.boxes = [Box(x, y, size, size) for y, x in distinct.tolist()]
        self.cells = index.reshape(-1, drawn[0][1].shape[1]).astype(np.int64)
        self.last = np.zeros(len(distinct), dtype=np.int64)
        np.maximum.at(self.last, self.cells, np.arange(len(self.cells))[:, None])


_Patches = dict[int, NDArray[np.uint8]]


@dataclass
class _Window:
    """Composites on their way: their numbers, their pictures, and what each waits for."""

    numbers: range
    pictures: list[NDArray[np.uint8]]
    needs: list[list[Future[_Patches]]] = field(default_factory=list)


class _Reader:
    """Threads that read patches and put them into composites."""

    def __init__(self, source: SlideSource, plan: _Plan, patch_px: int) -> None:
        self._source = source
        self._plan = plan
        self._patch_px = patch_px
        self._kept: dict[int, Future[_Patches]] = {}
        self._room = _KEPT_BYTES // (3 * patch_px**2)
        self._pool = ThreadPoolExecutor(source.readers, thread_name_prefix="herohe-patches")

    def begin(self, numbers: range) -> _Window:
        """Have the composites of a window read."""
        cells = self._plan.cells[numbers.start : numbers.stop]
        grid = round(cells.shape[1] ** 0.5)
        side = grid * self._patch_px
        window = _Window(numbers, [np.empty((side, side, 3), dtype=np.uint8) for _ in numbers])
        spots: defaultdict[int, list[NDArray[np.uint8]]] = defaultdict(list)
        for row, picture in zip(cells.tolist(), window.pictures, strict=True):
            for patch, spot in zip(row, cell_views(picture, grid), strict=True):
                spots[patch].append(spot)
        tasks: dict[int, Future[_Patches]] = {}
        fresh: list[_Task] = []
        room = self._room - len(self._kept)
        for patch in sorted(spots):
            if patch in self._kept:
                tasks[patch] = self._pool.submit(_place, self._kept[patch], patch, spots[patch])
            else:
                keep = room > 0 and bool(self._plan.last[patch] >= numbers.stop)
                room -= keep
                fresh.append(_Task(patch, spots[patch], keep))
        # Where one thread is best, one question for all; else a patch each, to share them out evenly.
        for some in [[task] for task in fresh] if self._source.readers > 1 else [fresh] if fresh else []:
            future = self._pool.submit(self._bring, some)
            for task in some:
                tasks[task.patch] = future
                if task.keep:
                    self._kept[task.patch] = future
        window.needs = [[tasks[patch] for patch in np.unique(row).tolist()] for row in cells]
        return window

    def finish(self, window: _Window, check: Callable[[], None]) -> Generator[NDArray[np.uint8], None, None]:
        """Yield the composites of a window as they are complete."""
        for number in window.numbers:
            needs = window.needs[number - window.numbers.start]
            while True:
                check()
                if not wait(needs, timeout=_POLL_S).not_done:
                    break
            for need in needs:
                need.result()
            picture = window.pictures[number - window.numbers.start]
            # Let go of it here: it lives as long as who got it holds it.
            window.pictures[number - window.numbers.start] = np.empty(0, dtype=np.uint8)
            yield picture
        for patch in [p for p in self._kept if self._plan.last[p] < window.numbers.stop]:
            del self._kept[patch]

    def stop(self) -> None:
        """Read nothing more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _bring(self, tasks: Sequence[_Task]) -> _Patches:
        """Read patches and put them into their cells; return those to be kept."""
        boxes = [self._plan.boxes[task.patch] for task in tasks]
        side = self._patch_px
        kept = {}
        for task, pixels in zip(tasks, self._source.read_boxes(boxes, (side, side)), strict=True):
            for spot in task.spots:
                spot[...] = pixels
            if task.keep:
                kept[task.patch] = pixels
        return kept


@dataclass(frozen=True)
class _Task:
    """A patch to be read, where it goes, and whether it is needed again."""

    patch: int
    spots: list[NDArray[np.uint8]]
    keep: bool


def _place(kept: Future[_Patches], patch: int, spots: Sequence[NDArray[np.uint8]]) -> _Patches:
    """Put a patch that was kept into its cells."""
    # Asked for before this task was, by the same threads: it is done, or being done.
    pixels = kept.result()[patch]
    for spot in spots:
        spot[...] = pixels
    return {}
