"""What a report does when it is used, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from helpers.chromium import Chromium, find_chromium
from helpers.example_results import made_result

from bridge.report.page import write_report
from bridge.results.files import write_json
from bridge.results.run import find_run

pytestmark = pytest.mark.browser

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)"> {{ 7 * 7 }}'
PIXELS = "document.querySelector('#slide canvas').toDataURL()"
DRAWN = "Array.from(document.querySelectorAll('#slide img')).every((i) => i.complete && i.naturalWidth)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = find_chromium()
    assert program is not None
    chromium = Chromium(program, tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


@pytest.fixture(scope="module")
def page(scored: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(find_run(scored), tmp_path_factory.mktemp("report") / "report.html").path


@pytest.fixture
def opened(browser: Chromium, page: Path) -> Iterator[Chromium]:
    """The report, which must not have complained, or asked for anything but itself, when the test ends."""
    browser.window(1280)
    browser.open(page)
    yield browser
    assert browser.said == []
    assert {asked.partition("#")[0] for asked in browser.asked} == {page.as_uri()}


def names(browser: Chromium) -> list[str]:
    found: list[str] = browser.run(
        "Array.from(document.querySelectorAll('#table tbody tr:not([hidden]) th a'), (a) => a.textContent)"
    )
    return found


def open_slide(browser: Chromium, number: int) -> None:
    browser.run(f"document.querySelector('tr[data-number=\"{number}\"] th a').click()")
    browser.until(f"document.querySelector('#slide canvas') && {DRAWN}")


def test_the_table_is_sorted_and_filtered(opened: Chromium) -> None:
    assert names(opened) == ["case-0.tif", "case-1.tif", "case-2.tif"]
    heading = "Array.from(document.querySelectorAll('#table th button'))[3]"
    assert opened.run(f"{heading}.textContent") == "P(positive)"
    p = "Array.from(document.querySelectorAll('#table tbody tr'), (r) => r.cells[4].dataset.value || '')"
    opened.run(f"{heading}.click()")
    up = opened.run(p)
    opened.run(f"{heading}.click()")
    down = opened.run(p)
    # What has no value stands last, either way.
    assert up[:2] == sorted(up[:2], key=float) and down[:2] == up[1::-1] and up[2] == down[2] == ""
    opened.run(
        "{ const s = document.getElementById('filter-outcome'); s.value = 'unreadable';"
        " s.dispatchEvent(new Event('input', { bubbles: true })); }"
    )
    assert names(opened) == ["case-2.tif"]
    assert opened.run("document.getElementById('shown').textContent") == "1 of 3 slides"


def test_slides_are_opened_and_left_by_keys(opened: Chromium) -> None:
    title = "document.querySelector('#slide h1')?.textContent"
    opened.run("document.querySelector('#table tbody th a').focus()")
    opened.key("Enter")
    opened.until(f"{title} === 'case-0.tif'")
    opened.key("ArrowRight")
    opened.until(f"{title} === 'case-1.tif'")
    opened.key("ArrowLeft")
    opened.until(f"{title} === 'case-0.tif'")
    opened.key("Escape")
    opened.until("!document.getElementById('list').hidden")
    assert opened.run("document.activeElement.textContent") == "case-0.tif"


def test_the_picture_fills_its_frame_and_answers_to_mouse_and_names(opened: Chromium) -> None:
    open_slide(opened, 1)
    opened.run("document.querySelector('#slide canvas').scrollIntoView({ block: 'center' })")
    box = opened.run("(({ x, y, width, height }) => [x, y, width, height])"
                     "(document.querySelector('#slide canvas').getBoundingClientRect())")  # fmt: skip
    x, y, width, height = box
    assert width == pytest.approx(height, rel=0.01)
    # The slide's corner is the frame's, and no white of the frame is left at any side.
    corners = opened.run("(() => { const c = document.querySelector('#slide canvas');"
                         " const at = (x, y) => map.place(x, y).map(Math.round);"
                         " return [at(0, 0), at(c.clientWidth, c.clientHeight)]; })()")  # fmt: skip
    assert corners == [[0, 0], [512, 512]]
    seen = {opened.run(PIXELS)}
    # Slide (160, 200) lies in both annotations and in a patch.
    opened.mouse("mouseMoved", x + width * 160 / 512, y + height * 200 / 512)
    readout = "document.querySelector('.map output').textContent"
    opened.until(f"{readout}.startsWith('Patch at') && {readout}.includes('(Tumor)')")
    seen.add(opened.run(PIXELS))
    opened.mouse("mouseMoved", 1, 1)
    name = "document.querySelectorAll('.outlines button')"
    assert opened.run(f"Array.from({name}, (b) => b.textContent).every((t) => t.endsWith('(Tumor)'))")
    opened.run(f"{name}[1].click()")
    seen.add(opened.run(PIXELS))
    opened.run("document.querySelector('button[aria-label=\"Show the whole slide\"]').click()")
    opened.run(
        "{ const a = document.getElementById('map-alpha'); a.value = 0;"
        " a.dispatchEvent(new Event('input')); }"
    )
    seen.add(opened.run(PIXELS))
    assert len(seen) == 4


def test_a_single_slide_is_shown_at_once(browser: Chromium, scored: Path, tmp_path: Path) -> None:
    result = next(find_run(scored).slides())
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run" / "results.json", [result], collection=scored)
    browser.window(1280)
    browser.open(write_report(find_run(tmp_path / "run"), tmp_path / "report.html").path)
    browser.until(f"document.querySelector('#slide canvas') && {DRAWN}")
    assert browser.said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_in_a_narrow_window(opened: Chromium, scheme: str) -> None:
    opened.window(400, scheme=scheme)
    assert opened.run("document.documentElement.scrollWidth") <= 400
    open_slide(opened, 1)
    assert opened.run("document.documentElement.scrollWidth") <= 400
    light = opened.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] > 128")
    assert light is (scheme == "light")


def test_details_beside_the_page_are_loaded_when_they_are_needed(
    browser: Chromium, scored: Path, tmp_path: Path
) -> None:
    browser.window(1280)
    browser.open(write_report(find_run(scored), tmp_path / "report.html", limit=1).path)
    assert not any(asked.endswith(".js") for asked in browser.asked)
    open_slide(browser, 2)
    assert browser.said == [] and any(asked.endswith("report-slides/2.js") for asked in browser.asked)
    (tmp_path / "report-slides" / "1.js").unlink()
    browser.run("document.querySelector('tr[data-number=\"1\"] th a').click()")
    browser.until("document.querySelector('#slide .warning')?.textContent.includes('does not lie beside')")


def test_what_a_slide_is_called_is_never_run(browser: Chromium, tmp_path: Path) -> None:
    results = [
        msgspec.structs.replace(made_result(number), slide=HOSTILE, message=HOSTILE, path=HOSTILE)
        for number in ("1", "2")
    ]
    write_json(tmp_path / "results.json", results)
    written = write_report(find_run(tmp_path), tmp_path / "report.html", title=HOSTILE)
    browser.open(written.path, "#slide-1")
    browser.until("document.querySelector('#slide .slide-facts')")
    assert browser.said == []
    assert browser.run("document.querySelector('#slide h1').textContent") == HOSTILE


def test_it_prints(opened: Chromium) -> None:
    open_slide(opened, 1)
    assert opened.pdf().startswith(b"%PDF")
