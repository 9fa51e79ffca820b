"""Open the report of a run in a real browser, headless, and use it as a reader would.

    pip install playwright axe-playwright-python
    python tests/benchmarks/report_browser.py REPORT.html DIR --browser chromium

Any page that ``herohe-bridge report`` wrote will do; ``report.py`` in this folder makes one of 400 slides.
DIR gets screenshots, light and dark, as colour-blind readers see them, narrow, and the pages in print. What
is checked: nothing is asked of the network, the console stays silent, the time until the page can be used,
sorting, filtering, opening a slide, the heat map by mouse, wheel and keys, going from slide to slide by keys,
printing, and axe's rules for accessibility.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

GRAVE = ("serious", "critical")
DEFICIENCIES = ("deuteranopia", "protanopia", "tritanopia", "achromatopsia")


class Checks:
    """Says of each check whether it held, and remembers."""

    def __init__(self) -> None:
        self.failed = 0

    def that(self, what: str, held: bool, seen: object = "") -> None:
        self.failed += not held
        print(f"{'ok    ' if held else 'FAILED'} {what}{f': {seen}' if seen != '' else ''}", flush=True)


class Watch:
    """What a page asked for and complained of."""

    def __init__(self, page: Page) -> None:
        self.asked: list[str] = []
        self.said: list[str] = []
        page.on("request", self._request)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        page.on("requestfailed", lambda request: self.said.append(f"not loaded: {request.url[:100]}"))

    def _request(self, request: Request) -> None:
        if not request.url.startswith("data:"):
            self.asked.append(request.url)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.said.append(f"{message.type}: {message.text[:200]}")


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
        for step in (_table, _slide, _keys, _print):
            with _opened(browser, url) as (page, watch):
                step(page, checks, options.folder)
                _quiet(watch, url, checks, step.__name__.strip("_"))
        for scheme in ("light", "dark"):
            _looks(browser, url, scheme, options.folder, checks)
        browser.close()
    print(f"{checks.failed} checks failed" if checks.failed else "all checks held")
    sys.exit(int(bool(checks.failed)))


def _found(browser: str) -> str:
    return shutil.which(browser) or browser


@contextmanager
def _opened(
    browser: Browser, url: str, *, scheme: str = "light", width: int = 1280
) -> Iterator[tuple[Page, Watch]]:
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    )
    page = context.new_page()
    watch = Watch(page)
    page.goto(url)
    yield page, watch
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


def _quiet(watch: Watch, url: str, checks: Checks, what: str) -> None:
    beside = url.rsplit(".", 1)[0] + "-slides/"
    other = [asked for asked in watch.asked if asked.split("#")[0] != url and not asked.startswith(beside)]
    checks.that(f"{what}: asks nothing of the network", not other, other[:3] or "")
    checks.that(f"{what}: the console is silent", not watch.said, watch.said[:3] or "")


def _column(page: Page, heading: str) -> list[str]:
    """Return the values of a column of the rows that are shown."""
    found: list[str] = page.evaluate(
        """(heading) => {
          const table = document.getElementById("table");
          const heads = Array.from(table.tHead.rows[0].cells, (c) => c.textContent.trim());
          const at = heads.indexOf(heading);
          return Array.from(table.tBodies[0].rows).filter((r) => !r.hidden)
            .map((r) => r.cells[at].dataset.value || "");
        }""",
        heading,
    )
    return found


def _table(page: Page, checks: Checks, folder: Path) -> None:
    count = len(_column(page, "Slide"))
    checks.that("shows its slides", count > 0, count)
    if count > 500:
        laid_out = page.locator("#table tbody tr:visible")
        first = laid_out.count()
        page.locator("#more").click()
        checks.that("shows a long table in steps", (first, laid_out.count()) == (500, min(1000, count)))
    for heading, read in (("P(positive)", float), ("Grade", str)):
        page.get_by_role("button", name=heading, exact=True).click()
        up = [read(v) for v in _column(page, heading) if v]
        page.get_by_role("button", name=heading, exact=True).click()
        down = [read(v) for v in _column(page, heading) if v]
        checks.that(f"sorts by {heading}, up and down", up == sorted(up) and down == sorted(up)[::-1])
        empty = _column(page, heading)[len(down) :]
        checks.that(f"what has no {heading} stands last", not any(empty))
    page.locator("#filter-grade").select_option("3+")
    grades = set(_column(page, "Grade"))
    checks.that("filters by grade", grades == {"3+"}, page.locator("#shown").inner_text())
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function("(n) => document.getElementById('shown').textContent === `${n} slides`", arg=count)
    first = _column(page, "Slide")[0]
    page.get_by_label("Search").fill(first)
    names = _column(page, "Slide")
    checks.that("finds a slide by its name", first in names and len(names) < max(2, count), len(names))
    page.get_by_label("Search").fill("no such slide anywhere")
    checks.that("says so when nothing fits", page.locator("#shown").inner_text().startswith("0 of"))
    page.get_by_role("button", name="Show all").click()
    page.locator("#table tbody img").first.click()
    page.locator("#slide h1").wait_for()
    checks.that("a slide's picture opens it, too", page.url.rsplit("#", 1)[-1].startswith("slide-"))


def _open_scored(page: Page) -> None:
    """Open the slide of the middle P(positive), which has patches of both colours."""
    page.get_by_role("button", name="P(positive)", exact=True).click()
    scored = page.locator("#table tbody tr[data-outcome=scored] th a")
    scored.nth(scored.count() // 2).click()
    page.locator("#slide canvas").wait_for()
    page.wait_for_function(
        "() => Array.from(document.querySelectorAll('#slide img')).every((i) => i.complete)"
    )


_PICTURE = """() => {
  const c = document.querySelector("#slide canvas");
  return c.toDataURL("image/png").length + ":" + c.toDataURL("image/png").slice(-4000);
}"""


def _changes(page: Page, act: Callable[[], object]) -> bool:
    before = page.evaluate(_PICTURE)
    act()
    page.evaluate("() => new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))")
    return bool(page.evaluate(_PICTURE) != before)


def _slide(page: Page, checks: Checks, folder: Path) -> None:
    _open_scored(page)
    canvas = page.locator("#slide canvas")
    box = canvas.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def drag() -> None:
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 90, y + 40, steps=4)
        page.mouse.up()

    def wheel() -> None:
        page.mouse.move(x, y)
        page.mouse.wheel(0, -240)
        page.wait_for_timeout(100)

    checks.that("+ zooms", _changes(page, page.get_by_role("button", name="Zoom in").click))
    checks.that("dragging moves it", _changes(page, drag))
    canvas.focus()
    checks.that("the wheel zooms it when focused", _changes(page, wheel))
    checks.that("an arrow key moves it", _changes(page, lambda: page.keyboard.press("ArrowLeft")))
    checks.that("0 shows the whole slide", _changes(page, lambda: page.keyboard.press("0")))
    step = page.locator("#map-step")
    checks.that("another step colours it otherwise", _changes(page, lambda: step.select_option(index=0)))
    alpha, dots = page.locator("#map-alpha"), page.locator("#map-dots")
    checks.that("opacity changes it", _changes(page, lambda: alpha.fill("20")))
    page.get_by_role("button", name="Zoom in").click()
    checks.that("red patches can have a dot", _changes(page, dots.check))
    telling = page.locator("#slide .pictures button")
    checks.that("shows telling patches", telling.count() > 1, telling.count())
    checks.that("a telling patch is shown on the slide", _changes(page, telling.first.click))
    composites = page.locator("#slide .composite img")
    drawn = composites.evaluate_all("(found) => found.every((i) => i.naturalWidth > 0)")
    checks.that("shows composites", composites.count() > 0 and drawn, composites.count())
    page.mouse.move(x + 5, y + 5)
    words = page.locator("#slide").inner_text()
    checks.that("says where the result comes from", "SHA-256" in words and "Seed" in words)


def _keys(page: Page, checks: Checks, folder: Path) -> None:
    """From the table to a slide, to the next and back, without a mouse."""
    page.locator("#table tbody tr:not([hidden]) th a").first.focus()
    names = _column(page, "Slide")
    page.keyboard.press("Enter")
    page.locator("#slide h1").wait_for()
    checks.that("Enter opens a slide", page.locator("#slide h1").inner_text() == names[0])
    page.keyboard.press("ArrowRight")
    page.wait_for_function("(n) => document.querySelector('#slide h1')?.textContent === n", arg=names[1])
    checks.that("the right arrow goes to the next", page.locator("#slide h1").inner_text() == names[1])
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("(n) => document.querySelector('#slide h1')?.textContent === n", arg=names[0])
    page.keyboard.press("Escape")
    page.locator("#list").wait_for()
    focused = page.evaluate("() => document.activeElement.textContent")
    checks.that("Esc goes back, to the slide's row", focused == names[0], focused)
    seen = set()
    # From the start of the page.
    page.locator("h1").first.click()
    for _ in range(18):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("() => document.activeElement.tagName"))
    checks.that("Tab reaches filters, headings and slides", {"INPUT", "SELECT", "BUTTON", "A"} <= seen, seen)


def _print(page: Page, checks: Checks, folder: Path) -> None:
    page.pdf(path=folder / "print-list.pdf", format="A4", print_background=False)
    _open_scored(page)
    page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
    page.pdf(path=folder / "print-slide.pdf", format="A4", print_background=False)
    sizes = [(folder / f"print-{name}.pdf").stat().st_size for name in ("list", "slide")]
    checks.that("prints", min(sizes) > 10_000, f"{sizes[0] / 1e6:.1f} and {sizes[1] / 1e6:.1f} MB")


def _looks(browser: Browser, url: str, scheme: str, folder: Path, checks: Checks) -> None:
    """Take screenshots and let axe judge."""
    with _opened(browser, url, scheme=scheme) as (page, _):
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
    with _opened(browser, url, scheme=scheme, width=420) as (page, _):
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
