"""``herohe-bridge model``: make, show and verify model files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.commands import model_option
from bridge.commands.compute_options import compute_options
from bridge.commands.model_import import import_
from bridge.commands.shared_models import get, list_models, publish
from herohe_model.model.compute import Compute

if TYPE_CHECKING:
    import torch

    from herohe_model.model.card import Head, ModelCard, TargetName
    from herohe_model.model.score import CompositeScore


@click.group("model")
def command() -> None:
    """Make, show and verify model files; publish them, and get those of others."""


for _shared in (import_, publish, get, list_models):
    command.add_command(_shared)


@command.command("new")
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--backbone", required=True, metavar="NAME", help="A timm architecture, such as resnet18.")
@click.option(
    "--head",
    type=click.Choice(["free", "ordered"]),
    default="ordered",
    show_default=True,
    help="Whether a higher step can never be likelier than a lower one, or each step is free.",
)
@click.option(
    "--target",
    type=click.Choice(["ihc", "ihc+ish"]),
    default="ihc+ish",
    show_default=True,
    help="Its steps: those of IHC, or these and whether a 2+ is amplified.",
)
@click.option(
    "--patch-px", type=click.IntRange(16, 4096), default=512, show_default=True, help="Side of a patch, px."
)
@click.option(
    "--mpp", type=click.FloatRange(0.01, 100), default=0.2425, show_default=True, help="µm per pixel."
)
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Decides the weights."
)
@click.option("--name", help="Stands in every result.  [default: made of backbone, target and seed]")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
def new(
    out: Path,
    backbone: str,
    head: Head,
    target: TargetName,
    patch_px: int,
    mpp: float,
    seed: int,
    name: str | None,
    force: bool,
) -> None:
    """Write a model with random weights to OUT, for trying things: it knows nothing of HER2.

    The same options give the same file.
    """
    from herohe_model.errors import OptionError
    from herohe_model.model.checkpoint import save_model
    from herohe_model.model.new_model import new_model

    if out.exists() and not force:
        raise OptionError(f"{out} exists already", "Name another file, or replace it with --force")
    card, state = new_model(
        backbone, head=head, target=target, patch_px=patch_px, mpp=mpp, seed=seed, name=name
    )
    sha256 = save_model(out, card, state)
    click.echo(f"Wrote {out} ({_parameters(state)} parameters, SHA-256 {sha256}).")
    click.echo("Its weights are random: it is for trying things, and what it says of a slide means nothing.")


@command.command("show")
@click.argument("file", type=model_option.model)
@click.option("--json", "as_json", is_flag=True, help="Print the card as JSON.")
def show(file: Path, as_json: bool) -> None:
    """Show the model card of FILE."""
    import msgspec

    from herohe_model.model.checkpoint import load_model
    from herohe_model.printable import printable

    card, state, sha256 = load_model(file)
    facts = {"file": str(file), "sha256": sha256, "parameters": _parameters(state)}
    fields = msgspec.to_builtins(card)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode({**facts, "card": fields})).decode())
        return
    rows = {**facts, **fields, "steps": ", ".join(card.steps)}
    width = max(map(len, rows))
    for key, value in rows.items():
        click.echo(f"{key.replace('_', ' '):<{width}}  {printable(_readable(value))}")


@command.command("verify")
@click.argument("file", type=model_option.model)
@compute_options
def verify(file: Path, compute: Compute) -> None:
    """Check that FILE is whole and scores as it must on this machine.

    A composite of noise is scored twice. The answers must be equal to the last bit, contributions add up to
    the logits, probabilities be in order and sum to 1; in bf16, or by another engine than PyTorch, they must
    be within 0.01 of PyTorch's in fp32. A bag model has to give its golden logits, and so has one that was
    published.
    """
    import numpy as np

    from bridge.console.log import log_shown
    from herohe_model.engines.scorer import Scorer
    from herohe_model.errors import ModelFileError
    from herohe_model.grades import bit_probabilities
    from herohe_model.model.checkpoint import load_model
    from herohe_model.publishing.golden import check_golden, noise_composite

    card, state, sha256 = load_model(file)
    if card.bag is not None:
        from herohe_model.model.bag_model import load_bag_model

        load_bag_model(file)
        click.echo(f"OK: {file} ({card.name}, SHA-256 {sha256}) gives its golden logits here.")
        return
    pixels = noise_composite(card.side_px)
    with (
        log_shown(lambda text: click.echo(text, err=True)),
        Scorer(card, state, compute, model_sha256=sha256, what=str(file)) as scorer,
    ):
        first, second = scorer.score([pixels, pixels])
        where = f"{scorer.info.device} in {scorer.info.precision} by {scorer.info.engine}"
        plain = scorer.info.precision == "fp32" and scorer.info.engine.startswith("torch")
    problems = _problems(card, first, second)
    if not plain:
        with Scorer(card, state, Compute(compute.device, "fp32", "torch"), what=str(file)) as scorer:
            exact = scorer.score([pixels])[0]
        q, q_exact = (bit_probabilities(s.logits, temperature=card.logit_unit) for s in (first, exact))
        apart = float(np.abs(q - q_exact).max())
        if apart > 0.01:
            problems.append(
                f"probabilities are {apart:.3f} from PyTorch's in fp32; "
                "use --precision fp32, or --engine torch"
            )
    if problems:
        raise ModelFileError(f"{file} does not score as it must on {where}: {'; '.join(problems)}")
    click.echo(f"OK: {file} ({card.name}, SHA-256 {sha256}) scores as it must on {where}.")
    if check_golden(file):
        click.echo("    It gives the golden logits that it was published with.")


def _problems(card: ModelCard, first: CompositeScore, second: CompositeScore) -> list[str]:
    import numpy as np

    from herohe_model.grades import bit_probabilities, level_probabilities

    problems = []
    if (
        first.logits.tobytes() != second.logits.tobytes()
        or first.contributions.tobytes() != second.contributions.tobytes()
    ):
        problems.append("the same composite scored differently the second time")
    gap = float(np.abs(first.contributions.sum(axis=0, dtype=np.float64) - first.logits).max())
    if not gap <= 1e-4:
        problems.append(f"contributions miss the logits by {gap:.2g}")
    q = bit_probabilities(first.logits, temperature=card.logit_unit)
    if not (np.diff(q) >= 0).all():
        problems.append("a higher step is likelier than a lower one")
    if not abs(float(level_probabilities(q).sum()) - 1.0) <= 1e-9:
        problems.append("probabilities of the grades do not sum to 1")
    if card.head == "ordered" and not (np.diff(first.logits) >= 0).all():
        problems.append("the ordered head's logits are not in order")
    return problems


def _parameters(state: dict[str, torch.Tensor]) -> int:
    """Count learned numbers: what is floating point, without the running statistics of normalisation."""
    statistics = ("running_mean", "running_var")
    return sum(
        math.prod(t.shape)
        for key, t in state.items()
        if t.is_floating_point() and not key.endswith(statistics)
    )


def _readable(value: object) -> str:
    import msgspec

    if isinstance(value, dict | list | tuple):
        return msgspec.json.encode(value).decode() if value else "none"
    return str(value) if value != "" else "none"
