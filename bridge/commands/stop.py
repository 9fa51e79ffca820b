"""``herohe-bridge stop``: end model servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bridge.transport.discovery import ServerRecord

_ANSWER_S = 5.0
_ENDING_S = 20.0
_LOOK_S = 0.1


@click.command("stop")
@click.argument("server", required=False)
@click.option("--finish", is_flag=True, help="Let them finish what they are doing.")
@click.pass_context
def command(ctx: click.Context, server: str | None, finish: bool) -> None:
    """Stop a model server, or all of yours.

    SERVER is a process number or an endpoint, as 'herohe-bridge status' shows them. Servers that belong to a
    running command end with it, and are left alone unless they are named. Exit code 1 if one could not be
    stopped, or the named one does not exist.
    """
    from bridge.transport.discovery import running_servers

    records = [
        record
        for record in running_servers()
        if (not record.owned if server is None else server in (str(record.pid), *record.endpoints))
    ]
    if not records:
        which = "model server" if server is None else f"server {server} of yours"
        click.echo(f"No {which} is running.")
        ctx.exit(int(server is not None))
    problems = [problem for record in records if (problem := _stop(record, finish))]
    for problem in problems:
        click.echo(problem, err=True)
    ctx.exit(int(bool(problems)))


def _stop(record: ServerRecord, finish: bool) -> str:
    """Stop one server; return what went wrong, or ""."""
    from bridge.client.address import ServerAddress, ask
    from bridge.protocol.codec import new_id
    from bridge.protocol.messages import Stop
    from herohe_model.errors import HeroheError

    name = f"Process {record.pid} ({record.model_name})"
    try:
        ask(ServerAddress.of(record), Stop(id=new_id(), finish=finish), timeout_s=_ANSWER_S)
    except HeroheError as error:
        return f"{name}: {error}"
    if not _ends(record, None if finish else _ENDING_S):
        return f"{name} has not ended within {_ENDING_S:.0f} s. End it with your system's means."
    click.echo(f"{name} has ended.")
    return ""


def _ends(record: ServerRecord, within_s: float | None) -> bool:
    """Wait until a server's process has ended; of processes that are no children, nothing tells."""
    import threading
    import time

    from bridge.transport.discovery import is_running

    until = time.monotonic() + within_s if within_s is not None else float("inf")
    pause = threading.Event()
    while is_running(record):
        if time.monotonic() > until:
            return False
        pause.wait(_LOOK_S)
    return True
