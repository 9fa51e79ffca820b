"""The forward pass by PyTorch: pixels in, the heads' linear maps out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch

from herohe_model.model.compute import Precision
from herohe_model.model.network import OrdinalNetwork

Forward = Callable[[torch.Tensor], torch.Tensor]
"""From one composite (1, side, side, 3), uint8, to (members, bits, h, w), float32, on its device."""


def torch_pass(networks: Sequence[OrdinalNetwork], device: torch.device, precision: Precision) -> Forward:
    """Move networks to where they are computed, and return what computes them.

    Raises
    ------
    RuntimeError
        If the device cannot hold them.
    """
    layout = torch.preserve_format if device.type == "mps" else torch.channels_last
    placed = [network.to(device).to(memory_format=layout) for network in networks]
    return lambda pixels: linear_maps(placed, pixels, device, precision)


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
