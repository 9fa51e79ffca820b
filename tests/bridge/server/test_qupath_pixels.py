"""A slide's file as the server reads it, against the pixels that QuPath itself gives."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.qupath_projects import shown_images
from helpers.small_slides import MPP, scanner_profile, tissue_picture
from numpy.typing import NDArray

from bridge.protocol.messages import PixelSource, ReadBox
from bridge.qupath.image_source import frame_of, parse_builder, upright_frame, view_of
from bridge.qupath.jvm import QuPath, start_qupath
from bridge.server.remote_slide import RemoteSlide, turned
from herohe_model.slides.slide import Slide
from herohe_model.slides.source import Box
from herohe_model.synthetic.slides import write_mirax, write_tiff

pytestmark = pytest.mark.qupath


def test_however_qupath_shows_a_slide_its_pixels_are_those_of_the_file(tmp_path: Path) -> None:
    mirax = tmp_path / "a.mrxs"
    write_mirax(mirax, tissue_picture(928, seed=1), mpp=MPP, origin=(512, 256), canvas=(2048, 2048))
    write_tiff(tmp_path / "b.tif", tissue_picture(928, seed=2), mpp=MPP, icc=scanner_profile())
    qupath = start_qupath()
    assert qupath.openslide
    for name, (path, server) in shown_images(qupath, mirax, tmp_path / "b.tif").items():
        kind = qupath.java("qupath.lib.images.servers.ImageServerBuilder.ServerBuilder").class_
        gson = qupath.java("qupath.lib.io.GsonTools").getInstance()
        source = parse_builder(json.loads(str(gson.toJson(server.getBuilder(), kind))), name)
        levels = tuple(sorted(float(d) for d in server.getPreferredDownsamples()))
        upright = upright_frame(source, int(server.getWidth()), int(server.getHeight()))
        asked = PixelSource(
            name=name, width=upright.box.width, height=upright.box.height, mpp=MPP, level_downsamples=levels
        )
        remote = RemoteSlide(asked, turned(lambda boxes, s=server: list(read(qupath, s, boxes)), upright))
        with Slide(path) as slide:
            transform = frame_of(source, slide, name)
            shown = view_of(source, transform, name).of(slide)
            origin, size = shown.bounds, min(shown.bounds.width, shown.bounds.height)
            assert (origin.width, origin.height) == (upright.box.width, upright.box.height)
            rng = np.random.default_rng(0)
            for side, out in ((64, 64), (128, 32), (90, 70), (size, size // 16)):
                x, y = (int(rng.integers(0, length - side + 1)) for length in (origin.width, origin.height))
                here = shown.read_box(origin.x + x, origin.y + y, side, side, (out, out))
                (there,) = remote.read_boxes([Box(x, y, side, side)], (out, out))
                assert (here == there).all(), (name, side, out)


def read(qupath: QuPath, server: Any, boxes: Sequence[ReadBox]) -> Iterator[NDArray[np.uint8]]:
    """Read as HeroheImage.groovy does."""
    regions = qupath.java("qupath.lib.regions.RegionRequest")
    for box in boxes:
        where = (box.x, box.y, box.width, box.height)
        image = server.readRegion(regions.createInstance(server.getPath(), box.width / box.out_width, *where))
        width, height = int(image.getWidth()), int(image.getHeight())
        assert (width, height) == (box.out_width, box.out_height)
        packed = np.array(image.getRGB(0, 0, width, height, None, 0, width)).reshape(height, width)
        yield np.stack([packed >> 16, packed >> 8, packed], axis=2).astype(np.uint8)
