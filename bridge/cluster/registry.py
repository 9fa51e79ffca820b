"""Which workers of a dask cluster a run may use: those that are there, less those that cannot take part."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bridge.cluster.connect import ClusterError, send_model
from bridge.cluster.messages import ModelMissing, Rejected

if TYPE_CHECKING:
    from distributed import Client


_log = logging.getLogger(__name__)


class WorkerRegistry:
    """The workers of a run, as they come and go. Used by the batch's thread.

    Parameters
    ----------
    model, model_sha256
        The model's file, for workers that come later and cannot read it.
    """

    def __init__(self, client: Client, model: Path, model_sha256: str) -> None:
        self._client = client
        self._model = model
        self._model_sha256 = model_sha256
        self._there: dict[str, int] = client.nthreads()
        self._left_out: set[str] = set()
        self._sent: set[str] = set()

    @property
    def threads(self) -> int:
        """Threads of all workers that are there."""
        return sum(self._there.values())

    @property
    def usable(self) -> frozenset[str]:
        """Addresses of the workers that may be given slides."""
        return frozenset(self._there.keys() - self._left_out)

    @property
    def is_whole(self) -> bool:
        """Whether nobody was left out so far."""
        return not self._left_out

    def look(self) -> None:
        """Find out who is there now; nothing is changed where the scheduler does not say."""
        with suppress(OSError):
            self._there = self._client.nthreads()

    def leave_out(self, rejected: Rejected) -> None:
        """Give a worker no more slides, and say so once."""
        if rejected.worker not in self._left_out:
            self._left_out.add(rejected.worker)
            _log.warning(
                f"The worker {rejected.worker} on {rejected.host} is left out: {rejected.problem}. "
                f"{rejected.remedy}."
            )

    def supply(self, asked: ModelMissing, *, again: bool) -> bool:
        """Send the model to a worker that wants it, once; whether it can now be given slides.

        Parameters
        ----------
        again
            It asks for a slide that it got after the model was sent. Other slides may have asked before that.
        """
        worker = asked.worker
        if worker not in self._sent:
            self._sent.add(worker)
            try:
                send_model(self._client, self._model, self._model_sha256, [worker])
            except ClusterError as error:
                self.leave_out(Rejected(worker, asked.host, error.problem, error.remedy))
        elif again:
            problem = "it cannot read the model that it was sent"
            self.leave_out(Rejected(worker, asked.host, problem, "See its log"))
        return worker not in self._left_out
