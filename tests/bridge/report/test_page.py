from __future__ import annotations

import base64
import io
import json
import re
import shlex
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from helpers.example_results import made_provenance, made_result
from helpers.small_slides import PATCH_PX
from PIL import Image

from bridge.commands.report import command, report_line
from bridge.report.cohort import Truth
from bridge.report.page import WrittenReport, write_report
from bridge.report.pictures import FINE, draw_pictures, telling_tiles
from bridge.report.slide import colour_scale, positive_step
from bridge.results.files import ResultFileError, write_json
from bridge.results.run import find_run
from bridge.results.schema import Outcome, SlideResult, Tile, tiles
from herohe_model.errors import OptionError, SlideNotFoundError
from herohe_model.pages.page import escape_json
from herohe_model.slides.slide import Slide

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)"> & \u2028 {{ 7 * 7 }}'
VOID = {"meta", "link", "img", "input", "br", "hr"}
RUN = "herohe-bridge"


class Page(HTMLParser):
    """Reads a page, and notices elements that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif self.open and self.open[-1] != "style":
            self.words.append(data)

    def values(self, tag: str, name: str) -> list[str]:
        return [value for t, n, value in self.attributes if (t, n) == (tag, name)]

    def data(self, id: str) -> dict[str, object]:
        (text,) = [text for attributes, text in self.scripts if attributes.get("id") == id]
        found: dict[str, object] = json.loads(text)
        return found

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def report(cohort: Path, **options: Any) -> tuple[WrittenReport, Page]:
    written = write_report(find_run(cohort), cohort / "report.html", **options)
    return written, Page(written.path.read_text(encoding="utf-8"))


def picture(uri: str) -> Image.Image:
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_every_slide_of_a_run_is_in_the_table_with_what_was_found(cohort: Path) -> None:
    written, page = report(cohort)
    assert written.slides == 3 and written.beside is None and written.without_pictures == ()
    results = list(find_run(cohort).slides())
    for result in results:
        assert result.slide in page.text
        if result.union is not None and result.union.prediction is not None:
            assert f"{result.union.prediction.p_positive:.3f}" in page.text
    assert [r.outcome for r in results] == [Outcome.SCORED, Outcome.SCORED, Outcome.UNREADABLE]
    assert results[2].message in page.text
    assert len(page.values("tr", "data-number")) == 3
    assert sum(src.startswith("data:image/jpeg") for src in page.values("img", "src")) == 2
    assert "Research use only" in page.text


def test_a_slides_details_hold_its_patches_composites_regions_and_provenance(cohort: Path) -> None:
    _, page = report(cohort)
    result = next(find_run(cohort).slides())
    assert result.union is not None and result.provenance is not None
    detail = msgspec.convert(page.data("detail-1"), dict)
    assert detail["name"] == result.slide and detail["steps"] == ["3+", ">=2+", ">=1+"]
    union, first, second = detail["regions"]
    assert union["label"] == "all 2 annotations"
    assert [r["label"] for r in (first, second)] == [f"{a.name} (Tumor)" for a in result.annotations]
    shown = tiles(result.union)
    assert union["tiles"]["x"] == [t.x for t in shown] and union["tiles"]["size"] == shown[0].size
    assert np.allclose(union["tiles"]["contributions"], [t.contributions for t in shown], atol=5e-5)
    assert len(union["composites"]) == len(detail["composites"]) == 3
    assert len(union["composites"][0]["cells"]) == 25
    highest, lowest = telling_tiles(shown, detail["step"], 6)
    assert [i for i, _ in detail["speaking_for"]] == highest
    assert [i for i, _ in detail["speaking_against"]] == lowest
    assert dict(map(tuple, detail["provenance"]))["Model's SHA-256"] == result.provenance.model_sha256
    assert detail["bounds"] == {"x": 0, "y": 0, "width": 512, "height": 512}
    # Outlines are linked with the regions that were scored for themselves.
    assert [o["region"] for o in detail["outlines"]] == [1, 2]
    assert [o["label"] for o in detail["outlines"]] == [first["label"], second["label"]]
    corners = detail["outlines"][0]["rings"][0]
    assert {*corners[::2]} == {64, 256} and {*corners[1::2]} == {64, 384}


def test_pictures_show_the_pixels_of_the_slide(cohort: Path) -> None:
    _, page = report(cohort)
    detail = msgspec.convert(page.data("detail-1"), dict)
    size = detail["regions"][0]["tiles"]["size"]
    index, source = detail["speaking_for"][0]
    x, y = (detail["regions"][0]["tiles"][axis][index] for axis in "xy")
    with Slide(cohort / "case-0.tif") as slide:
        there = slide.read_box(x, y, size, size, (size, size)).astype(float)
    seen = np.asarray(picture(source), dtype=float)
    assert seen.shape == there.shape == (PATCH_PX, PATCH_PX, 3)
    assert np.abs(seen - there).mean() < 12
    assert picture(detail["composites"][0]).size == (5 * PATCH_PX, 5 * PATCH_PX)
    overview = picture(detail["layers"][0]["source"])
    assert overview.size == (512, 512)


def test_the_same_run_gives_the_same_bytes(cohort: Path) -> None:
    first = report(cohort, threads=1)[0].path.read_bytes()
    assert report(cohort, threads=3)[0].path.read_bytes() == first


def test_names_are_shown_and_never_run(tmp_path: Path) -> None:
    (tmp_path / RUN).mkdir()
    result = msgspec.structs.replace(
        made_result(), slide=HOSTILE, message=HOSTILE, warnings=(HOSTILE,), path=HOSTILE
    )
    write_json(tmp_path / RUN / "results.json", [result])
    _, page = report(tmp_path)
    assert " ".join(HOSTILE.split()) in page.text
    assert page.data("detail-1")["name"] == HOSTILE
    assert [a.get("type") for a, _ in page.scripts].count("application/json") == 2
    assert not [value for _, name, value in page.attributes if name.startswith("on")]
    shipped = [text for attributes, text in page.scripts if not attributes]
    assert len(page.scripts) == 5 and not any("alert" in text for text in shipped)


def test_the_page_runs_only_its_own_scripts_and_asks_no_host(cohort: Path) -> None:
    written, page = report(cohort)
    (policy,) = [v for t, n, v in page.attributes if (t, n) == ("meta", "content") and "default-src" in v]
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in policy and policy.count("sha256-") == 5
    text = re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", "", written.path.read_text(encoding="utf-8"))
    addresses = set(re.findall(r"""(?:https?:)?//[a-z][^\s"'<>)]*""", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    assert all(v.startswith(("data:", "#")) for t, n, v in page.attributes if n in ("src", "href"))
    assert not [a for a in page.attributes if a[1] == "style"]


