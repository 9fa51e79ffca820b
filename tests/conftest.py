"""Fixtures of all tests, and the sentences that say whether a real QuPath and a real browser took part."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.chromium import find_chromium

# As every process of ours that computes; test modules may import torch first.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # As in a script's background; every process begun here would ignore Ctrl-C too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

_REAL_SLIDE = Path(__file__).resolve().parents[2] / "shared" / "data" / "CMU-1-Small-Region.svs"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is measured here out of the user's cache, and what is there out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEROHE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def real_slide() -> Path:
    """The developers' real slide, which the project does not ship."""
    if not _REAL_SLIDE.is_file():
        pytest.skip("the real slide of the developers' shared folder is not here")
    return _REAL_SLIDE


def _qupath_directory() -> Path | None:
    """Where paquo finds QuPath with the settings at hand, without starting it."""
    from paquo._config import settings, to_kwargs
    from paquo.jpype_backend import find_qupath

    try:
        return find_qupath(**to_kwargs(settings)).app_dir.parents[1]
    except (ValueError, FileNotFoundError):
        return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what needs QuPath where paquo finds none, and what needs a browser where there is none."""
    if find_chromium() is None:
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(pytest.mark.skip(reason="there is no Chromium on this machine"))
    marked = [item for item in items if item.get_closest_marker("qupath")]
    directory = _qupath_directory() if marked else None
    config.stash[_FOUND] = directory
    if directory is None:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="paquo finds no QuPath on this machine"))


_FOUND = pytest.StashKey[Path | None]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say in plain words whether the tests that need QuPath, or a browser, ran."""
    directory, browser = config.stash.get(_FOUND, None), find_chromium()
    for marker, name, found, missing in (
        ("qupath", "QuPath", f"the real QuPath at {directory}", "paquo finds no QuPath here"),
        ("browser", "Browser", f"the real {browser}", "there is no Chromium here"),
    ):
        ran = skipped = 0
        for outcome, reports in terminalreporter.stats.items():
            for report in reports:
                if marker in getattr(report, "keywords", {}) and isinstance(report, pytest.TestReport):
                    ran += outcome in ("passed", "failed") and report.when == "call"
                    skipped += outcome == "skipped"
        if ran:
            terminalreporter.write_line(f"{name}: {ran} tests ran against {found}.")
        if skipped:
            terminalreporter.write_line(f"{name}: {skipped} tests did NOT run: {missing}.")
