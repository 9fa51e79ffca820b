"""Signals that ask this process to end: Ctrl-C, a supervisor's, and that of a terminal which was closed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_NAMES: Final = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
"""Those that the platform knows; SIGBREAK is what Windows sends when a console is closed."""


@contextmanager
def ending_signals(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within the block, such signals call `handle`; not outside of the main thread, where Python cannot.

    SIGHUP stays ignored where it was: that is how ``nohup`` starts a command that outlives its terminal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    taken = [number for number in numbers if number == signal.SIGINT or before[number] != signal.SIG_IGN]
    for number in taken:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


@contextmanager
def heard_at_once() -> Iterator[None]:
    """Within the block, such signals raise KeyboardInterrupt, whoever listens to them around it.

    For what takes long and asks nobody whether it shall go on: a download, a model that is loaded.
    """

    def handle(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    with ending_signals(handle):
        yield
