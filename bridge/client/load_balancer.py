"""Several model servers as one scorer: composites go to the least busy, elsewhere when it dies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bridge.client.address import ServerAddress
from bridge.client.client import Client
from bridge.client.locate import FixedServer
from herohe_model.errors import HeroheError, OptionError, ProtocolError, ServerUnavailableError
from herohe_model.model.card import read_card
from herohe_model.model.score import CompositeScore, CompositeScorer, ScorerInfo

_GONE: Final = (ServerUnavailableError, ProtocolError)
"""Errors after which a server is not asked any more; one that was restarted does not know our token."""


@dataclass(eq=False)
class _Server:
    """One of the servers; ``in_hand`` counts its composites without an answer."""

    name: str
    scorer: CompositeScorer
    in_hand: int = 0
    gone: bool = False


@dataclass(eq=False)
class _Composite:
    """A composite that has no score yet; ``asked`` is the request to the server that has it."""

    pixels: NDArray[np.uint8]
    future: Future[CompositeScore]
    asked: Future[CompositeScore] | None = None


class SpreadScorer:
    """Implements :class:`~herohe_model.model.score.CompositeScorer` by others, which it closes. Thread-safe.

    Parameters
    ----------
    servers
        Names and scorers, at least one.
    notice
        Told in words when one is gone; called from any thread.

    Raises
    ------
    OptionError
        If they differ in model, device, precision or engine: results would depend on which server was free.
    """

    def __init__(
        self,
        servers: Sequence[tuple[str, CompositeScorer]],
        *,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._servers = [_Server(name, scorer) for name, scorer in servers]
        self._notice = notice
        self._lock = threading.Lock()
        first = self._servers[0]
        for other in self._servers[1:]:
            _check_alike(first, other)

    @property
    def info(self) -> ScorerInfo:
        """What scores, on each server alike."""
        return self._servers[0].scorer.info

    def submit(self, pixels: NDArray[np.uint8]) -> Future[CompositeScore]:
        """Score one composite; see :class:`~herohe_model.model.score.CompositeScorer`."""
        composite = _Composite(pixels, Future())
        self._hand_on(composite)

        def dropped(future: Future[CompositeScore]) -> None:
            if future.cancelled() and composite.asked is not None:
                composite.asked.cancel()

        composite.future.add_done_callback(dropped)
        return composite.future

    def close(self) -> None:
        """Close all connections; may be called twice."""
        for server in self._servers:
            server.scorer.close()

    def _hand_on(self, composite: _Composite) -> None:
        """Give a composite to the server that has the fewest."""
        with self._lock:
            there = [server for server in self._servers if not server.gone]
            server = min(there, key=lambda server: server.in_hand, default=None)
            if server is not None:
                server.in_hand += 1
        if server is None:
            names = ", ".join(server.name for server in self._servers)
            raise ServerUnavailableError(
                f"None of the model servers {names} is there any more",
                "Look at their logs, start them again, and give the command again",
            )
        try:
            asked = server.scorer.submit(composite.pixels)
        except BaseException:
            with self._lock:
                server.in_hand -= 1
            raise
        composite.asked = asked
        asked.add_done_callback(lambda done: self._answered(composite, server, done))

    def _answered(self, composite: _Composite, server: _Server, done: Future[CompositeScore]) -> None:
        """Pass an answer on, or the composite if its server is gone; in that server's thread."""
        error = None if done.cancelled() else done.exception()
        with self._lock:
            server.in_hand -= 1
            lost = isinstance(error, _GONE)
            first = lost and not server.gone
            server.gone = server.gone or lost
        if first:
            self._notice(f"{error} Going on without {server.name}.")
        if lost and not composite.future.cancelled():
            try:
                self._hand_on(composite)
                return
            except HeroheError as none_left:
                error = none_left
        if not composite.future.set_running_or_notify_cancel():
            return
        if error is not None:
            composite.future.set_exception(error)
        else:
            composite.future.set_result(done.result())


def _check_alike(first: _Server, other: _Server) -> None:
    one, two = first.scorer.info, other.scorer.info
    if one.model_sha256 != two.model_sha256:
        raise OptionError(
            f"The server {first.name} has the model {one.card.name} ({one.model_sha256[:12]}), {other.name} "
            f"has {two.card.name} ({two.model_sha256[:12]})",
            "Start both with the same model file",
        )
    if one.computes_on != two.computes_on:
        raise OptionError(
            f"The server {first.name} scores on {one.computes_on}, {other.name} on {two.computes_on}: "
            "a slide's result would depend on which of them was free",
            "Start both with the same --device, --precision and --engine on machines that are alike, "
            "or name one",
        )


@contextmanager
def connect_servers(
    endpoints: Sequence[str], model: Path | None, *, notice: Callable[[str], None] = lambda _: None
) -> Iterator[SpreadScorer]:
    """Connect to several running servers.

    Parameters
    ----------
    endpoints
        Their addresses, at least one; naming one twice is naming it once.
    model
        The model file that they must have; None for any, as long as it is the same.

    Raises
    ------
    ServerUnavailableError
        If one of them does not answer.
    OptionError
        If they differ, or have another model.
    """
    sha256 = read_card(model)[1] if model is not None else ""
    with ExitStack() as stack:
        clients: list[tuple[str, CompositeScorer]] = []
        for endpoint in dict.fromkeys(endpoints):
            client = stack.enter_context(Client(FixedServer(ServerAddress.named(endpoint))))
            if sha256 and client.info.model_sha256 != sha256:
                raise OptionError(
                    f"The server {endpoint} has the model {client.info.card.name}, not {model}",
                    "Leave --model out, or name servers of that model",
                )
            clients.append((endpoint, client))
        yield SpreadScorer(clients, notice=notice)
