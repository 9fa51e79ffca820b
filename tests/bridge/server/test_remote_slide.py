from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bridge.protocol.messages import (
    MAX_READ_BOXES,
    MAX_READ_BYTES,
    ImageHeader,
    PixelSource,
    ReadBox,
)
from bridge.server.remote_slide import RemoteSlide, decode_image
from herohe_model.errors import SlideScaleError, SlideUnreadableError
from herohe_model.sampling.composite import draw_composites, read_composite
from herohe_model.sampling.composite_reader import read_composites
from herohe_model.sampling.patches import find_patches
from herohe_model.slides.slide import Slide
from herohe_model.slides.source import Box
from herohe_model.synthetic.slides import write_mirax, write_tiff


class QuPath:
    """A client that has a slide open, cropped to its bounds as QuPath does."""

    def __init__(self, slide: Slide) -> None:
        self.slide = slide
        self.asked: list[ReadBox] = []
        self.questions = 0

    def source(self, **changes: object) -> PixelSource:
        bounds = self.slide.bounds
        fields = {
            "name": self.slide.path.name,
            "width": bounds.width,
            "height": bounds.height,
            "mpp": self.slide.mpp,
            "level_downsamples": self.slide.level_downsamples,
            "background": self.slide.background,
            "origin_x": bounds.x,
            "origin_y": bounds.y,
        }
        return PixelSource(**{**fields, **changes})  # type: ignore[arg-type]

    def fetch(self, boxes: Sequence[ReadBox]) -> list[NDArray[np.uint8]]:
        self.questions += 1
        assert len(boxes) <= MAX_READ_BOXES
        assert sum(3 * b.out_width * b.out_height for b in boxes) <= MAX_READ_BYTES
        self.asked += boxes
        x, y = self.slide.bounds.x, self.slide.bounds.y
        return [
            self.slide.read_box(b.x + x, b.y + y, b.width, b.height, (b.out_width, b.out_height))
            for b in boxes
        ]


@pytest.fixture(scope="module")
def tiff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiff") / "s.tif"
    picture = np.random.default_rng(0).integers(0, 256, (600, 900, 3), dtype=np.uint8)
    write_tiff(path, picture, quality=None)
    return path


@pytest.mark.parametrize(
    ("box", "out"),
    [
        (Box(0, 0, 64, 64), (64, 64)),
        (Box(101, 57, 333, 200), (333, 200)),
        (Box(101, 57, 333, 200), (111, 77)),
        (Box(256, 128, 256, 256), (64, 64)),
        (Box(10, 10, 20, 20), (64, 64)),
        (Box(-30, -20, 100, 100), (100, 100)),
        (Box(850, 550, 100, 100), (50, 50)),
        (Box(2000, 2000, 10, 10), (10, 10)),
    ],
)
def test_pixels_are_those_of_the_slide_itself(tiff: Path, box: Box, out: tuple[int, int]) -> None:
    with Slide(tiff) as slide:
        client = QuPath(slide)
        remote = RemoteSlide(client.source(), client.fetch)
        expected = slide.read_box(box.x, box.y, box.width, box.height, out)
        assert np.array_equal(remote.read_box(box.x, box.y, box.width, box.height, out), expected)


def test_only_whole_levels_inside_the_image_are_asked_for(tiff: Path) -> None:
    with Slide(tiff) as slide:
        client = QuPath(slide)
        RemoteSlide(client.source(), client.fetch).read_box(-10, 500, 777, 300, (300, 117))
        for asked in client.asked:
            assert min(asked.x, asked.y) >= 0
            assert asked.x + asked.width <= 900
            assert asked.y + asked.height <= 600
            assert asked.width / asked.out_width == pytest.approx(2.0, rel=0.02)


def test_the_slides_offset_is_taken_off_what_is_asked_for_and_kept_in_what_is_said(tmp_path: Path) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    write_mirax(tmp_path / "m.mrxs", picture, origin=(512, 256), canvas=(2048, 1024))
    with Slide(tmp_path / "m.mrxs") as slide:
        client = QuPath(slide)
        remote = RemoteSlide(client.source(), client.fetch)
        assert remote.bounds == slide.bounds
        assert (slide.bounds.x, slide.bounds.y) == (512, 256)
        pixels = remote.read_box(612, 306, 128, 128, (128, 128))
        assert client.asked == [ReadBox(100, 50, 128, 128, 128, 128)]
        assert np.array_equal(pixels, slide.read_box(612, 306, 128, 128, (128, 128)))


