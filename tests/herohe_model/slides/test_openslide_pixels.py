"""What is taken past openslide-python is what openslide-python gives."""

from __future__ import annotations

import numpy as np
import openslide
import pytest
from numpy.typing import NDArray
from PIL import Image

from herohe_model.slides import openslide_pixels
from herohe_model.slides.openslide_pixels import read_rgb
from herohe_model.synthetic.slides import write_mirax, write_tiff

BACKGROUND = (240, 210, 230)


def expected(
    handle: openslide.OpenSlide, location: tuple[int, int], level: int, size: tuple[int, int]
) -> NDArray[np.uint8]:
    region = handle.read_region(location, level, size)
    image = Image.new("RGB", size, BACKGROUND)
    image.paste(region, (0, 0), mask=region.getchannel("A"))
    return np.asarray(image)


@pytest.fixture(scope="module", params=["a.tif", "a.mrxs"])
def handle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> openslide.OpenSlide:
    path = tmp_path_factory.mktemp("slide") / request.param
    picture = np.random.default_rng(0).integers(0, 256, (900, 777, 3), dtype=np.uint8)
    if path.suffix == ".tif":
        write_tiff(path, picture, tile=128)
    else:
        write_mirax(path, picture, origin=(256, 256), tile=128, unscanned=[(2, 3), (4, 1)])
    return openslide.OpenSlide(path)


@pytest.mark.parametrize("promised", [False, True], ids=["past openslide-python", "through it"])
def test_pixels_are_those_of_openslide_python(
    handle: openslide.OpenSlide, promised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    for _ in range(40):
        level = int(rng.integers(0, handle.level_count))
        # Between the pixels of a level too, where the edges of tiles are partly transparent.
        location = (int(rng.integers(-50, 900)), int(rng.integers(-50, 900)))
        size = (int(rng.integers(1, 300)), int(rng.integers(1, 300)))
        with monkeypatch.context() as patch:
            if promised:
                patch.setattr(openslide_pixels, "lowlevel", object())
            read = read_rgb(handle, location, level, size, BACKGROUND)
        assert read.flags.writeable and read.shape == (size[1], size[0], 3)
        assert np.array_equal(read, expected(handle, location, level, size))
