"""Images that QuPath reads by other means than OpenSlide, against the real QuPath that paquo finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.qupath_projects import MadeProject
from helpers.small_slides import tissue_picture
from PIL import Image

from bridge.cli import cli
from bridge.projects.base import EntryContent
from bridge.projects.open import open_collection
from bridge.protocol.messages import ReadBox
from bridge.qupath.image_source import ImageSource
from bridge.qupath.jvm import start_qupath
from bridge.qupath.pixels import QuPathPixels
from bridge.results.files import read_json
from herohe_model.errors import SlideError
from herohe_model.slides.guarded_slide import GuardedSlide
from herohe_model.synthetic.slides import write_tiff

pytestmark = pytest.mark.qupath

IMAGEJ = "qupath.imagej.images.servers.ImageJServerBuilder"


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, [str(a) for a in arguments])
    return result.exit_code, f"{result.output}{result.exception or ''}"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A picture, which OpenSlide does not open and ImageJ reads for QuPath; a slide of the same pixels."""
    Image.fromarray(tissue_picture(512)).save(tmp_path / "picture.jpg", quality=97)
    with Image.open(tmp_path / "picture.jpg") as image:
        write_tiff(tmp_path / "slide.tif", np.asarray(image), mpp=0.5, quality=None)
    made = MadeProject(tmp_path / "project")
    java = made.qupath.java
    slide = made.add(tmp_path / "slide.tif")
    builders = java("qupath.lib.images.servers.ImageServerBuilder").DefaultImageServerBuilder
    uri = java("java.net.URI")((tmp_path / "picture.jpg").as_uri())
    picture = made.add_built(builders.createInstance(java(IMAGEJ).class_, uri), "picture.jpg")
    for painter in (slide, picture):
        painter.annotate(painter.rectangle(64, 64, 384, 384), "Tumor")
    return made.save()


def test_what_is_no_file_here_is_scored_by_qupaths_own_pixels(project: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.safetensors"
    assert run("model", "new", model, "--backbone", "test_resnet", "--patch-px", 32, "--mpp", 0.5)[0] == 0
    asked = ("--model", model, "--region-class", "Tumor", "--composites", 2, "--device", "cpu")
    options = (*asked, "--engine", "torch", "--mpp", 0.5)
    code, said = run("score", project, *options)
    assert code == 0 and "2 scored" in said, said
    found = {result.slide: result for result in read_json(project.parent / "herohe-bridge" / "results.json")}
    direct, picture = found["slide.tif"], found["picture.jpg"]
    assert direct.union is not None and picture.union is not None
    assert not any("came from QuPath" in warning for warning in direct.warnings)
    assert any("came from QuPath (ImageJ" in warning for warning in picture.warnings), picture.warnings
    # Decoders of JPEG may differ by a level or two.
    assert [(p.x, p.y) for p in picture.union.patches] == [(p.x, p.y) for p in direct.union.patches]
    assert picture.union.prediction is not None and direct.union.prediction is not None
    assert picture.union.prediction.p_positive == pytest.approx(direct.union.prediction.p_positive, abs=0.02)
    assert picture.provenance is not None and picture.provenance.slide_fingerprint.startswith("qupath-")

    # Written like any other, known the next time, and cleared.
    code, said = run("score", project, *options)
    assert code == 0 and "2 known before, 0 written back" in said, said
    code, said = run("score", project, "--dry-run", *options)
    assert code == 0 and "2 of 2 slides would be scored" in said, said
    opened = open_collection(project)
    counts = {entry.name: opened.written_objects(entry) for entry in opened.entries()}
    assert counts["picture.jpg"].tiles == counts["slide.tif"].tiles > 0
    assert run("clear", project)[0] == 0


def test_a_file_is_read_here_where_it_shows_what_qupath_does(project: Path, tmp_path: Path) -> None:
    other = np.roll(tissue_picture(512), 7, axis=1)
    write_tiff(tmp_path / "other.tif", other, mpp=0.5)
    write_tiff(tmp_path / "smaller.tif", other[:256], mpp=0.5)
    qupath = start_qupath()
    assert qupath.openslide
    (image,) = [i for i in qupath.open_project(project).images if i.image_name == "slide.tif"]
    pixels = QuPathPixels(qupath, image.java_object.getServerBuilder(), "slide.tif")
    alike = {}
    for name in ("slide", "other", "smaller"):
        with GuardedSlide(tmp_path / f"{name}.tif") as slide:
            alike[name] = pixels.are_those_of(slide)
    assert alike == {"slide": True, "other": False, "smaller": False}
    with pixels.opened() as fetch, GuardedSlide(tmp_path / "slide.tif") as slide:
        halved = fetch([ReadBox(128, 64, 256, 128, 128, 64)])[0]
        assert halved.shape == (64, 128, 3)
        mine = slide.read_box(128, 64, 256, 128, (128, 64))
        assert np.abs(halved.astype(int) - mine).mean() < 8


def test_a_reader_that_is_not_here_leaves_the_file_and_a_warning(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if Bio-Formats read it.
    monkeypatch.setattr(ImageSource, "by_openslide", property(lambda source: False))

    def read() -> EntryContent:
        opened = open_collection(project)
        return opened.read(next(entry for entry in opened.entries() if entry.name == "slide.tif"))

    compared = read()
    assert compared.pixels is None and compared.warnings == ()

    def refuse(*_: object) -> None:
        raise SlideError("QuPath cannot open slide.tif", "Install the reader")

    monkeypatch.setattr(QuPathPixels, "__init__", refuse)
    found = read()
    assert found.pixels is None and len(found.annotations) == 1
    assert "could not be asked" in found.warnings[0] and "cannot open slide.tif" in found.warnings[0]
