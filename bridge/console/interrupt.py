"""Ctrl-C as a request: the first asks to stop at the next consistent point, the second stops at once."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from herohe_model.ending_signals import ending_signals

_HANGUP: Final = getattr(signal, "SIGHUP", None)


@contextmanager
def until_interrupted() -> Iterator[Callable[[], bool]]:
    """Within the block, signals that ask to end set a flag; yields the function that reads it.

    Outside the main thread, where Python allows no handlers, the flag is never set.
    """
    requested = threading.Event()

    def handle(number: int, _: FrameType | None) -> None:
        # A terminal that is closed can say so more than once, and nobody is there to be in a hurry.
        if requested.is_set() and number != _HANGUP:
            raise KeyboardInterrupt
        requested.set()
        with contextlib.suppress(OSError):
            print("\nStopping after the composite at hand; once more to stop at once.", file=sys.stderr)

    with ending_signals(handle):
        yield requested.is_set
