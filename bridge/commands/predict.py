"""``herohe-bridge predict``: a folder of slides in, the challenge's submission file out."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from bridge.commands.batch_options import read_only_batch_options
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
from herohe_model.model.compute import Compute

if TYPE_CHECKING:
    from bridge.batch.options import BatchOptions
    from herohe_model.dataset.submission import HardSpelling


@click.command("predict")
@click.argument("slides", required=False, type=click.Path(path_type=Path))
@MODEL
@click.option(
    "--features",
    type=click.Path(path_type=Path, file_okay=False),
    help="Predict from the features in this folder, by a bag model, without reading slides.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("submission.csv"),
    show_default=True,
    help="The file to write.",
)
@read_only_batch_options
@compute_options
@SERVERS
@cluster_options
@SLIDES_ROOT
@MPP_TABLE
@LOG_JSON
@RESTART
@click.option(
    "--misspelt-header", is_flag=True, help="Write hard_preditction, as the challenge's own files have it."
)
@click.pass_context
def command(
    ctx: click.Context,
    slides: Path | None,
    model: Path | None,
    features: Path | None,
    output: Path,
    options: BatchOptions,
    compute: Compute,
    servers: tuple[str, ...],
    cluster: Cluster | None,
    slides_root: Path | None,
    mpp_table: Path | None,
    log_json: IO[str] | None,
    restart: bool,
    misspelt_header: bool,
) -> None:
    """Predict the HER2 status of SLIDES, a folder or a QuPath project, into a submission file.

    The file has a line a slide, caseID,soft_prediction,hard_prediction, as the HEROHE challenge asked. The
    figures are those of score with the same options; nothing is written into SLIDES. A folder beside the
    file keeps results.json, for evaluate and report, and lets a run that was stopped go on when the same
    command is given again. A slide without a prediction is named, and the exit code is then 1. Research use
    only.

    With --features DIR and without SLIDES, a bag model (see train --features) predicts each file of features
    that TRIDENT, STAMP, CLAM or herohe-bridge features extract wrote, all patches of it.
    """
    if (slides is None) == (features is None):
        raise click.UsageError("Name either SLIDES or --features DIR.")
    spelling: HardSpelling = "hard_preditction" if misspelt_header else "hard_prediction"
    if features is not None:
        if model is None:
            raise click.UsageError("--features needs --model.")
        ctx.exit(_predict_features(features, model, output, spelling))
    assert slides is not None
    from rich.console import Console

    from bridge.batch.predict import predict_slides, results_folder
    from bridge.console.batch_view import BatchView
    from bridge.console.interrupt import until_interrupted
    from bridge.console.log import log_shown
    from bridge.projects.open import open_collection
    from bridge.results.manifest import check_free
    from bridge.results.schema import RESEARCH_USE_ONLY

    check_source(model, servers, cluster)
    check_free(results_folder(output))
    collection = open_collection(slides, slides_root=slides_root, mpp_table=mpp_table)
    for warning in collection.warnings:
        click.echo(f"Warning: {warning}", err=True)
    view = BatchView(Console(stderr=True), log_json)
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
        ) as executor,
        view,
    ):
        predictions, summary = predict_slides(
            collection,
            executor,
            options,
            submission=output,
            spelling=spelling,
            listener=view,
            restart=restart,
            cancelled=interrupted,
        )
    for name, reason in predictions.not_scored:
        click.echo(f"{name}: {reason}", err=True)
    found, missing = len(predictions.case_ids), len(predictions.not_scored)
    click.echo(f"{found} of {found + missing} slides predicted: {output}")
    click.echo(f"Results: {results_folder(output) / 'results.json'}")
    click.echo(RESEARCH_USE_ONLY)
    for sentence in (*summary.unmatched_regions, *summary.unmatched_exclusions):
        click.echo(sentence, err=True)
    # A slide with too little tissue counts too: the challenge wants a line for each.
    ctx.exit(int(bool(missing) or bool(summary.exit_code)))


def _predict_features(features: Path, model: Path, output: Path, spelling: HardSpelling) -> int:
    """Write the submission of a folder of features; return the exit code."""
    import numpy as np
    from rich.console import Console

    from bridge.console.interrupt import until_interrupted
    from bridge.console.log import log_shown
    from bridge.console.training_view import TrainingView
    from bridge.results.schema import RESEARCH_USE_ONLY
    from herohe_model.bag.predict import predict_features
    from herohe_model.dataset.submission import DECIMALS, Submission, write_submission
    from herohe_model.features.find import find_features
    from herohe_model.model.bag_model import load_bag_model

    bags = load_bag_model(model)
    files = find_features(features)
    with until_interrupted() as interrupted, TrainingView(Console(stderr=True)) as view, log_shown(view.say):
        view.begin("predicting", len(files), "slides")
        found, missing = predict_features(bags, files, progress=view.advance, stop=interrupted)
    p_positive = np.array([round(p.p_positive, DECIMALS) for p in found])
    called = p_positive >= bags.card.decision_threshold
    write_submission(output, Submission(tuple(p.name for p in found), p_positive, called), spelling=spelling)
    for name, reason in missing:
        click.echo(f"{name}: {reason}", err=True)
    click.echo(f"{len(found)} of {len(files)} slides predicted: {output}")
    click.echo(f"Model: {bags.card.name}, SHA-256 {bags.sha256}")
    click.echo(RESEARCH_USE_ONLY)
    return int(bool(missing))
