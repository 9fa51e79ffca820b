"""What scores the slides of a command: a server, several, a cluster, or a server that is started for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from bridge.commands import model_option
from bridge.commands.cluster_options import Cluster

if TYPE_CHECKING:
    from bridge.batch.executor import SlideExecutor
    from bridge.console.batch_view import BatchView
    from herohe_model.model.compute import Compute
    from herohe_model.model.score import CompositeScorer

MODEL: Final = click.option(
    "--model", type=model_option.model, help="Model file (.safetensors), or a name of 'model list'."
)
SERVERS: Final = click.option(
    "--server",
    "servers",
    multiple=True,
    metavar="ENDPOINT",
    help="Use this running server instead of starting one; given more than once, composites are spread.",
)
SLIDES_ROOT: Final = click.option(
    "--slides-root", type=click.Path(path_type=Path), help="Look for moved slides here."
)
MPP_TABLE: Final = click.option(
    "--mpp-table",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A table (columns slide, mpp) with the µm per pixel of slides of a folder.",
)
LOG_JSON: Final = click.option(
    "--log-json",
    type=click.File("a", encoding="utf-8", lazy=False),
    help="Append the figures of the live view to this file as JSON lines.",
)
RESTART: Final = click.option(
    "--restart", is_flag=True, help="Score everything again, even what an earlier run finished."
)


def check_source(model: Path | None, servers: Sequence[str], cluster: Cluster | None) -> None:
    """Refuse options that name nothing to score with, or two things at once."""
    if model is None and not servers:
        raise click.UsageError("Name a model file with --model, or a running server with --server.")
    if cluster is not None and (servers or model is None):
        raise click.UsageError("--dask needs --model, and goes without --server.")


@contextmanager
def executing(
    model: Path | None,
    compute: Compute,
    *,
    servers: Sequence[str],
    cluster: Cluster | None,
    slides_at_once: int,
    view: BatchView,
    interrupted: Callable[[], bool],
    head_only: bool = False,
) -> Iterator[SlideExecutor]:
    """Reach what scores; one that has to be started is started when the first slide needs it.

    With `head_only`, a bag model scores features here, without its encoder.
    """
    from bridge.batch.executor import ThreadExecutor

    executor: SlideExecutor
    if head_only and model is not None:
        from bridge.scoring.features_on_disk import HeadScorer
        from herohe_model.model.bag_model import load_bag_model

        with ThreadExecutor(HeadScorer(load_bag_model(model)), slides_at_once) as executor:
            view.name_device(executor.info)
            yield executor
        return
    with ExitStack() as stack:
        if cluster is not None and model is not None:
            from bridge.cluster.executor import DaskExecutor

            executor = stack.enter_context(
                DaskExecutor(cluster.address, model, compute, slides=cluster.slides, cancelled=interrupted)
            )
            view.name_device(executor.info)
            yield executor
            return
        from bridge.batch.deferred_executor import DeferredExecutor
        from bridge.batch.last_scorer import last_scorer, remember_scorer
        from herohe_model.ending_signals import heard_at_once
        from herohe_model.model.card import read_card
        from herohe_model.model.score import ScoringModel

        def begin() -> ThreadExecutor:
            scorer = stack.enter_context(_scorer(model, compute, servers, interrupted))
            if not servers:
                remember_scorer(scorer.info, compute)
            return stack.enter_context(ThreadExecutor(view.measure(scorer), slides_at_once))

        if model is None or servers:
            with heard_at_once():
                executor = begin()
            yield executor
            return
        known = ScoringModel(*read_card(model))
        yield DeferredExecutor(begin, last_scorer(known, compute), known)


def _scorer(
    model: Path | None, compute: Compute, servers: Sequence[str], interrupted: Callable[[], bool]
) -> AbstractContextManager[CompositeScorer]:
    """Return the server or servers to score with, as a context."""
    if len(servers) > 1:
        from bridge.client.load_balancer import connect_servers

        return connect_servers(servers, model)
    from bridge.client.client import connect_or_start

    server = servers[0] if servers else None
    return connect_or_start(model, compute, server=server, cancelled=interrupted)
