"""The pages say what is there: links lead somewhere, and every command and option that they name exists."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from bridge.cli import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "tests" / "benchmarks").glob("*.md")]
CODE = [
    path.relative_to(ROOT).as_posix()
    for folder in ("bridge", "herohe_model", "qupath_scripts", "tests")
    for path in (ROOT / folder).rglob("*.*")
]
PROGRAM = re.compile(r"(?:^|\s)(?:herohe-bridge|-m bridge)\s+(.*)")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


@pages
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            name, _, heading = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), link
            assert not heading or heading in _headings(target), link


@pages
def test_commands_and_options_that_a_page_shows_exist(page: Path) -> None:
    for line, words in _command_lines(page.read_text(encoding="utf-8")):
        command: click.Command = cli
        context = click.Context(command)
        while isinstance(command, click.Group) and words and re.fullmatch(r"[a-z]+", words[0]):
            found = command.get_command(context, words.pop(0))
            assert found is not None, line
            command = found
        known = {option for parameter in command.params for option in parameter.opts}
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given <= known | {"--help", "--version"}, line


@pages
def test_files_of_the_code_that_a_page_names_exist(page: Path) -> None:
    for name in re.findall(r"`([\w/]+\.(?:py|groovy))`", page.read_text(encoding="utf-8")):
        assert name == "NAME.py" or any(f"/{path}".endswith(f"/{name}") for path in CODE), name


def _headings(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as they are made of their words."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


def _command_lines(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield what is to be typed: in blocks of code, and between backticks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    for line in [*lines, *spans]:
        for part in line.split("&&"):
            found = PROGRAM.search(part)
            if found:
                words = shlex.split(re.sub(r"[|\[\]]|\.\.\.", " ", found[1]), comments=True)
                yield line, words
