"""``herohe-bridge serve``: a model server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.commands import model_option
from bridge.commands.compute_options import worker_options
from herohe_model.model.compute import Compute

if TYPE_CHECKING:
    from bridge.transport.discovery import ServerRecord


@click.command("serve")
@click.option(
    "--model",
    required=True,
    type=model_option.model,
    help="Model file (.safetensors), or a name of 'model list'.",
)
@worker_options
@click.option(
    "--bind",
    "binds",
    multiple=True,
    metavar="ENDPOINT",
    help="Also listen here, such as tcp://0.0.0.0:5555; may be repeated. Addresses that other machines can "
    "reach need --key and --allow.",
)
@click.option(
    "--key", type=click.Path(path_type=Path), help="The server's .key_secret file ('herohe-bridge keys new')."
)
@click.option(
    "--allow", type=click.Path(path_type=Path), help="Folder of the .key files of clients that may come in."
)
@click.option(
    "--slides-root",
    "slides_roots",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Clients of other machines may name slides below this folder; may be repeated.",
)
@click.option("--allow-stop", is_flag=True, help="Clients of other machines may stop this server.")
@click.option(
    "--max-batch",
    type=click.IntRange(1, 16),
    default=4,
    show_default=True,
    help="Composites in a worker's hands.",
)
@click.option(
    "--max-wait-ms",
    type=click.FloatRange(0, 10_000),
    default=0.0,
    show_default=True,
    help="How long an idle worker waits for a batch to fill.",
)
@click.option(
    "--idle-timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="End after so long without a request.  [default: never]",
)
@click.option("--owned", is_flag=True, hidden=True, help="End with the standard input; report on the output.")
def command(
    model: Path,
    workers: tuple[Compute, ...],
    binds: tuple[str, ...],
    key: Path | None,
    allow: Path | None,
    slides_roots: tuple[Path, ...],
    allow_stop: bool,
    max_batch: int,
    max_wait_ms: float,
    idle_timeout: float | None,
    owned: bool,
) -> None:
    """Run a model server until Ctrl-C, 'herohe-bridge stop', or --idle-timeout.

    QuPath's scripts and 'herohe-bridge score' find it by themselves: it leaves its address in a file that
    only you can read. Research use only.
    """
    import logging

    from bridge.server.server import Server, ServerSettings
    from bridge.transport.curve import read_pair

    settings = ServerSettings(
        model=model,
        workers=workers,
        binds=binds,
        key=read_pair(key) if key is not None else None,
        allow=allow,
        slides_roots=slides_roots,
        allow_stop=allow_stop,
        max_batch=max_batch,
        max_wait_s=max_wait_ms / 1000,
        idle_timeout_s=idle_timeout,
        owned=owned,
    )
    server = Server(settings)
    if owned:
        _run_owned(server)
    else:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
        server.run(lambda record: click.echo("\n".join((*record.endpoints, *record.remote_endpoints))))


def _run_owned(server: object) -> None:
    """Run until the process that started this one ends; report to it, what is logged while it loads too."""
    import sys
    from contextlib import ExitStack

    from bridge.client.child_server import StartReport
    from bridge.console.log import log_shown
    from bridge.server.server import Server
    from herohe_model.child_process import when_parent_ends
    from herohe_model.errors import HeroheError

    def report(line: StartReport) -> None:
        sys.stdout.buffer.write(line.line())
        sys.stdout.buffer.flush()

    assert isinstance(server, Server)
    when_parent_ends(server.cut_off)
    loading = ExitStack()

    def ready(record: ServerRecord) -> None:
        loading.close()
        report(StartReport(ready=record))

    try:
        with loading:
            loading.enter_context(log_shown(lambda text: report(StartReport(note=text))))
            server.run(ready)
    except HeroheError as error:
        report(StartReport.of(error))
        sys.exit(1)
