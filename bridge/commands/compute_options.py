"""Options that say what computes, of all commands that score."""

from __future__ import annotations

import click

from bridge.commands.option_groups import option_group
from herohe_model.model.compute import ENGINES, PRECISIONS, Compute

_DEVICES = "auto, cpu, cuda[:n] or mps"
_PRECISION = click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="auto",
    show_default=True,
    help="Numbers that it computes with; auto: bf16 where the hardware has it and agrees with fp32.",
)
_ENGINE = click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="auto",
    show_default=True,
    help="What computes; auto: on a CPU the fastest that agrees with PyTorch, measured once.",
)


def _compute(device: str, precision: str, engine: str) -> Compute:
    return Compute(device, precision, engine)


def _workers(devices: tuple[str, ...], precision: str, engine: str) -> tuple[Compute, ...]:
    return tuple(Compute(device, precision, engine) for device in devices)


compute_options = option_group(
    "compute",
    _compute,
    click.option("--device", default="auto", show_default=True, help=f"Where it computes: {_DEVICES}."),
    _PRECISION,
    _ENGINE,
)
"""Gives a command ``compute``, a :class:`~herohe_model.model.compute.Compute`."""

worker_options = option_group(
    "workers",
    _workers,
    click.option(
        "--device",
        "devices",
        multiple=True,
        default=("auto",),
        show_default="auto",
        help=f"Where it computes: {_DEVICES}; may be repeated, for a worker on each.",
    ),
    _PRECISION,
    _ENGINE,
)
"""Gives a command ``workers``, a :class:`~herohe_model.model.compute.Compute` for each device."""
