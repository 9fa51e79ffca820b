"""The forward pass by PyTorch: pixels in, the heads' linear maps out."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import nullcontext

import torch

from herohe_model.device import Precision
from herohe_model.network import OrdinalNetwork


def linear_maps(
    networks: Sequence[OrdinalNetwork], pixels: torch.Tensor, device: torch.device, precision: Precision
) -> torch.Tensor:
    """Compute (members, bits, h, w), float32, of one composite (1, side, side, 3), uint8, on its device."""
    autocast = torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
    with autocast:
        return torch.stack([network.linear_map(pixels)[0] for network in networks])


def set_threads_of_this_thread(threads: int) -> None:
    """Give the calling thread so many threads, and threads to come what they would have had.

    PyTorch keeps a number for each thread, and one that new threads begin with; setting the first sets the
    second.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    restore = threading.Thread(target=torch.set_num_threads, args=(before,))
    restore.start()
    restore.join()
