"""A model worker that does as each composite's first pixel says, for what no real network does when asked.

Its "model file" is the JSON of a model card. Every composite that is begun adds a line to the file ``begun``
beside it. Nothing of PyTorch is imported, so it starts at once.
"""

from __future__ import annotations

import logging
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from bridge.protocol.worker_messages import WorkerSettings
from bridge.server.worker import run_worker
from herohe_model.model.card import ModelCard
from herohe_model.model.score import CompositeScore, ScorerInfo

SCORE: Final = 0
WAIT_FOR_GATE: Final = 1
"""Scored once there is a file ``gate`` beside the model."""
KILL: Final = 2
FAIL: Final = 3


class ScriptedScorer:
    """The logits are the composite's second pixel, R, G and B; contributions are all 1/25 of them."""

    def __init__(self, model: Path) -> None:
        card = msgspec.json.decode(model.read_bytes(), type=ModelCard)
        self.info = ScorerInfo(card, "0" * 64, "cpu", "fp32", "scripted")
        self._folder = model.parent
        self._pool = ThreadPoolExecutor(1)

    head = None

    def submit(self, pixels: NDArray[np.uint8]) -> Future[Any]:
        return self._pool.submit(self._score, pixels)

    def close(self) -> None:
        self._pool.shutdown()

    def _score(self, pixels: NDArray[np.uint8]) -> Any:
        what, name = int(pixels[0, 0, 0]), int(pixels[0, 0, 1])
        with (self._folder / "begun").open("a") as begun:
            begun.write(f"{name}\n")
        if what == KILL:
            os._exit(9)
        if what == FAIL:
            raise ValueError("this composite fails")
        while what == WAIT_FOR_GATE and not (self._folder / "gate").exists():
            threading.Event().wait(0.01)
        logits = pixels[0, 1].astype(np.float32)
        return CompositeScore(logits, np.tile(logits / 25, (25, 1)))


def load(settings: WorkerSettings) -> ScriptedScorer:
    """Load with a word about it, as a real worker does when that takes long."""
    logging.getLogger("herohe_model.scripted").info("reading the script")
    return ScriptedScorer(Path(settings.model))


if __name__ == "__main__":
    run_worker(load)  # type: ignore[arg-type]