def test_many_boxes_take_one_question(tiff: Path) -> None:
    with Slide(tiff) as slide:
        client = QuPath(slide)
        remote = RemoteSlide(client.source(), client.fetch)
        boxes = [Box(x, y, 100, 100) for x in range(0, 500, 100) for y in range(0, 500, 100)]
        read = remote.read_boxes(boxes, (50, 50))
        assert client.questions == 1
        for box, pixels in zip(boxes, read, strict=True):
            assert np.array_equal(pixels, slide.read_box(box.x, box.y, 100, 100, (50, 50)))


def test_large_boxes_are_asked_for_in_pieces() -> None:
    asked: list[ReadBox] = []

    def fetch(boxes: Sequence[ReadBox]) -> list[NDArray[np.uint8]]:
        assert sum(3 * b.out_width * b.out_height for b in boxes) <= MAX_READ_BYTES
        asked.extend(boxes)
        return [np.full((b.out_height, b.out_width, 3), 7, dtype=np.uint8) for b in boxes]

    remote = RemoteSlide(PixelSource(name="big", width=9000, height=3000, mpp=0.25), fetch)
    assert (remote.read_box(0, 0, 9000, 3000, (90, 30)) == 7).all()
    assert sum(b.width * b.height for b in asked) == 9000 * 3000
    assert len(asked) > 1


def test_an_image_without_scale_says_what_to_do() -> None:
    source = PixelSource(name="photo", width=10, height=10)
    with pytest.raises(SlideScaleError, match="pixel size"):
        _ = RemoteSlide(source, lambda _: []).mpp
    assert RemoteSlide(source, lambda _: [], mpp=0.5).mpp == 0.5


def test_a_fingerprint_is_the_clients_or_follows_from_what_it_said() -> None:
    source = PixelSource(name="photo", width=10, height=10, mpp=1.0)
    other = PixelSource(name="photo", width=10, height=11, mpp=1.0)
    given = PixelSource(name="photo", width=10, height=10, mpp=1.0, fingerprint="omero:7")
    prints = [RemoteSlide(s, lambda _: []).fingerprint for s in (source, other, given)]
    assert len(set(prints)) == 3
    assert prints[2] == "omero:7"


@pytest.mark.parametrize("encoding", ["png", "jpeg"])
def test_encoded_pixels_are_decoded(encoding: str) -> None:
    picture = np.full((20, 30, 3), (200, 100, 50), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(picture).save(data, encoding)
    header = ImageHeader((20, 30, 3), encoding)  # type: ignore[arg-type]
    decoded = decode_image(header, memoryview(data.getvalue()), "photo")
    assert np.abs(decoded.astype(int) - picture).max() < 8


def test_an_image_of_another_size_is_refused_before_it_is_unpacked() -> None:
    data = io.BytesIO()
    Image.new("RGB", (5000, 5000)).save(data, "png")
    with pytest.raises(SlideUnreadableError, match=r"photo.*5000 x 5000"):
        decode_image(ImageHeader((20, 30, 3), "png"), memoryview(data.getvalue()), "photo")


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\xff\xd8\xff\xe0nonsense"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(SlideUnreadableError, match="photo"):
        decode_image(ImageHeader((20, 30, 3), "jpeg"), memoryview(data), "photo")


def test_composites_are_asked_for_one_question_each_and_no_patch_twice(tiff: Path) -> None:
    with Slide(tiff) as slide:
        qupath = QuPath(slide)
        remote = RemoteSlide(qupath.source(), qupath.fetch)
        patches = find_patches(slide, None, patch_px=64, mpp=slide.mpp, threshold=0.0, artefacts="ignore")
        drawn = draw_composites(len(patches), composites=8, seed=0)
        read = list(read_composites(remote, [(patches, drawn)], patch_px=64))
        for picture, cells in zip(read, drawn, strict=True):
            assert np.array_equal(picture, read_composite(slide, patches, cells, patch_px=64))
    # 126 patches: all stand in the first six composites, and the last two hold what was read for those.
    assert qupath.questions == 6
    assert len(qupath.asked) == len(set(qupath.asked)) == len(patches) == 126
