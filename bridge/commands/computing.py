"""Options that say what computes, of all commands that score."""

from __future__ import annotations

import click

from herohe_model.engines.names import ENGINES

precision_option = click.option(
    "--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", show_default=True
)

engine_option = click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="auto",
    show_default=True,
    help="What computes; auto: on a CPU the fastest that agrees with PyTorch, measured once.",
)
