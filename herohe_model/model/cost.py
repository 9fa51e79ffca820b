"""What a composite costs a machine, known before it is computed: a network is followed without its numbers.

Attention over the 25,600 tokens of a composite takes hundreds of times what a convolution does, which nobody
sees from a name such as ``vit_base_patch16_224``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from herohe_model.model.card import ModelCard
from herohe_model.model.compute import Precision
from herohe_model.model.machine import machine_memory
from herohe_model.model.network import OrdinalNetwork

SLOW_S: Final = 10.0
"""Seconds of a composite, at the least, from which on somebody should know before it begins.

By the speed of multiplying matrices: attention takes several times as long in truth."""
_TRIAL_S: Final = 0.1
_TRIAL_SIDE: Final = 1024
_BACKWARD: Final = 2
"""A backward pass computes about twice what its forward pass did."""
_TRAINED: Final = 4
"""Of each weight in training: itself, its gradient, and AdamW's two moments."""


@dataclass(frozen=True)
class Cost:
    """What one composite takes at the least.

    Attributes
    ----------
    operations
        Floating-point operations.
    bytes
        Of memory.
    """

    operations: int
    bytes: int


def has_attention(network: nn.Module) -> bool:
    """Whether a network has attention, which may cost the square of a composite's area."""
    return any(isinstance(getattr(module, "num_heads", None), int) for module in network.modules())


def scoring_cost(card: ModelCard, precision: Precision = "fp32") -> Cost:
    """Return what it takes to score a composite: its weights, and the largest operation's numbers."""
    network, mode = _without_numbers(card)
    largest = _LargestOperation()
    with mode, torch.no_grad(), _autocast(precision), largest, FlopCounterMode(display=False) as counted:
        network.eval()(torch.empty(1, card.side_px, card.side_px, 3))
    return Cost(counted.get_total_flops(), _weights(network) + largest.bytes)


def training_cost(card: ModelCard, precision: Precision, *, composites: int, checkpointed: bool) -> Cost:
    """Return what a forward and backward pass of some composites takes.

    Its memory is that of weights, gradients, AdamW and of all that the backward pass needs of the forward
    pass.
    """
    network, mode = _without_numbers(card)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    if checkpointed:
        network.checkpoint_gradients()
    with (
        mode,
        _autocast(precision),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        FlopCounterMode(display=False) as counted,
    ):
        # A batch of one has no statistics of one number a channel; how many there are changes nothing else.
        network.eval()(torch.empty(1, card.side_px, card.side_px, 3))
    passes = 1 + _BACKWARD + checkpointed
    # What is kept includes the weights themselves.
    activations = max(0, sum(kept.values()) - _weights(network))
    return Cost(
        composites * passes * counted.get_total_flops(),
        _TRAINED * _weights(network) + composites * activations,
    )


def device_memory(device: torch.device) -> int:
    """Return the bytes of memory that a device has for us."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return machine_memory()


def operations_per_s(device: torch.device, precision: Precision, threads: int) -> float:
    """Measure how fast a device multiplies large matrices, which no network is faster than."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        matrix = torch.ones(_TRIAL_SIDE, _TRIAL_SIDE, dtype=kind, device=device)
        best, began = math.inf, time.perf_counter()
        while time.perf_counter() - began < _TRIAL_S or not math.isfinite(best):
            start = time.perf_counter()
            # One number brought back waits for the device.
            float((matrix @ matrix)[0, 0])
            best = min(best, time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    return 2 * _TRIAL_SIDE**3 / best


def in_words(cost: Cost, rate: float) -> str:
    """Return what a composite takes, ``at least 1.5 min and 14.6 GiB (28.5 TFLOP at 317 GFLOP/s)``."""
    seconds = cost.operations / rate
    units = ((86400, "days"), (3600, "h"), (60, "min"))
    size, unit = next(((size, unit) for size, unit in units if seconds >= 1.5 * size), (1, "s"))
    return (
        f"at least {seconds / size:.3g} {unit} and {cost.bytes / 2**30:.1f} GiB "
        f"({cost.operations / 1e12:.3g} TFLOP at {rate / 1e9:,.0f} GFLOP/s)"
    )


class _LargestOperation(TorchDispatchMode):  # type: ignore[no-untyped-call,unused-ignore]  # in some versions of PyTorch
    """Notes how many bytes the operation with the most has in its hands."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call,unused-ignore]  # in some versions of PyTorch
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)]
        storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
        self.bytes = max(self.bytes, sum(storages.values()))
        return out


def _without_numbers(card: ModelCard) -> tuple[OrdinalNetwork, FakeTensorMode]:
    """Return a network whose tensors have no storage but know their device, and the mode to run it in."""
    # Some of timm's networks compute with numbers while they are built, which fake tensors cannot.
    with torch.device("meta"):
        network = OrdinalNetwork(card)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        return network.to_empty(device="cpu"), mode


def _weights(network: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in network.parameters())


@contextmanager
def _autocast(precision: Precision) -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        yield
