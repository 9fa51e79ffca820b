from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shapely.geometry import Point

from bridge.annotations.transform import SlideTransform
from bridge.qupath.image_source import SlideFinder, frame_of, parse_builder, users_mpp, view_of
from herohe_model.errors import ProjectError, SlideError, SlideNotFoundError
from herohe_model.slides.slide import Slide
from herohe_model.slides.source import Box
from herohe_model.slides.view import SlideView
from herohe_model.synthetic.slides import write_mirax

OPENSLIDE = "qupath.lib.images.servers.openslide.OpenslideServerBuilder"


def builder(*arguments: str, size: tuple[int, int] | None = None, mpp: float | None = None) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    if size is not None:
        metadata |= {"width": size[0], "height": size[1]}
    if mpp is not None:
        side = {"value": mpp, "unit": "µm"}
        metadata["pixelCalibration"] = {"pixelWidth": side, "pixelHeight": side}
    return {
        "builderType": "uri",
        "providerClassName": OPENSLIDE,
        "uri": "file:/slides/a.mrxs",
        "args": list(arguments),
        "metadata": metadata,
    }


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slide]:
    """512 × 256 px scanned, at (256, 768) of 1024 × 1280 px."""
    path = tmp_path_factory.mktemp("slide") / "a.mrxs"
    write_mirax(
        path, np.full((256, 512, 3), 200, dtype=np.uint8), mpp=0.5, origin=(256, 768), canvas=(1024, 1280)
    )
    with Slide(path) as opened:
        yield opened


def transform(slide: Slide, of: dict[str, Any]) -> SlideTransform:
    return frame_of(parse_builder(of, "case 1"), slide, "case 1")


def test_qupath_crops_to_the_bounds_unless_told_not_to(slide: Slide) -> None:
    assert transform(slide, builder()) == SlideTransform.at(256, 768, 512, 256)
    assert transform(slide, builder("--no-crop")) == SlideTransform.at(0, 0, 1024, 1280)


def test_other_readers_do_not_crop(slide: Slide) -> None:
    other = builder() | {"providerClassName": "qupath.lib.images.servers.bioformats.BioFormatsServerBuilder"}
    assert transform(slide, other) == SlideTransform.at(0, 0, 1024, 1280)
    with pytest.raises(SlideError, match="case 1 is image 2 of several"):
        transform(slide, other | {"args": ["--series", "2"]})


def test_turned_and_cropped_images_are_followed_back(slide: Slide) -> None:
    turned = {"builderType": "rotated", "rotation": "ROTATE_90", "builder": builder(), "metadata": {}}
    part = {
        "builderType": "cropped",
        "region": {"x": 10, "y": 20, "width": 30, "height": 40},
        "builder": turned,
    }
    found = transform(slide, {"builderType": "pyramidize", "builder": part})
    assert (found.width, found.height) == (30, 40)
    corner = found.to_slide(Point(0, 0))
    assert (corner.x, corner.y) == (256 + 20, 768 + 256 - 10)


def test_a_flipped_image_is_followed_back_and_background_changes_nothing(slide: Slide) -> None:
    file = builder("--background-color", "#ffffff")
    flipped = {"builderType": "flipped", "flip": "HORIZONTAL", "builder": file, "metadata": {}}
    corner = transform(slide, flipped).to_slide(Point(10, 20))
    assert (corner.x, corner.y) == (256 + 512 - 10, 768 + 20)
    assert transform(slide, flipped | {"flip": "NONE"}) == transform(slide, builder())
    with pytest.raises(SlideError, match="kind 'flipped'"):
        transform(slide, flipped | {"flip": "DIAGONAL"})


def test_what_is_shown_is_a_part_and_its_colours_where_the_project_says_so(slide: Slide) -> None:
    def view(of: dict[str, Any]) -> SlideView:
        source = parse_builder(of, "case 1")
        return view_of(source, frame_of(source, slide, "case 1"), "case 1")

    assert view(builder()) == view(builder("--no-crop")) == SlideView()
    assert view(builder("--icc-profile")) == SlideView(icc=True)
    region = {"x": 10, "y": 20, "width": 30, "height": 40}
    cropped = {"builderType": "cropped", "region": region, "builder": builder()}
    assert view(cropped) == SlideView(part=Box(266, 788, 30, 40))
    with pytest.raises(SlideError, match=r"profile of its own.*from inside QuPath"):
        view(builder("--icc-profile", "--icc-profile-source", "a.icc"))


