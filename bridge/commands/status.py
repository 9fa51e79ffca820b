"""``herohe-bridge status``: the model servers that run, and what they are doing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bridge.protocol.messages import Info
    from bridge.transport.discovery import ServerRecord

_ANSWER_S = 5.0


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one array.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Show your running model servers.

    Exit code 0 when all of them answer, also when there is none; 1 otherwise.
    """
    import json

    import msgspec

    from bridge.transport.discovery import running_servers
    from bridge.transport.runtime_directory import runtime_directory
    from herohe_model.printable import printable

    found = [(record, *_ask(record)) for record in running_servers()]
    if as_json:
        rows = [_row(record, info, problem) for record, info, problem in found]
        click.echo(json.dumps(msgspec.to_builtins(rows), indent=2))
    elif not found:
        click.echo(f"No model server is running (looked in {runtime_directory()}).")
    else:
        for record, info, problem in found:
            click.echo(printable(_text(record, info, problem)))
    ctx.exit(int(any(problem for _, _, problem in found)))


def _ask(record: ServerRecord) -> tuple[Info | None, str]:
    """Return what a server says, or why it says nothing."""
    from bridge.client.address import ServerAddress, ask
    from bridge.protocol.codec import new_id
    from bridge.protocol.messages import Info, StatusRequest
    from herohe_model.errors import HeroheError

    try:
        reply = ask(ServerAddress.of(record), StatusRequest(id=new_id()), timeout_s=_ANSWER_S)
    except HeroheError as error:
        return None, str(error)
    return (reply, "") if isinstance(reply, Info) else (None, "It gave a strange answer.")


def _row(record: ServerRecord, info: Info | None, problem: str) -> dict[str, Any]:
    return {
        "pid": record.pid,
        "model": record.model_name,
        "model_path": record.model_path,
        "model_sha256": record.model_sha256,
        "device": record.device,
        "precision": record.precision,
        "engine": record.engine,
        "version": record.version,
        "protocol": record.protocol,
        "endpoints": [*record.endpoints, *record.remote_endpoints],
        "owned": record.owned,
        "problem": problem,
        "load": info.load if info is not None else None,
        "workers": info.workers if info is not None else [],
    }


def _text(record: ServerRecord, info: Info | None, problem: str) -> str:
    lines = [
        f"Process {record.pid}: {record.model_name} ({record.model_sha256[:12]})"
        + (", belongs to a running command" if record.owned else ""),
        f"  file       {record.model_path}",
        f"  device     {record.computes_on}",
        *(f"  listens on {endpoint}" for endpoint in record.endpoints),
        *(f"  listens on {endpoint} (CURVE)" for endpoint in record.remote_endpoints),
    ]
    if info is None:
        lines.append(f"  PROBLEM    {problem}")
        return "\n".join(lines)
    load = info.load
    lines.append(f"  up         {load.uptime_s:.0f} s; {load.scored} composites scored")
    lines.append(
        f"  now        {load.slides} slides, {load.in_work} composites in work, {load.queued} waiting"
    )
    lines += [
        f"  worker     {w.device}, {w.state}, process {w.pid}, {w.scored} scored, replaced {w.restarts} times"
        for w in info.workers
    ]
    return "\n".join(lines)
