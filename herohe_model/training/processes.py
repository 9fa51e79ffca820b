"""Several processes that train one network, as ``torchrun`` starts them; or one alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import torch
from torch import distributed

from herohe_model.errors import OptionError
from herohe_model.model.device import choose_device

_PATIENCE: Final = timedelta(hours=4)
"""How long a process waits for the others, who may still be looking for tissue on slow disks."""


@dataclass(frozen=True)
class Processes:
    """One process, among those that train together.

    Attributes
    ----------
    rank, count
        Number of this one, from 0, and of all.
    device
        Where it computes.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over all processes."""
        if self.count == 1:
            return tensor
        summed = tensor.to(self.device, copy=True)
        distributed.all_reduce(summed)
        return summed

    def any(self, flag: bool) -> bool:
        """Whether any process says yes; all get the same answer."""
        if self.count == 1:
            return flag
        return bool(self.total(torch.tensor(float(flag))) > 0)

    def wait(self) -> None:
        """Wait until all processes have come here."""
        self.any(False)


@contextmanager
def join_processes(device: str = "auto") -> Iterator[Processes]:
    """Join the processes that torchrun started, or be the only one.

    Raises
    ------
    OptionError
        If torchrun's environment is incomplete.
    DeviceError
        If the device is not there.
    """
    count = _number("WORLD_SIZE", 1)
    if count == 1:
        yield Processes(0, 1, choose_device(device))
        return
    rank, local = _number("RANK", None), _number("LOCAL_RANK", None)
    chosen = choose_device(device)
    if chosen.type == "cuda":
        chosen = choose_device(f"cuda:{local}")
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Processes(rank, count, chosen)
    finally:
        distributed.destroy_process_group()


def _number(variable: str, default: int | None) -> int:
    value = os.environ.get(variable, "" if default is None else str(default))
    if not value.isdecimal():
        raise OptionError(
            f"The environment variable {variable} is {value!r}, no number",
            "Start the processes with torchrun",
        )
    return int(value)
