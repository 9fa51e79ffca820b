"""What modules log, shown where a command speaks to its user."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_PACKAGES: Final = ("bridge", "herohe_model")


class _Shown(logging.Handler):
    """Passes on each record's message."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage())


@contextmanager
def log_shown(say: Callable[[str], None]) -> Iterator[None]:
    """Within the block, tell `say` what our modules log at INFO and above; from any thread, one at a time."""
    handler = _Shown(say)
    loggers = [logging.getLogger(name) for name in _PACKAGES]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
