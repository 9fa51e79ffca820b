"""Answers that are kept a while, for clients that did not receive them and ask again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Final

from bridge.protocol.messages import Reply

MOST: Final = 1024
MOST_BYTES: Final = 64 << 20


class ReplyCache:
    """The newest replies with their frames, bounded in number and size."""

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[Hashable, tuple[Reply, tuple[bytes, ...]]] = OrderedDict()

    def keep(self, key: Hashable, reply: Reply, frames: Sequence[bytes]) -> None:
        """Keep a reply, and forget the oldest ones beyond the limits."""
        self._forget(key)
        self._kept[key] = reply, tuple(frames)
        self._bytes += sum(map(len, frames))
        while len(self._kept) > self._most or self._bytes > self._most_bytes:
            self._forget(next(iter(self._kept)))

    def find(self, key: Hashable) -> tuple[Reply, tuple[bytes, ...]] | None:
        """Return the reply to a request, if it is still there."""
        return self._kept.get(key)

    def _forget(self, key: Hashable) -> None:
        if key in self._kept:
            self._bytes -= sum(map(len, self._kept.pop(key)[1]))
