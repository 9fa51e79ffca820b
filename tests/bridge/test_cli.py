from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from helpers.small_slides import small_model, small_slide

from bridge import __version__
from bridge.cli import cli


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bridge", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, **(env or {})},
        check=False,
    )


def test_version_is_the_packages() -> None:
    assert __version__ in run("--version").stdout


def test_help_names_every_command_without_loading_torch() -> None:
    done = run("--help", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0
    assert {"demo", "score", "serve", "status", "stop", "clear", "model", "doctor"} <= set(
        done.stdout.split()
    )
    assert "| torch" not in done.stderr and "| paquo" not in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion_is_offered(shell: str) -> None:
    done = run("--help", env={"_HEROHE_BRIDGE_COMPLETE": f"{shell}_source"})
    assert done.returncode == 0 and "herohe" in done.stdout.lower()


def test_score_without_model_or_server_is_wrong_usage(tmp_path: Path) -> None:
    done = run("score", str(tmp_path))
    assert done.returncode == 2 and "--model" in done.stderr


def test_an_unknown_command_is_wrong_usage() -> None:
    assert run("sore").returncode == 2


def test_an_error_is_one_sentence_with_its_remedy_and_no_traceback(tmp_path: Path) -> None:
    missing = tmp_path / "nothing.qpproj"
    done = run("score", str(missing), "--model", str(tmp_path / "no.safetensors"))
    assert done.returncode == 1
    assert "nothing.qpproj" in done.stderr and "Traceback" not in done.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = run("--debug", "score", str(tmp_path / "nothing.qpproj"), "--model", "no.safetensors")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_a_console_that_cannot_print_a_name_stops_nothing(tmp_path: Path) -> None:
    model = small_model(tmp_path / "m.safetensors")
    home = tmp_path / "home"
    home.mkdir()
    names = ["a.tif", "日本.tif", "\x1b[31mred.tif", "z.tif"]
    for name in names:
        small_slide(home / name)
        results = home / "herohe-bridge" / "geojson"
        results.mkdir(parents=True, exist_ok=True)
        own = {"run": "r", "options": {}, "metadata": {}}
        (results / f"{name}.her2-he.geojson").write_text(json.dumps({"her2-he": own, "features": []}))
    old = {"PYTHONIOENCODING": "cp1252"}
    planned = run("score", str(home), "--model", str(model), "--dry-run", env=old)
    assert planned.returncode == 0
    assert "4 of 4 slides would be scored" in planned.stdout
    assert "\\u65e5\\u672c.tif: " in planned.stdout
    assert "\\x1b[31mred.tif: " in planned.stdout
    assert "\x1b" not in planned.stdout
    cleared = run("clear", str(home), env=old)
    assert (cleared.returncode, "4 of 4 images cleared" in cleared.stdout) == (0, True)
    assert not any(results.iterdir())


def _options(command: click.Command, name: str = "") -> Iterator[tuple[str, click.Option]]:
    """Yield every option that is shown, of a command and those below it, with where it is."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            yield from _options(found, f"{name} {below}")
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            yield f"{name} {parameter.opts[-1]}".strip(), parameter


def test_every_option_says_what_it_is_in_whole_words() -> None:
    """A capital first, a full stop last (a default may follow it), and nothing that begins with "Of"."""
    bad = [
        f"{where}: {option.help}"
        for where, option in _options(cli)
        if not re.fullmatch(r"(?!Of |For |May )[^a-z].*\.(  \[(default|env): .*\])?", option.help or "")
    ]
    assert bad == []