def test_json_in_a_page_ends_no_script() -> None:
    value = {"</script><!--": "a & b\u2028\u2029"}
    text = escape_json(json.dumps(value, ensure_ascii=False))
    assert not set("<>&\u2028\u2029") & set(text) and json.loads(text) == value


def test_a_large_run_lies_beside_its_page(cohort: Path) -> None:
    inside, _ = report(cohort)
    written, page = report(cohort, limit=inside.path.stat().st_size // 2)
    assert written.beside == cohort / "report-slides"
    assert sorted(f.name for f in written.beside.iterdir()) == ["1.js", "2.js", "3.js"]
    assert page.data("run")["beside"] == "report-slides"
    assert page.values("img", "src")[0].startswith("data:")
    script = (written.beside / "1.js").read_text(encoding="utf-8")
    assert json.loads(script.removeprefix('heroheSlide("1", ').removesuffix(");\n"))["name"] == "case-0.tif"

    written, page = report(cohort, limit=1)
    assert written.beside is not None and "report-slides/1.jpg" in page.values("img", "src")
    with Image.open(written.beside / "1.jpg") as thumbnail:
        assert thumbnail.format == "JPEG"

    written, _ = report(cohort)
    assert written.beside is None and not (cohort / "report-slides").exists()
    assert sorted(f.name for f in cohort.glob(".report*")) == []


def test_a_folder_that_no_report_wrote_is_left_alone(cohort: Path) -> None:
    (cohort / "report-slides").mkdir()
    (cohort / "report-slides" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ResultFileError, match=r"notes\.txt"):
        report(cohort)
    assert (cohort / "report-slides" / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert not (cohort / "report.html").exists()


def test_a_slide_that_is_gone_is_shown_without_pictures_and_says_so(cohort: Path) -> None:
    (cohort / "case-1.tif").unlink()
    written, page = report(cohort)
    ((name, reason),) = written.without_pictures
    assert name == "case-1.tif" and "--slides-root" in reason
    assert f"Pictures are missing of 1 of 3 slides, such as case-1.tif: {reason}" in page.text
    detail = msgspec.convert(page.data("detail-2"), dict)
    assert detail["layers"] == [] and detail["problem"] == reason
    # The heat map still has its patches, on the area that they cover.
    assert detail["bounds"]["width"] > 0 and detail["regions"][0]["tiles"]["x"]


def test_moved_slides_are_found_below_the_root_and_other_slides_of_their_name_are_not_taken(
    cohort: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved" / "batch 1"
    moved.mkdir(parents=True)
    result = next(find_run(cohort).slides())
    (cohort / "case-0.tif").rename(moved / "case-0.tif")
    with find_run(cohort, slides_root=moved).open_slide(result) as slide:
        assert slide.path == moved / "case-0.tif"
    shutil.copy(cohort / "case-1.tif", cohort / "case-0.tif")
    with pytest.raises(SlideNotFoundError, match="is not the slide that was scored"):
        find_run(cohort).open_slide(result)


@pytest.mark.parametrize("output", ["results", "herohe-bridge", "../somewhere/else"])
def test_a_run_kept_elsewhere_finds_its_slides_after_both_were_moved_together(
    scored: Path, tmp_path: Path, output: str
) -> None:
    slides, before, after = tmp_path / "a" / "slides", tmp_path / "a", tmp_path / "b"
    shutil.copytree(scored, slides)
    results = list(find_run(scored).slides())
    folder = (slides / output).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", results, collection=slides)
    before.rename(after)
    run = find_run(after / folder.relative_to(before))
    assert write_report(run, tmp_path / "report.html").without_pictures == ()
    assert run.title == "slides"


def test_slides_outside_of_what_was_scored_are_found_after_all_was_moved_together(
    scored: Path, tmp_path: Path
) -> None:
    # As the demo's: a project, its results and its slides side by side, paths of slides absolute.
    home = tmp_path / "moved" / "demo"
    shutil.copytree(scored, home / "slides" / "held-out")
    (home / "results").mkdir()
    result = next(find_run(scored).slides())
    result = msgspec.structs.replace(result, path="/home/anna/demo/slides/held-out/case-0.tif")
    write_json(home / "results" / "results.json", [result], collection=home / "project")
    with find_run(home / "results").open_slide(result) as slide:
        assert slide.path == home / "slides" / "held-out" / "case-0.tif"


def test_paths_of_another_machine_are_followed_by_ever_fewer_folders(cohort: Path, tmp_path: Path) -> None:
    result = next(find_run(cohort).slides())
    run = find_run(cohort, slides_root=tmp_path)
    for recorded in (r"D:\scans\cohort\case-0.tif", "/mnt/scans/cohort/case-0.tif"):
        with run.open_slide(msgspec.structs.replace(result, path=recorded)) as slide:
            assert slide.path == cohort / "case-0.tif"


def test_agreement_with_ihc_counts_what_the_truth_file_knows(cohort: Path) -> None:
    graded = {r.slide: r.union.prediction for r in find_run(cohort).slides() if r.union is not None}
    prediction = graded["case-0.tif"]
    assert prediction is not None
    other = "3+" if prediction.grade != "3+" else "0"
    truth = cohort / "truth.csv"
    truth.write_text(f"case;ihc\ncase-0;{prediction.grade}\ncase-1;{other}\nnobody;0\n", encoding="utf-8")
    _, page = report(cohort, truth=Truth(truth))
    assert "The truth file knows 2 of 3 slides; 2 have both an IHC grade and a scored one" in page.text
    assert page.values("tr", "data-agreement") == ["agrees", "differs", "unknown"]
    assert "Quadratic-weighted kappa" in page.text
    # The same figures as those of herohe-bridge evaluate.
    evaluation = Truth(truth).evaluate(find_run(cohort))
    assert f"{evaluation.measure('grade_accuracy').value:.3f}" in page.text


def test_a_case_of_two_splits_needs_to_be_told_apart(tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    truth.write_text("case,ihc,split\n1,0,train\n1,3,test\n", encoding="utf-8")
    with pytest.raises(OptionError, match="--split"):
        Truth(truth)
    case = Truth(truth, "test").of(msgspec.structs.replace(made_result(), path="a/1.mrxs"))
    assert case is not None and case.ihc == "3+"


def test_the_positive_step_is_found_in_the_probabilities() -> None:
    result = made_result()
    assert result.union is not None and result.union.prediction is not None
    assert positive_step(result) == 1
    prediction = msgspec.structs.replace(result.union.prediction, p_positive=0.2)
    union = msgspec.structs.replace(result.union, prediction=prediction)
    assert positive_step(msgspec.structs.replace(result, union=union)) == 0
    four = msgspec.structs.replace(made_provenance(), target="ihc+ish")
    assert positive_step(msgspec.structs.replace(result, union=None, provenance=four)) == 1


def test_nothing_is_said_to_speak_for_a_step_that_speaks_against_it() -> None:
    shares = (-0.3, 0.2, -0.1, 0.1, -0.2)
    shown = [Tile(32 * i, 0, 32, 0.5, (share,)) for i, share in enumerate(shares)]
    assert telling_tiles(shown, 0, 6) == ([1, 3], [0, 4])
    # Where all speak against it, those that do so least are shown.
    assert telling_tiles([shown[0], shown[2], shown[4]], 0, 1) == ([1], [0])


def test_noise_of_a_model_that_knows_nothing_stays_pale() -> None:
    noise = np.linspace(-1e-4, 1e-4, 50, dtype=np.float32)
    assert colour_scale(noise, cells=25) == 1 / 25
    assert colour_scale(1e4 * noise, cells=25) == pytest.approx(0.98, abs=0.03)


def test_few_patches_are_not_shown_on_both_sides(cohort: Path) -> None:
    shown = [Tile(64 + 32 * i, 64, 32, 0.5, (0.1 * i,)) for i in range(3)] + [Tile(0, 0, 32, 0.1, None)]
    with Slide(cohort / "case-0.tif") as slide:
        pictures = draw_pictures(slide, None, shown, 0, FINE)
    assert [i for i, _ in pictures.speaking_for] == [2, 1]
    assert [i for i, _ in pictures.speaking_against] == [0]
    # What was sampled is a strip: it gets a close-up.
    assert len(pictures.layers) == 2 and pictures.layers[1].box.width < 512


def test_a_run_without_scored_slides_still_gives_a_page(tmp_path: Path) -> None:
    (tmp_path / RUN).mkdir()
    write_json(tmp_path / RUN / "results.json", [SlideResult("1", "a", "a", Outcome.FAILED, "It broke.")])
    _, page = report(tmp_path)
    assert "It broke." in page.text
    write_json(tmp_path / RUN / "results.json", [])
    written, _ = report(tmp_path)
    assert written.slides == 0


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "cannot be read as results"),
        ('{"format":"other","version":1,"slides":[\n]}', "holds 'other'"),
        ('{"format":"herohe-bridge results","version":1,"slides":[\n', "cut short"),
        ('{"format":"herohe-bridge results","version":1,"slides":[\n{"entry":', "cannot be read as results"),
    ],
)
def test_what_is_not_a_run_is_named(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(ResultFileError, match=re.escape(str(tmp_path))):
        find_run(tmp_path)
    (tmp_path / "results.json").write_text(text, encoding="utf-8")
    with pytest.raises(ResultFileError, match=match):
        list(find_run(tmp_path).slides())


def test_results_that_were_laid_out_anew_are_read_alike(cohort: Path) -> None:
    run = find_run(cohort)
    before = list(run.slides())
    run.results.write_text(json.dumps(json.loads(run.results.read_bytes()), indent=1), encoding="utf-8")
    assert list(run.slides()) == before


def test_the_command_writes_into_the_run_and_warns_of_missing_pictures(cohort: Path) -> None:
    (cohort / "case-1.tif").unlink()
    done = CliRunner().invoke(command, [str(cohort), "--title", "Thursday's"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "<h1>Thursday&#39;s</h1>" in (cohort / RUN / "report.html").read_text(encoding="utf-8")
    assert f"Report of 3 slides: {cohort / RUN / 'report.html'}" in done.output
    assert "Warning: pictures of case-1.tif are missing." in done.output
    assert (cohort / RUN / "report.html").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows quotes otherwise")
def test_the_command_that_score_names_is_one_that_a_shell_takes(tmp_path: Path) -> None:
    folder = tmp_path / "it's a run"
    assert shlex.split(report_line(folder, "--split", "test")) == [
        *("herohe-bridge", "report", str(folder), "--split", "test", "--open")
    ]


@pytest.mark.slide
def test_a_real_slide_is_shown(real_slide: Path, tmp_path: Path) -> None:
    with Slide(real_slide) as slide:
        shown = [Tile(900, 800 + 224 * i, 224, 0.4, (0.1 * i,)) for i in range(8)]
        pictures = draw_pictures(slide, None, shown, 0, FINE)
    assert pictures.problem == "" and pictures.thumbnail is not None
    assert max(pictures.size) == FINE.thumbnail
    assert np.asarray(Image.open(io.BytesIO(pictures.speaking_for[0][1]))).std() > 10
