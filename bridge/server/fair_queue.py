"""A queue that serves its clients in turn, however much one of them has put in."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """First in, first out for each client; one from each in turn over the clients."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Hashable, deque[Item]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Item]:
        """Yield every item, client by client."""
        for items in self._waiting.values():
            yield from items

    def put(self, client: Hashable, item: Item) -> None:
        """Add an item behind the client's others."""
        self._waiting.setdefault(client, deque()).append(item)
        self._count += 1

    def put_back(self, client: Hashable, item: Item) -> None:
        """Return an item that was taken to the front of the client's others."""
        self._waiting.setdefault(client, deque()).appendleft(item)
        self._count += 1

    def first(self) -> Item | None:
        """Return the item that :meth:`take` would take, or None."""
        return next((items[0] for items in self._waiting.values()), None)

    def take(self) -> Item | None:
        """Remove and return the first item of the client whose turn it is, or None."""
        if not self._waiting:
            return None
        client, items = next(iter(self._waiting.items()))
        item = items.popleft()
        self._count -= 1
        if items:
            self._waiting.move_to_end(client)
        else:
            del self._waiting[client]
        return item

    def remove(self, unwanted: Callable[[Item], bool]) -> list[Item]:
        """Remove and return the items for which `unwanted` is true."""
        removed: list[Item] = []
        for client in list(self._waiting):
            kept: deque[Item] = deque()
            for item in self._waiting[client]:
                (removed if unwanted(item) else kept).append(item)
            if kept:
                self._waiting[client] = kept
            else:
                del self._waiting[client]
        self._count -= len(removed)
        return removed
