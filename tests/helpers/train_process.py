"""A process that trains on the tiny slides and prints each step: to be killed, or started by torchrun.

Usage: train_process.py SLIDES OUTPUT OPTIONS_JSON [HOLD]

After step HOLD it waits for the end of its input, so that it cannot finish before it is killed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from helpers.small_training import MACHINE, tiny_set
from herohe_model.training.loop import NullListener, train_network
from herohe_model.training.options import TrainOptions, check_options
from herohe_model.training.processes import join_processes


class _Steps(NullListener):
    def __init__(self, hold: int) -> None:
        self._hold = hold
        self._training = False

    def begin(self, what: str, total: int, unit: str, done: int = 0) -> None:
        self._training = unit == "steps"

    def advance(self, done: int, detail: str = "") -> None:
        if self._training:
            print(done, flush=True)
            if done == self._hold:
                sys.stdin.read()


def _main(slides: Path, output: Path, options: TrainOptions, hold: int) -> None:
    with join_processes("cpu") as processes:
        # Each process makes its own slides: they are the same.
        data = tiny_set(slides / str(processes.rank), held_out=True, options=options)
        train_network(
            data,
            check_options(options, processes=processes.count),
            output,
            slides_sha256="slides",
            processes=processes,
            resources=MACHINE,
            listener=_Steps(hold),
        )


if __name__ == "__main__":
    _slides, _output, _options, *_hold = sys.argv[1:]
    _main(
        Path(_slides),
        Path(_output),
        msgspec.json.decode(_options, type=TrainOptions),
        int(_hold[0]) if _hold else -1,
    )
