"""``herohe-bridge score``: a QuPath project, or a folder of slides, from annotations to results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from bridge.commands.batch_options import batch_options
from bridge.commands.cluster_options import Cluster, cluster_options
from bridge.commands.compute_options import compute_options
from bridge.commands.executing import (
    LOG_JSON,
    MODEL,
    MPP_TABLE,
    RESTART,
    SERVERS,
    SLIDES_ROOT,
    check_source,
    executing,
)
from bridge.commands.report import report_line

if TYPE_CHECKING:
    from bridge.batch.options import BatchOptions
    from bridge.batch.run import BatchSummary
    from bridge.projects.base import Collection
    from herohe_model.model.compute import Compute


@click.command("score")
@click.argument("project", type=click.Path(path_type=Path))
@MODEL
@batch_options
@compute_options
@SERVERS
@cluster_options
@SLIDES_ROOT
@MPP_TABLE
@LOG_JSON
@click.option(
    "--features",
    type=click.Path(path_type=Path, file_okay=False),
    help="Score the features in this folder by a bag model, instead of the slides' pixels.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be scored; change no byte.")
@RESTART
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder of results.csv, results.json and the manifest.  [default: PROJECT/herohe-bridge]",
)
@click.pass_context
def command(
    ctx: click.Context,
    project: Path,
    model: Path | None,
    options: BatchOptions,
    compute: Compute,
    servers: tuple[str, ...],
    cluster: Cluster | None,
    slides_root: Path | None,
    mpp_table: Path | None,
    log_json: IO[str] | None,
    features: Path | None,
    dry_run: bool,
    restart: bool,
    output: Path | None,
) -> None:
    """Score the slides of PROJECT and write the results back into it.

    PROJECT is a QuPath project (its folder or .qpproj file), which must not be open in QuPath, or a folder of
    slides, each with an optional GeoJSON of annotations beside it. A run that was stopped goes on when the
    same command is given again. Research use only.

    With --features DIR, a bag model scores files of features, one a slide, that TRIDENT, STAMP or
    herohe-bridge features extract wrote: those of their patches that lie in the regions. Of a slide, nothing
    but its size, scale and fingerprint is read.
    """
    from bridge.projects.open import open_collection

    check_source(model, servers, cluster)
    if features is not None:
        if servers or cluster is not None or dry_run:
            raise click.UsageError("--features are scored here: leave out --server, --dask and --dry-run.")
        options = _by_features(options, features)
    collection = open_collection(project, slides_root=slides_root, output=output, mpp_table=mpp_table)
    for warning in collection.warnings:
        click.echo(f"Warning: {warning}", err=True)
    if dry_run:
        ctx.exit(_plan(collection, model, options))
    folder = output or collection.root / "herohe-bridge"
    summary = score_collection(
        collection,
        model,
        compute,
        servers=servers,
        cluster=cluster,
        options=options,
        output=folder,
        restart=restart,
        log=log_json,
    )
    if summary.outcomes:
        click.echo(f"To look through the results: {report_line(folder)}")
    ctx.exit(summary.exit_code)


def _by_features(options: BatchOptions, folder: Path) -> BatchOptions:
    """Return options to score features, of which no artefact can be seen."""
    from dataclasses import replace

    import msgspec

    from herohe_model.features.find import find_features

    return replace(
        options,
        features=find_features(folder),
        score=msgspec.structs.replace(options.score, artefacts="ignore"),
    )


def _plan(collection: Collection, model: Path | None, options: BatchOptions) -> int:
    """Print what a run would do."""
    from bridge.annotations.unmatched_classes import ClassTally
    from bridge.batch.entry import unmatched_classes
    from bridge.batch.plan import plan_batch
    from herohe_model.model.card import read_card

    if model is None:
        raise click.UsageError("--dry-run needs --model: its card says how patches are cut.")
    card, _ = read_card(model)
    planned = list(plan_batch(collection, card, options))
    for slide in planned:
        counts = f"{slide.patches_foreground} foreground of {slide.patches_covered} covered patches"
        click.echo(f"{slide.slide}: {slide.problem or counts}")
    bad = sum(bool(slide.problem) for slide in planned)
    click.echo(f"{len(planned) - bad} of {len(planned)} slides would be scored. Nothing was changed.")
    tally = ClassTally()
    for slide in planned:
        if slide.classes is not None:
            tally.add(slide.classes)
    unmatched, left = unmatched_classes(tally, options)
    for sentence in (*unmatched, *left):
        click.echo(sentence, err=True)
    return int(bool(unmatched))


def score_collection(
    collection: Collection,
    model: Path | None,
    compute: Compute,
    *,
    servers: Sequence[str] = (),
    cluster: Cluster | None = None,
    options: BatchOptions,
    output: Path,
    restart: bool = False,
    log: IO[str] | None = None,
) -> BatchSummary:
    """Find or start a server, or reach the cluster; run the batch, and say how it ended."""
    from rich.console import Console

    from bridge.batch.run import run_batch_on
    from bridge.console.batch_view import BatchView
    from bridge.console.interrupt import until_interrupted
    from bridge.console.log import log_shown
    from bridge.results.manifest import check_free
    from bridge.results.schema import RESEARCH_USE_ONLY

    check_free(output)
    view = BatchView(Console(stderr=True), log)
    with (
        until_interrupted() as interrupted,
        log_shown(view.say),
        executing(
            model,
            compute,
            servers=servers,
            cluster=cluster,
            slides_at_once=options.slides_at_once,
            view=view,
            interrupted=interrupted,
            head_only=options.features is not None,
        ) as executor,
        view,
    ):
        summary = run_batch_on(
            executor,
            collection,
            options,
            output=output,
            listener=view,
            restart=restart,
            cancelled=interrupted,
        )
    counts = ", ".join(f"{count} {outcome.value}" for outcome, count in sorted(summary.outcomes.items()))
    click.echo(f"{counts or 'No slides'}; {summary.reused} known before, {summary.written} written back.")
    if interrupted():
        click.echo("Stopped on request. Give the same command again to go on.")
    click.echo(f"Results: {output / 'results.csv'}")
    click.echo(RESEARCH_USE_ONLY)
    for sentence in (*summary.unmatched_regions, *summary.unmatched_exclusions):
        click.echo(sentence, err=True)
    return summary
