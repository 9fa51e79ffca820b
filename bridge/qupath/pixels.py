"""An image's pixels by QuPath's own reader, for files that are read here otherwise or not at all.

What Bio-Formats or ImageJ reads for QuPath need not be a file that OpenSlide opens, nor show the same pixels.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bridge.protocol.messages import PixelSource, ReadBox
from bridge.qupath.jvm import QuPath
from herohe_model.errors import SlideError, SlideUnreadableError
from herohe_model.slides.source import SlideSource

FROM_QUPATH: Final = "The pixels came from QuPath ({reader}), not from the slide's file. {why}."
_ALIKE: Final = 4.0
"""Mean difference of two readings, grey levels, up to which they are the same: decoders of JPEG differ."""
_LOOKED_AT: Final = 5
_SIDE_PX: Final = 64


class QuPathPixels:
    """The pixels of one image of a project, as QuPath shows them.

    Parameters
    ----------
    builder
        QuPath's server builder of the image; its file must be there.
    name
        What the image is called.

    Attributes
    ----------
    source
        Size, scale and levels of the image.

    Raises
    ------
    SlideError
        If QuPath cannot open it, or it is no picture in colour.
    """

    def __init__(self, qupath: QuPath, builder: Any, name: str) -> None:
        self._qupath, self._builder, self._name = qupath, builder, name
        with self._server() as server:
            if not server.isRGB():
                raise SlideError(
                    f"{name} is no colour image of 8 bits", "HER2-HE is for slides stained with H&E"
                )
            calibration = server.getMetadata().getPixelCalibration()
            mpp = None
            if calibration.hasPixelSizeMicrons():
                mpp = (
                    float(calibration.getPixelWidthMicrons()) + float(calibration.getPixelHeightMicrons())
                ) / 2
            levels = sorted(float(d) for d in server.getPreferredDownsamples() if d >= 1)
            width, height = int(server.getWidth()), int(server.getHeight())
            thumbnail = _rgb(server.getDefaultThumbnail(0, 0))
            digest = hashlib.sha256(struct.pack(">ii", width, height) + thumbnail.tobytes()).hexdigest()
            self.reader = str(server.getServerType())
            self.source = PixelSource(
                name=name,
                width=width,
                height=height,
                mpp=mpp,
                level_downsamples=tuple(levels if levels[:1] == [1.0] else [1.0, *levels]),
                fingerprint=f"qupath-{digest}",
            )

    def warning(self, why: str) -> str:
        """Return what a result by these pixels must say."""
        return FROM_QUPATH.format(reader=self.reader, why=why)

    @contextmanager
    def opened(self) -> Iterator[Callable[[Sequence[ReadBox]], list[NDArray[np.uint8]]]]:
        """Open the image; what is given reads boxes of it, px of the image, from any thread."""
        with self._server() as server:
            yield lambda boxes: [self._read(server, box) for box in boxes]

    def are_those_of(self, slide: SlideSource) -> bool:
        """Whether a file that was opened here shows the same, by a few places of it."""
        if slide.size != (self.source.width, self.source.height):
            return False
        width, height = (min(_SIDE_PX, side) for side in slide.size)
        with self.opened() as fetch:
            for k in range(_LOOKED_AT):
                x, y = (
                    (side - part) * (k + 1) // (_LOOKED_AT + 1)
                    for side, part in zip(slide.size, (width, height), strict=True)
                )
                theirs = fetch([ReadBox(x, y, width, height, width, height)])[0].astype(np.int16)
                ours = slide.read_box(x, y, width, height, (width, height)).astype(np.int16)
                if np.abs(theirs - ours).mean() > _ALIKE:
                    return False
        return True

    @contextmanager
    def _server(self) -> Iterator[Any]:
        try:
            server = self._builder.build()
        except self._qupath.throwable as error:
            raise SlideError(
                f"QuPath cannot open {self._name} ({str(error).splitlines()[0]})",
                "Open it in QuPath; the reader that it needs, such as Bio-Formats, must be in this QuPath",
            ) from error
        try:
            yield server
        finally:
            server.close()

    def _read(self, server: Any, box: ReadBox) -> NDArray[np.uint8]:
        request = self._qupath.java("qupath.lib.regions.RegionRequest").createInstance(
            server.getPath(), box.width / box.out_width, box.x, box.y, box.width, box.height
        )
        try:
            image = server.readRegion(request)
        except self._qupath.throwable as error:
            raise SlideUnreadableError(
                f"QuPath cannot read pixels of {self._name} ({str(error).splitlines()[0]})",
                "Try it in QuPath",
            ) from error
        if image is None:
            raise SlideUnreadableError(f"QuPath has no pixels of {self._name}", "Try it in QuPath")
        pixels = _rgb(image)
        if pixels.shape[:2] == (box.out_height, box.out_width):
            return pixels
        size = (box.out_width, box.out_height)
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


def _rgb(image: Any) -> NDArray[np.uint8]:
    """Return a BufferedImage as uint8 (height, width, 3)."""
    width, height = int(image.getWidth()), int(image.getHeight())
    packed = np.array(image.getRGB(0, 0, width, height, None, 0, width), dtype=np.int32)
    bgra = packed.astype("<i4").view(np.uint8).reshape(height, width, 4)
    return np.ascontiguousarray(bgra[..., 2::-1])
