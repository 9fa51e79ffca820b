"""Ctrl-C as a request: the first asks to stop at the next consistent point, the second stops at once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def until_interrupted() -> Iterator[Callable[[], bool]]:
    """Within the block, SIGINT and SIGTERM set a flag; yields the function that reads it.

    Outside the main thread, where Python allows no handlers, the flag is never set.
    """
    requested = threading.Event()

    def handle(number: int, _: FrameType | None) -> None:
        if requested.is_set():
            raise KeyboardInterrupt
        requested.set()
        print("\nStopping after the composite at hand; once more to stop at once.", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():
        yield requested.is_set
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requested.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
