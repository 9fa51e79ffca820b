"""A process that trains on the tiny slides and prints each step: to be killed, or started by torchrun.

Usage: tiny_run.py SLIDES OUTPUT OPTIONS_JSON
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
from tiny_training import MACHINE, tiny_set

from herohe_model.processes import join_processes
from herohe_model.train import Silence, train_network
from herohe_model.training_options import TrainOptions, check_options


class _Steps(Silence):
    def advance(self, done: int, detail: str = "") -> None:
        print(done, flush=True)


def _main(slides: Path, output: Path, options: TrainOptions) -> None:
    with join_processes("cpu") as processes:
        # Each process makes its own slides: they are the same.
        data = tiny_set(slides / str(processes.rank), held_out=True, options=options)
        train_network(
            data,
            check_options(options, processes=processes.count),
            output,
            slides_sha256="slides",
            processes=processes,
            machine=MACHINE,
            listener=_Steps(),
        )


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]), msgspec.json.decode(sys.argv[3], type=TrainOptions))
