"""Threads that read ahead of who needs it, in order and no further than asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")


def read_ahead(
    tasks: Iterable[_T], read: Callable[[_T], _R], *, workers: int, ahead: int
) -> Generator[_R, None, None]:
    """Yield ``read(task)`` of all tasks in their order, read by threads that are up to `ahead` in front.

    Close the generator to stop the threads.
    """
    waiting: deque[Future[_R]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="herohe-reader") as pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(read, task))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
