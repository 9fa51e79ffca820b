"""Patches on their way through an encoder: read ahead of it, and handed to it in batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, wait
from contextlib import closing
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from herohe_model.read_ahead import read_ahead
from herohe_model.slides.source import Box, SlideSource

_POLL_S: Final = 0.2

T = TypeVar("T")


def embedded(
    source: SlideSource,
    corners: NDArray[np.int64],
    size: int,
    submit: Callable[[NDArray[np.uint8]], Future[T]],
    *,
    side_px: int,
    batch: int,
    in_hand: int,
    check: Callable[[], None],
) -> Generator[T, None, None]:
    """Yield what an encoder makes of patches, a batch at a time; close the generator to stop.

    Parameters
    ----------
    corners, size
        Upper left corners of the patches, (n, 2), x and y, and their side; level-0 px.
    submit
        Begins a batch, (n, side_px, side_px, 3) uint8.
    side_px, batch
        Side of a patch as the encoder sees it, px, and patches of a batch.
    in_hand
        Batches in the encoder's hands while the next are being read.
    check
        Called several times a second; may raise to stop.
    """
    waiting: deque[Future[T]] = deque()

    def read(first: int) -> NDArray[np.uint8]:
        boxes = [Box(x, y, size, size) for x, y in corners[first : first + batch].tolist()]
        return np.stack(list(source.read_boxes(boxes, (side_px, side_px))))

    def next_rows() -> T:
        while not wait([waiting[0]], timeout=_POLL_S).done:
            check()
        return waiting.popleft().result()

    readers = max(1, source.readers)
    firsts = range(0, len(corners), batch)
    with closing(read_ahead(firsts, read, workers=readers, ahead=2 * readers)) as batches:
        try:
            for pixels in batches:
                check()
                waiting.append(submit(pixels))
                if len(waiting) > in_hand:
                    yield next_rows()
            while waiting:
                yield next_rows()
        finally:
            for future in waiting:
                future.cancel()
