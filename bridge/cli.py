"""The command line: binds the commands of :mod:`bridge.commands` and catches errors, once.

Commands are imported when they are named, so ``--help`` and shell completion stay quick.
"""

from __future__ import annotations

import importlib
import io
import signal
import sys
import threading
from types import FrameType
from typing import Final, cast

import click

from bridge import __version__
from herohe_model.errors import ALLOW, HeroheError, OptionError, os_problem
from herohe_model.model.machine import wait_passively
from herohe_model.printable import printable

_COMMANDS: Final = {
    "demo": "Run the whole system on synthetic slides.",
    "score": "Score a QuPath project, or a folder of slides.",
    "clear": "Remove what score wrote.",
    "report": "Make one page of a run to look through.",
    "export": "Write a run's results for other tools.",
    "qupath": "Put the scripts into QuPath, or take them out.",
    "serve": "Run a model server.",
    "status": "Show running model servers.",
    "stop": "Stop running model servers.",
    "keys": "Make CURVE keys for remote servers.",
    "model": "Make, show and verify model files.",
    "encoder": "Show, fetch and verify the networks that turn patches into features.",
    "slides": "Make slides of pictures.",
    "features": "Extract features of patches, and check those that other tools made.",
    "cohort": "Prepare and check public cohorts.",
    "regions": "Propose regions where nobody drew.",
    "train": "Train a model on labelled slides.",
    "predict": "Score a folder of slides into a submission file.",
    "evaluate": "Say how good predictions are, beside the trivial answers.",
    "bundle": "Gather all that an installation without a network needs.",
    "doctor": "Say what is installed, and what to do about what is not.",
}


class _LazyGroup(click.Group):
    """A group whose commands live in modules that are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"bridge.commands.{cmd_name}")
        return cast(click.Command, module.command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="herohe-bridge")
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """HER2 status from H&E slides, inside QuPath. Research use only."""
    ctx.obj = {"debug": debug}


def main() -> None:
    """Run the command line; exit codes: 0 all well, 1 something failed, 2 wrong usage."""
    # Some commands compute, others start processes that do.
    wait_passively()
    interrupted = _note_interrupts()
    debug = "--debug" in sys.argv[1:]
    for stream in (sys.stdout, sys.stderr):
        # A name that the console's code page has no letters for is shown by their numbers.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = cli.main(prog_name="herohe-bridge", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Stopped.", err=True)
        code = 1
    except HeroheError as error:
        if debug:
            raise
        click.echo(f"Error: {error}", err=True)
        code = 2 if isinstance(error, OptionError) else 1
    except OSError as error:
        if debug:
            raise
        click.echo(f"Error: {HeroheError(os_problem(error), ALLOW)}", err=True)
        code = 1
    except Exception as error:
        if debug:
            raise
        if interrupted.is_set():
            click.echo("Stopped.", err=True)
            sys.exit(1)
        click.echo(f"Unexpected {type(error).__name__}: {printable(str(error))}", err=True)
        click.echo("Run it again as 'herohe-bridge --debug ...' for a traceback to report.", err=True)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _note_interrupts() -> threading.Event:
    """Return what is set by Ctrl-C: libraries that it stops while they load raise errors of their own."""
    seen = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        seen.set()
        signal.default_int_handler(number, frame)

    # One that is ignored stays so: a shell without job control starts commands in the background like that.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, handle)
    return seen
