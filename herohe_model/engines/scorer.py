"""A loaded model on a device: composites in, logits and contributions out.

What a composite scores depends on nothing but its pixels, the model, the device, the engine, the precision
and the number of threads: every composite has a forward pass of its own, with deterministic kernels and
without TF32.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray

from herohe_model.engines.cache import MeasurementCache
from herohe_model.engines.choice import choose_engine, engine_label
from herohe_model.engines.thread import Engine, stop_engine
from herohe_model.errors import CancelledError, DeviceError, OptionError
from herohe_model.model.card import ModelCard
from herohe_model.model.checkpoint import load_model
from herohe_model.model.compute import AUTO, Compute
from herohe_model.model.cost import (
    SLOW_S,
    Cost,
    device_memory,
    has_attention,
    in_words,
    operations_per_s,
    scoring_cost,
)
from herohe_model.model.device import choose_device, choose_precision, device_label
from herohe_model.model.machine import default_threads
from herohe_model.model.network import load_networks
from herohe_model.model.score import CompositeScore, ScorerInfo

_log = logging.getLogger(__name__)


class Scorer:
    """A model in this process; thread-safe. Use it as a context manager, or close it.

    All work is done by one thread of its own. PyTorch's thread count is set for that thread alone; while a
    composite is scored on a GPU, cuDNN's and the matrix products' process-wide switches are set for
    determinism and full float32, and put back after it.

    Parameters
    ----------
    card, state
        As :func:`~herohe_model.model.checkpoint.load_model` gives them.
    model_sha256
        Names the model in results; "" for one that was never a file.
    compute, threads
        As :meth:`load` takes them.
    what
        Begins error messages about the weights; the file's path.
    """

    def __init__(
        self,
        card: ModelCard,
        state: Mapping[str, torch.Tensor],
        compute: Compute = AUTO,
        *,
        model_sha256: str = "",
        threads: int | None = None,
        what: str = "The model",
    ) -> None:
        if threads is not None and threads < 1:
            raise OptionError(f"{threads} threads were asked for", "Ask for 1 or more")
        device = choose_device(compute.device)
        self.threads = threads or default_threads()
        networks = load_networks(card, state, what)
        if has_attention(networks[0]):
            _check_affordable(card, len(networks), device, compute, self.threads, what)
        choice = choose_engine(
            card,
            networks,
            device,
            compute,
            threads=self.threads,
            model_sha256=model_sha256,
            memory=MeasurementCache("engines"),
        )
        at_work = Engine(card, networks, device, choice.precision, self.threads, what, choice.engine)
        self.info = ScorerInfo(
            card, model_sha256, device_label(device), choice.precision, engine_label(choice.engine)
        )
        self._tasks = at_work.tasks
        self._lock = threading.Lock()
        self._closed = False
        # The thread holds the engine, not the scorer: a forgotten scorer can be collected, and ends it.
        thread = threading.Thread(target=at_work.run, name="herohe-scorer", daemon=True)
        thread.start()
        self._stop = weakref.finalize(self, stop_engine, at_work.tasks, thread)

    @classmethod
    def load(
        cls,
        path: str | Path,
        compute: Compute = AUTO,
        threads: int | None = None,
    ) -> Scorer:
        """Load a model file.

        Parameters
        ----------
        threads
            Threads of a forward pass on the CPU; None for the physical cores.

        Raises
        ------
        ModelFileError
            If the file cannot be used.
        DeviceError
            If the device, or the engine that is named, is not there.
        """
        card, state, sha256 = load_model(path)
        return cls(card, state, compute, model_sha256=sha256, threads=threads, what=str(path))

    @property
    def head(self) -> None:
        """Nothing: what scores composites has no bags."""

    def submit(self, pixels: NDArray[np.uint8]) -> Future[CompositeScore]:
        """Score one composite in the background.

        Parameters
        ----------
        pixels
            Shape (side, side, 3), uint8, R, G, B, side = ``card.side_px``. It must not change until the
            future is done.

        Raises
        ------
        OptionError
            If the array is not of that shape and type.
        CancelledError
            If the scorer is closed.
        """
        self.info.check_shape(pixels.shape, str(pixels.dtype))
        future: Future[CompositeScore] = Future()
        with self._lock:
            if self._closed:
                raise CancelledError("The scorer is closed")
            self._tasks.put((pixels, future))
        return future

    def score(self, pixels: NDArray[np.uint8] | Sequence[NDArray[np.uint8]]) -> list[CompositeScore]:
        """Score composites, (n, side, side, 3) or a sequence of (side, side, 3); errors as :meth:`submit`."""
        futures = [self.submit(composite) for composite in pixels]
        return [future.result() for future in futures]

    def close(self) -> None:
        """Cancel what has not begun, wait for what has, and end the thread; may be called twice."""
        with self._lock:
            self._closed = True
        # Without the lock: what ends meanwhile may call back and find the scorer closed.
        self._stop()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_affordable(
    card: ModelCard, members: int, device: torch.device, compute: Compute, threads: int, what: str
) -> None:
    """Warn of a model that takes long for a composite, before it is tried; refuse what has no room."""
    precision = choose_precision(compute.precision, device)
    one = scoring_cost(card, precision)
    cost = Cost(members * one.operations, one.bytes)
    rate, memory = operations_per_s(device, precision, threads), device_memory(device)
    said = (
        f"{what} ({card.backbone}) in {precision} on {device}: a composite of {card.side_px} x "
        f"{card.side_px} px takes {in_words(cost, rate)}"
    )
    if cost.bytes > memory:
        raise DeviceError(
            f"{said}, and there are {memory / 2**30:.1f} GiB",
            "Score on another machine, or with a model of another backbone",
        )
    if cost.operations / rate >= SLOW_S:
        _log.warning("%s", said)
