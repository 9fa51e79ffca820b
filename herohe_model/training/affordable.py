"""Whether a training is within what its machine can do, told before its first step."""

from __future__ import annotations

import msgspec
import torch

from herohe_model.errors import OptionError
from herohe_model.grades import Target
from herohe_model.model.card import ModelCard
from herohe_model.model.cost import SLOW_S, device_memory, in_words, operations_per_s, training_cost
from herohe_model.model.device import choose_precision
from herohe_model.model.machine import default_threads
from herohe_model.training.options import TrainOptions


def check_affordable(options: TrainOptions, device: torch.device, *, threads: int | None = None) -> str:
    """Return a warning where a composite takes long, "" otherwise.

    Parameters
    ----------
    threads
        Of a CPU; None for one a physical core.

    Raises
    ------
    OptionError
        If a forward and backward pass needs more memory than the device has.
    """
    precision = choose_precision(options.precision, device)
    card = ModelCard(
        name="cost",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        positive_step=Target(options.target).default_positive_step,
        **{name: getattr(options, name) for name in _SHARED},
    )
    cost = training_cost(
        card, precision, composites=options.micro_batch, checkpointed=options.checkpoint_gradients
    )
    rate = operations_per_s(device, precision, threads or default_threads())
    seconds = cost.operations / options.micro_batch / rate
    memory = device_memory(device)
    side, many = options.side_px, options.micro_batch
    what = f"{f'{many} composites' if many > 1 else 'a composite'} of {side} x {side} px"
    said = f"{options.backbone} in {precision} on {device}: training on {what} takes {in_words(cost, rate)}"
    if cost.bytes > memory:
        less = () if options.checkpoint_gradients else ("--checkpoint-gradients",)
        fewer = ("--micro-batch 1",) if many > 1 else ()
        raise OptionError(
            f"{said}, and there are {memory / 2**30:.1f} GiB",
            f"Use {', '.join((*fewer, *less, 'a smaller --patch-px'))}, another backbone or another machine",
        )
    if seconds < SLOW_S:
        return ""
    return f"{said}: an epoch of 100 slides at least {100 * seconds / 3600:.1f} h."


_SHARED = tuple(
    {field.name for field in msgspec.structs.fields(ModelCard)}
    & {field.name for field in msgspec.structs.fields(TrainOptions)}
)
