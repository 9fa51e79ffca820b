"""Open the report of a run in a real browser, headless, and look at it.

    pip install playwright axe-playwright-python
    python tests/benchmarks/report_browser.py REPORT.html DIR --browser chromium

Any page that ``herohe-bridge report`` wrote will do; ``report.py`` in this folder makes one of 400 slides.
DIR gets screenshots, light and dark, as colour-blind readers see them, and narrow. What is checked: the
time until the page can be used, and axe's rules for accessibility. What the page does is checked in
``tests/bridge/report/test_browser.py``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

GRAVE = ("serious", "critical")
DEFICIENCIES = ("deuteranopia", "protanopia", "tritanopia", "achromatopsia")


class Checks:
    """Says of each check whether it held, and remembers."""

    def __init__(self) -> None:
        self.failed = 0

    def that(self, what: str, held: bool, seen: object = "") -> None:
        self.failed += not held
        print(f"{'ok    ' if held else 'FAILED'} {what}{f': {seen}' if seen != '' else ''}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--browser", default="chromium", help="a Chromium")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    url = options.report.resolve().as_uri()
    checks = Checks()
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=_found(options.browser), args=["--no-sandbox"])
        print(f"Chromium {browser.version}; {options.report.stat().st_size / 1e6:.1f} MB")
        _opening(browser, url, options.folder, checks)
        for scheme in ("light", "dark"):
            _looks(browser, url, scheme, options.folder, checks)
        browser.close()
    print(f"{checks.failed} checks failed" if checks.failed else "all checks held")
    sys.exit(int(bool(checks.failed)))


def _found(browser: str) -> str:
    return shutil.which(browser) or browser


@contextmanager
def _opened(browser: Browser, url: str, *, scheme: str = "light", width: int = 1280) -> Iterator[Page]:
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(url)
    yield page
    context.close()


def _opening(browser: Browser, url: str, folder: Path, checks: Checks) -> None:
    """Time from navigation until the table can be sorted, and until all is there, in fresh profiles."""
    empty = folder / "empty.html"
    empty.write_text(
        "<!DOCTYPE html><title>empty</title><div id=table><button>x</button></div>", encoding="utf-8"
    )

    def once(where: str) -> tuple[float, float]:
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        page = context.new_page()
        began = time.perf_counter()
        page.goto(where, wait_until="commit")
        page.wait_for_function("() => document.querySelector('#table button')")
        page.evaluate("() => new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))")
        usable = time.perf_counter() - began
        page.wait_for_load_state("load")
        whole = time.perf_counter() - began
        context.close()
        return usable, whole

    nothing = min(once(empty.resolve().as_uri()) for _ in range(3))[0]
    usable, whole = zip(*(once(url) for _ in range(5)), strict=True)
    checks.that(
        "opens in under 2 seconds",
        sorted(usable)[2] < 2,
        f"can be used after {sorted(usable)[2]:.2f} s, all of it is there after {sorted(whole)[2]:.2f} s "
        f"(medians; an empty page takes {nothing:.2f} s)",
    )


def _open_scored(page: Page) -> None:
    """Open the slide of the middle P(positive), which has patches of both colours."""
    page.get_by_role("button", name="P(positive)", exact=True).click()
    scored = page.locator("#table tbody tr[data-outcome=scored] th a")
    scored.nth(scored.count() // 2).click()
    page.locator("#slide canvas").wait_for()
    page.wait_for_function(
        "() => Array.from(document.querySelectorAll('#slide img')).every((i) => i.complete)"
    )


def _looks(browser: Browser, url: str, scheme: str, folder: Path, checks: Checks) -> None:
    """Take screenshots and let axe judge."""
    with _opened(browser, url, scheme=scheme) as page:
        page.wait_for_timeout(300)
        page.screenshot(path=folder / f"list-{scheme}.png")
        page.locator("#slides").scroll_into_view_if_needed()
        page.screenshot(path=folder / f"table-{scheme}.png")
        _judge(page, f"table, {scheme}", checks)
        _open_scored(page)
        page.screenshot(path=folder / f"slide-{scheme}.png", full_page=True)
        _judge(page, f"slide, {scheme}", checks)
        if scheme == "light":
            session = page.context.new_cdp_session(page)
            for kind in DEFICIENCIES:
                session.send("Emulation.setEmulatedVisionDeficiency", {"type": kind})
                page.screenshot(path=folder / f"slide-{kind}.png")
    with _opened(browser, url, scheme=scheme, width=420) as page:
        page.screenshot(path=folder / f"narrow-{scheme}.png")
        wide = page.evaluate("() => document.documentElement.scrollWidth")
        checks.that(f"fits a narrow window, {scheme}", wide <= 420, f"{wide} px")
        _open_scored(page)
        page.screenshot(path=folder / f"narrow-slide-{scheme}.png", full_page=True)
        wide = page.evaluate("() => document.documentElement.scrollWidth")
        checks.that(f"a slide fits a narrow window, {scheme}", wide <= 420, f"{wide} px")


def _judge(page: Page, what: str, checks: Checks) -> None:
    response = Axe().run(page).response
    found, passed = response["violations"], len(response["passes"])
    for violation in found:
        where = violation["nodes"][0]["html"][:160]
        print(f"       {violation['impact']}: {violation['help']} ({len(violation['nodes'])}), as {where}")
    grave = [violation["id"] for violation in found if violation["impact"] in GRAVE]
    counts = f"{passed} rules passed, {len(found)} lesser findings"
    checks.that(f"axe finds nothing serious: {what}", passed > 0 and not grave, grave or counts)


if __name__ == "__main__":
    main()