def test_a_size_that_does_not_fit_is_refused(slide: Slide) -> None:
    assert transform(slide, builder(size=(512, 256))).width == 512
    with pytest.raises(SlideError, match=r"shows case 1 with 1024 x 1280 px.*512 x 256 px"):
        transform(slide, builder(size=(1024, 1280)))


@pytest.mark.parametrize(
    "damaged",
    [
        {"builderType": "rotated", "rotation": "ROTATE_90"},
        {"builderType": "cropped", "region": {"x": "a"}, "builder": builder()},
        {"builderType": "uri", "metadata": {"width": 1e999, "height": 2}},
    ],
)
def test_a_builder_that_is_none_is_refused(damaged: dict[str, Any]) -> None:
    with pytest.raises(SlideError, match="case 1 cannot be understood"):
        parse_builder(damaged, "case 1")


def test_an_image_made_of_several_is_refused() -> None:
    with pytest.raises(SlideError, match="kind 'channels'"):
        parse_builder({"builderType": "channels", "channels": []}, "case 1")


def test_a_pixel_size_set_in_qupath_counts_when_it_differs(slide: Slide) -> None:
    assert users_mpp(parse_builder(builder(), ""), slide) is None
    assert users_mpp(parse_builder(builder(mpp=0.5), ""), slide) is None
    assert users_mpp(parse_builder(builder(mpp=0.25), ""), slide) == 0.25
    assert users_mpp(parse_builder(builder(mpp=352.8), ""), slide) is None


def test_a_calibration_in_pixels_is_none() -> None:
    uncalibrated = builder()
    side = {"value": 1.0, "unit": "px"}
    uncalibrated["metadata"]["pixelCalibration"] = {"pixelWidth": side, "pixelHeight": side}
    assert parse_builder(uncalibrated, "").mpp is None


def uri(path: Path) -> str:
    return path.as_uri().replace("file://", "file:")


def test_a_slide_is_found_where_the_project_says(tmp_path: Path) -> None:
    path = tmp_path / "Fälle 1" / "a b.svs"
    path.parent.mkdir()
    path.touch()
    finder = SlideFinder(tmp_path / "project.qpproj", None, None)
    assert finder.find(uri(path), "case 1") == path


def test_a_project_moved_with_its_slides_finds_them(tmp_path: Path) -> None:
    slide = tmp_path / "new" / "slides" / "a.svs"
    slide.parent.mkdir(parents=True)
    slide.touch()
    project = tmp_path / "new" / "qupath" / "project.qpproj"
    finder = SlideFinder(project, "file:/C:/old/qupath/project.qpproj", None)
    assert finder.find("file:/C:/old/slides/a.svs", "case 1") == slide


def test_moved_slides_are_found_by_their_name(tmp_path: Path) -> None:
    slide = tmp_path / "archive" / "2024" / "a.svs"
    slide.parent.mkdir(parents=True)
    slide.touch()
    finder = SlideFinder(tmp_path / "project.qpproj", None, tmp_path / "archive")
    assert finder.find("file:/old/a.svs", "case 1") == slide
    assert finder.find("file://server/share/a.svs", "case 1") == slide


def test_two_slides_of_the_name_are_both_named(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.svs").touch()
    with pytest.raises(SlideError) as caught:
        SlideFinder(tmp_path / "project.qpproj", None, tmp_path).find("file:/old/a.svs", "case 1")
    assert str(tmp_path / "one" / "a.svs") in str(caught.value)
    assert str(tmp_path / "two" / "a.svs") in str(caught.value)


def test_a_slide_that_is_nowhere_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(SlideNotFoundError, match=r"case 1 is not at .*a\.svs.*--slides-root"):
        SlideFinder(tmp_path / "project.qpproj", None, None).find("file:/old/a.svs", "case 1")
    with pytest.raises(SlideNotFoundError, match="nor below"):
        SlideFinder(tmp_path / "project.qpproj", None, tmp_path).find("file:/old/a.svs", "case 1")
    with pytest.raises(ProjectError, match="is no folder"):
        SlideFinder(tmp_path / "project.qpproj", None, tmp_path / "no").find("file:/old/a.svs", "case 1")


def test_images_that_are_no_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="https://omero"):
        SlideFinder(tmp_path / "project.qpproj", None, None).find("https://omero/image/1", "case 1")
