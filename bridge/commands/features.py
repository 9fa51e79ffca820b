"""``herohe-bridge features``: features of patches, extracted here or made by other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.commands.batch_options import patch_options
from bridge.commands.compute_options import compute_options
from bridge.commands.encoder import TABLE, WEIGHTS
from bridge.commands.executing import MPP_TABLE

if TYPE_CHECKING:
    from bridge.batch.options import BatchOptions
    from herohe_model.model.compute import Compute


@click.group("features")
def command() -> None:
    """Extract features of patches, and check those that other tools made."""


@command.command("extract")
@click.argument("what", type=click.Path(path_type=Path))
@click.option("--encoder", required=True, metavar="NAME", help="One of `herohe-bridge encoder list`.")
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the files, one a slide; made when absent.",
)
@TABLE
@WEIGHTS
@patch_options
@click.option(
    "--patch-px",
    type=click.IntRange(8, 4096),
    help="Side of a patch, px at --patch-mpp.  [default: what the encoder sees]",
)
@click.option(
    "--patch-mpp",
    type=click.FloatRange(0.05, 20),
    help="Scale that patches are read at, µm per px.  [default: the encoder's]",
)
@compute_options
@MPP_TABLE
@click.option("--slides-root", type=click.Path(path_type=Path), help="Look for moved slides here.")
@click.option("--restart", is_flag=True, help="Replace files of an earlier run that were made otherwise.")
@click.pass_context
def extract(
    ctx: click.Context,
    what: Path,
    encoder: str,
    output: Path,
    table: Path | None,
    weights: Path | None,
    options: BatchOptions,
    patch_px: int | None,
    patch_mpp: float | None,
    compute: Compute,
    slides_root: Path | None,
    mpp_table: Path | None,
    restart: bool,
) -> None:
    """Extract the features of every foreground patch of WHAT, a QuPath project or a folder of slides.

    Each slide gets an HDF5 file in TRIDENT's layout, which TRIDENT, CLAM and Patho-Bench read; nothing is
    written into WHAT. A run that was stopped goes on when the same command is given again.
    """
    from rich.console import Console

    from bridge.console.extraction_view import ExtractionView
    from bridge.console.interrupt import until_interrupted
    from bridge.console.log import log_shown
    from bridge.extraction.run import extract_features
    from bridge.extraction.slide import ExtractionOptions
    from bridge.projects.open import open_collection
    from herohe_model.encoders.table import find_encoder
    from herohe_model.encoders.weights import load_weights
    from herohe_model.engines.embedder import Embedder
    from herohe_model.engines.remembered_encoders import remember_weights

    row = find_encoder(encoder, table)
    found = load_weights(row, weights)
    collection = open_collection(what, slides_root=slides_root, mpp_table=mpp_table)
    view = ExtractionView(Console(stderr=True))
    with (
        until_interrupted() as interrupted,
        log_shown(view.say),
        Embedder(found, compute) as embedder,
    ):
        # A bag model that learns from these features scores slides without being told where the weights are.
        remember_weights(found)
        info = embedder.info
        click.echo(f"{info.encoder.name} on {info.device} ({info.precision}, {info.engine})", err=True)
        with view:
            summary = extract_features(
                collection,
                embedder,
                ExtractionOptions(
                    batch=options,
                    patch_px=patch_px or row.input_px,
                    mpp=patch_mpp or row.mpp,
                ),
                output=output,
                listener=view,
                restart=restart,
                cancelled=interrupted,
            )
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(summary.outcomes.items()))
    click.echo(f"{counts or 'No slides'}; {summary.reused} known before.")
    if interrupted():
        click.echo("Stopped on request. Give the same command again to go on.")
    click.echo(f"Features: {output}")
    ctx.exit(summary.exit_code)


@command.command("check")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--encoder", metavar="NAME", help="Also check that they are of this encoder.")
@TABLE
@click.pass_context
def check(ctx: click.Context, folder: Path, encoder: str | None, table: Path | None) -> None:
    """Read every file of features in FOLDER, by TRIDENT, STAMP, CLAM or this program, and say what it holds.

    Exit code 1 if a file cannot be used, or the files do not go together.
    """
    from herohe_model.encoders.table import find_encoder
    from herohe_model.features.check import check_features, describe, misfits
    from herohe_model.printable import printable_name

    row = None if encoder is None else find_encoder(encoder, table)
    good, problems = [], []
    for file in check_features(folder):
        said = file.problem
        if file.facts is not None:
            good.append(file.facts)
            said = describe(file.facts)
            other = row is not None and (
                file.facts.encoder not in (None, row.name, *row.aliases)
                or (file.facts.count > 0 and file.facts.dimension != row.dimension)
            )
            if row is not None and other:
                problems.append(f"{file.name} is not of {row.name}, which has {row.dimension} numbers.")
        else:
            problems.append(said)
        click.echo(f"{printable_name(file.name)}: {said}")
    problems += misfits(good)
    patches = sum(facts.count for facts in good)
    click.echo(f"{len(good)} files can be used, with {patches} patches.")
    for problem in problems:
        click.echo(f"PROBLEM  {problem}")
    ctx.exit(int(bool(problems)))
