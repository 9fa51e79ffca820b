"""JPEG tiles are read past OpenSlide where that gives the same pixels, and by OpenSlide everywhere else."""

from __future__ import annotations

import gc
import io
import struct
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import simplejpeg
import tifffile
from numpy.typing import NDArray
from PIL import Image

from herohe_model.errors import SlideUnreadableError
from herohe_model.slides import jpeg_tiles
from herohe_model.slides.jpeg_tiles import JpegTiles, LeftToOpenSlide
from herohe_model.slides.slide import Slide
from herohe_model.synthetic.slides import write_mirax, write_tiff

SIDE = 700
TILE = 128


def picture(seed: int = 0) -> NDArray[np.uint8]:
    """Coloured and textured at every scale, so that a wrong colour space or upsampling shows."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(np.int16)
    return np.clip(smooth + rng.integers(-20, 20, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def tiles_of(slide: Slide) -> JpegTiles:
    tiles = slide._tiles
    assert tiles is not None
    return tiles


def serves(slide: Slide, level: int) -> bool:
    """Whether pixels of a level are read past OpenSlide."""
    try:
        tiles_of(slide).region(level, 0, 0, 1, 1, slide._through_openslide)
    except LeftToOpenSlide:
        return False
    return True


def served(path: Path) -> list[bool]:
    with Slide(path) as slide:
        return [serves(slide, level) for level in range(len(slide.level_downsamples))]


def assert_same_as_through_openslide(path: Path, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    with Slide(path) as slide, Slide(path, fast=False) as reference:
        for _ in range(60):
            width, height = (int(n) for n in rng.integers(1, 300, 2))
            scale = float(rng.choice([1, 1, 1.7, 2, 4, 5, 8]))
            x, y = (int(n) for n in rng.integers(-100, SIDE, 2))
            box = (x, y, max(1, int(width * scale)), max(1, int(height * scale)))
            expected = reference.read_box(*box, (width, height))
            read = slide.read_box(*box, (width, height))
            assert np.array_equal(read, expected) and read.flags.writeable
        assert np.array_equal(slide.thumbnail(300), reference.thumbnail(300))


def spoil(path: Path, level: int, tile: int, change: Callable[[bytes], bytes]) -> None:
    """Replace the stream of one tile by one that is not longer."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[level]
        offset, count = page.dataoffsets[tile], page.databytecounts[tile]
    data = bytearray(path.read_bytes())
    changed = change(bytes(data[offset : offset + count]))
    assert len(changed) <= count
    data[offset : offset + len(changed)] = changed
    path.write_bytes(data)


@pytest.mark.parametrize("tile", [64, 240, 256])
def test_pixels_do_not_depend_on_the_reader(tmp_path: Path, tile: int) -> None:
    write_tiff(tmp_path / "a.tif", picture(), tile=tile, levels=4)
    # 700 px, halved three times: the last has 88 px, so its downsample is no whole number.
    assert served(tmp_path / "a.tif") == [True, True, True, False]
    assert_same_as_through_openslide(tmp_path / "a.tif")


@pytest.mark.parametrize("colours", ["rgb", "4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("shared", [False, True], ids=["own tables", "shared tables"])
@pytest.mark.parametrize(("byteorder", "bigtiff"), [("<", False), (">", True)])
def test_tiffs_of_other_writers_too(
    tmp_path: Path, colours: str, shared: bool, byteorder: Literal["<", ">"], bigtiff: bool
) -> None:
    path = tmp_path / "a.tif"
    write_as_others_do(path, colours, shared=shared, byteorder=byteorder, bigtiff=bigtiff)
    assert served(path) == [True, True]
    assert_same_as_through_openslide(path)


def write_as_others_do(
    path: Path,
    colours: str = "rgb",
    *,
    shared: bool = False,
    byteorder: Literal["<", ">"] = "<",
    bigtiff: bool = False,
    markers: bool = False,
) -> None:
    """Write two levels with tifffile.

    The streams do not say their colour space unless `markers` do: the TIFF does. With `shared`, their tables
    stand in the directory, once for all.
    """
    levels = []
    for level in range(2):
        stored = picture()[:: 1 << level, :: 1 << level]
        streams = [split_stream(s, markers=markers) for s in jpeg_streams(stored, colours)]
        data = [lean if shared else tables[:-2] + lean[2:] for tables, lean in streams]
        horizontal, vertical = {"4:2:0": (2, 2), "4:2:2": (2, 1)}.get(colours, (1, 1))
        fields = {
            254: ("I", [level]),
            256: ("I", [stored.shape[1]]),
            257: ("I", [stored.shape[0]]),
            258: ("H", [8, 8, 8]),
            259: ("H", [7]),
            262: ("H", [2 if colours == "rgb" else 6]),
            277: ("H", [3]),
            284: ("H", [1]),
            322: ("I", [TILE]),
            323: ("I", [TILE]),
            530: ("H", [horizontal, vertical]),
            **({347: ("B", list(streams[0][0]))} if shared else {}),
        }
        levels.append((fields, data))
    path.write_bytes(tiff_bytes(levels, byteorder=byteorder, bigtiff=bigtiff))


_Fields = dict[int, tuple[str, list[int]]]


def tiff_bytes(levels: list[tuple[_Fields, list[bytes]]], *, byteorder: str, bigtiff: bool) -> bytes:
    """Return a TIFF whose directories hold the fields, by tag (type, values), and the tiles."""
    mark = b"II" if byteorder == "<" else b"MM"
    word, count, magic = ("Q", "Q", struct.pack(byteorder + "HHH", 43, 8, 0)) if bigtiff else ("I", "H", b"")
    kinds = {"B": 7, "H": 3, "I": 4, "Q": 16}
    width = struct.calcsize(word)
    file = bytearray(mark + (magic or struct.pack(byteorder + "H", 42)) + bytes(width))
    link = len(file) - width
    for fields, tiles in levels:
        offsets = []
        for tile in tiles:
            offsets.append(len(file))
            file += tile
        every = {**fields, 324: (word, offsets), 325: (word, [len(tile) for tile in tiles])}
        entries = b""
        for tag, (kind, values) in sorted(every.items()):
            value = struct.pack(f"{byteorder}{len(values)}{kind}", *values)
            if len(value) > width:
                file += value
                value = struct.pack(byteorder + word, len(file) - len(value))
            entries += struct.pack(byteorder + "HH" + word, tag, kinds[kind], len(values))
            entries += value.ljust(width, b"\0")
        struct.pack_into(byteorder + word, file, link, len(file))
        file += struct.pack(byteorder + count, len(every)) + entries
        link = len(file)
        file += bytes(width)
    return bytes(file)


def jpeg_streams(pixels: NDArray[np.uint8], colours: str) -> list[bytes]:
    """Encode tiles, row by row."""
    options: dict[str, Any] = {"keep_rgb": True} if colours == "rgb" else {"subsampling": colours}
    streams = []
    for y in range(0, pixels.shape[0], TILE):
        for x in range(0, pixels.shape[1], TILE):
            square = np.full((TILE, TILE, 3), 255, dtype=np.uint8)
            part = pixels[y : y + TILE, x : x + TILE]
            square[: part.shape[0], : part.shape[1]] = part
            stream = io.BytesIO()
            Image.fromarray(square).save(stream, "JPEG", quality=85, **options)
            streams.append(stream.getvalue())
    return streams


def split_stream(stream: bytes, *, markers: bool) -> tuple[bytes, bytes]:
    """Return the tables of a JPEG stream as a stream of their own, and the stream without them."""
    tables, rest, position = b"", b"", 2
    while stream[position + 1] != 0xDA:
        end = position + 2 + struct.unpack_from(">H", stream, position + 2)[0]
        segment = stream[position:end]
        if segment[1] in (0xDB, 0xC4):
            tables += segment
        elif markers or segment[1] not in (0xE0, 0xEE):
            rest += segment
        position = end
    return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + rest + stream[position:]


def test_a_real_aperio_slide_is_read_here(real_slide: Path) -> None:
    assert served(real_slide) == [True]
    assert_same_as_through_openslide(real_slide)


def test_other_formats_are_left_to_openslide(tmp_path: Path) -> None:
    write_tiff(tmp_path / "lossless.tif", picture(), levels=2, quality=None)
    write_mirax(tmp_path / "a.mrxs", picture(), levels=2)
    assert served(tmp_path / "lossless.tif") == served(tmp_path / "a.mrxs") == [False, False]
    assert_same_as_through_openslide(tmp_path / "lossless.tif")
    assert_same_as_through_openslide(tmp_path / "a.mrxs")


def test_without_the_decoder_openslide_reads_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiff(tmp_path / "a.tif", picture(), levels=2)
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert served(tmp_path / "a.tif") == [False, False]
    assert_same_as_through_openslide(tmp_path / "a.tif")


def test_one_pixel_that_differs_turns_the_reader_off_without_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiff(tmp_path / "a.tif", picture(), levels=3)
    decode = simplejpeg.decode_jpeg

    def nearly(*args: Any, **kwargs: Any) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = decode(*args, **kwargs).copy()
        pixels[3, 4, 1] ^= 1
        return pixels

    with Slide(tmp_path / "a.tif") as slide:
        assert serves(slide, 0)
        monkeypatch.setattr(simplejpeg, "decode_jpeg", nearly)
        assert not serves(slide, 1)
        assert not serves(slide, 0)
    assert_same_as_through_openslide(tmp_path / "a.tif")


def test_streams_that_contradict_the_tiff_are_left_to_openslide(tmp_path: Path) -> None:
    # The TIFF says RGB, which is what OpenSlide goes by; the streams say JFIF, which is YCbCr.
    path = tmp_path / "a.tif"
    write_as_others_do(path, "4:4:4", markers=True)
    data = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        places = [page.tags["PhotometricInterpretation"].valueoffset for page in tiff.pages]
    for place in places:
        data = data[:place] + struct.pack("<H", 2) + data[place + 2 :]
    path.write_bytes(data)
    assert served(path) == [False, False]
    assert_same_as_through_openslide(path)


def test_the_tiles_compared_are_few_and_hold_most_detail_the_middle_and_the_end(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", picture(), tile=64, levels=3)
    compared: list[tuple[int, ...]] = []
    with Slide(tmp_path / "a.tif", fast=False) as slide:

        def reference(level: int, x: int, y: int, size: tuple[int, int]) -> NDArray[np.uint8]:
            compared.append((level, x, y, *size))
            return slide._through_openslide(level, x, y, size)

        sizes = [(700, 700), (350, 350), (175, 175)]
        tiles = JpegTiles(tmp_path / "a.tif", "generic-tiff", sizes, (1.0, 2.0, 4.0))
        tiles.region(0, 10, 10, 20, 20, reference)
        tiles.region(0, 500, 10, 20, 20, reference)
        tiles.region(2, 10, 10, 20, 20, reference)
        tiles.close()
    assert {level for level, *_ in compared} == {0, 2}
    assert {(0, 640, 640, 60, 60), (2, 128, 128, 47, 47)} < set(compared)
    assert 2 <= len(compared) <= 6


def test_of_large_tiles_the_end_is_compared(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", picture(), tile=512, levels=1)
    compared: list[tuple[int, ...]] = []
    with Slide(tmp_path / "a.tif", fast=False) as slide:

        def reference(level: int, x: int, y: int, size: tuple[int, int]) -> NDArray[np.uint8]:
            compared.append((x, y, *size))
            return slide._through_openslide(level, x, y, size)

        tiles = JpegTiles(tmp_path / "a.tif", "generic-tiff", [(700, 700)], (1.0,))
        tiles.region(0, 0, 0, 20, 20, reference)
        tiles.close()
    # The first tile is the only one that is full, the last shows less than would be compared of it.
    assert sorted(compared) == [(0, 384, 512, 128), (512, 512, 188, 188)]


def test_nobody_gets_pixels_that_were_decoded_while_a_level_was_found_to_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiff(tmp_path / "a.tif", picture(), tile=64, levels=1)
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *args, **kwargs: decode(*args, **kwargs) ^ 1)
    boxes = [(37 * k % 600, 91 * k % 600, 100, 90) for k in range(40)]
    with Slide(tmp_path / "a.tif", fast=False) as reference:
        expected = [reference.read_box(*box, (100, 90)) for box in boxes]
    for _ in range(5):
        with Slide(tmp_path / "a.tif") as slide, ThreadPoolExecutor(8) as pool:
            read = list(pool.map(lambda box, slide=slide: slide.read_box(*box, (100, 90)), boxes))
        assert all(np.array_equal(*pair) for pair in zip(read, expected, strict=True))


def test_a_damaged_tile_is_told_and_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_tiff(path, picture(), tile=64, levels=1)
    # A stream that ends too soon: libjpeg warns, and fills the tile with grey.
    spoil(path, 0, 13, lambda stream: stream[: len(stream) // 2] + b"\xff\xd9")
    with Slide(path) as slide:
        assert serves(slide, 0)
        with pytest.raises(SlideUnreadableError, match="damaged"):
            slide.read_box(130, 70, 10, 10, (10, 10))
        assert slide.read_box(0, 0, 64, 64, (64, 64)).shape == (64, 64, 3)
        with pytest.raises(LeftToOpenSlide):
            tiles_of(slide).region(0, 130, 70, 10, 10, slide._through_openslide)


def test_tiles_that_were_not_stored_are_left_to_openslide(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_tiff(path, picture(), tile=64, levels=1)
    with tifffile.TiffFile(path) as tiff:
        counts = tiff.pages.first.tags["TileByteCounts"].valueoffset
    data = bytearray(path.read_bytes())
    data[counts + 8 * 13 : counts + 8 * 14] = bytes(8)
    path.write_bytes(data)
    with Slide(path) as slide, Slide(path, fast=False) as reference:
        assert serves(slide, 0)
        with pytest.raises(LeftToOpenSlide):
            tiles_of(slide).region(0, 130, 70, 10, 10, slide._through_openslide)
        box = (100, 50, 100, 100, (100, 100))
        assert np.array_equal(slide.read_box(*box), reference.read_box(*box))


def test_the_cache_does_not_grow_and_decodes_a_tile_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiff(tmp_path / "a.tif", picture(), tile=64, levels=1)
    decoded = []
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(
        simplejpeg, "decode_jpeg", lambda *args, **kwargs: decoded.append(1) or decode(*args, **kwargs)
    )
    with Slide(tmp_path / "a.tif") as slide:
        tiles = tiles_of(slide)
        assert serves(slide, 0)
        compared = len(decoded)
        with ThreadPoolExecutor(8) as pool:
            read = list(
                pool.map(lambda _: tiles.region(0, 64, 64, 64, 64, slide._through_openslide), range(64))
            )
        assert len(decoded) == compared + 1
        assert all(np.array_equal(pixels, read[0]) for pixels in read)

    monkeypatch.setattr(jpeg_tiles, "CACHE_BYTES", 10 * 64 * 64 * 3)
    with Slide(tmp_path / "a.tif") as slide:
        slide.read_box(0, 0, SIDE, SIDE, (SIDE, SIDE))
        assert tiles_of(slide)._cache._held <= 10 * 64 * 64 * 3


def test_many_threads_read_what_one_reads(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", picture(), tile=64, levels=2)
    boxes = [(37 * k % 600, 91 * k % 600, 100, 90) for k in range(100)]
    with Slide(tmp_path / "a.tif") as slide, ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda box: slide.read_box(*box, (100, 90)), boxes))
    with Slide(tmp_path / "a.tif", fast=False) as reference:
        for box, pixels in zip(boxes, read, strict=True):
            assert np.array_equal(pixels, reference.read_box(*box, (100, 90)))


def test_memory_that_is_used_again_is_not_seen_by_who_reads_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiff(tmp_path / "a.tif", picture(), tile=64, levels=1)
    monkeypatch.setattr(jpeg_tiles, "CACHE_BYTES", 6 * 64 * 64 * 3)
    boxes = [(37 * k % 600, 91 * k % 600, 100, 90) for k in range(400)]
    with Slide(tmp_path / "a.tif", fast=False) as reference:
        expected = [reference.read_box(*box, (100, 90)) for box in boxes]
    with Slide(tmp_path / "a.tif") as slide, ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda box: slide.read_box(*box, (100, 90)), boxes))
        assert tiles_of(slide)._cache._held <= 6 * 64 * 64 * 3
    assert all(np.array_equal(*pair) for pair in zip(read, expected, strict=True))


def test_a_slide_that_was_closed_reads_no_more(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", picture(), levels=1)
    slide = Slide(tmp_path / "a.tif")
    slide.read_box(0, 0, 64, 64, (64, 64))
    slide.close()
    with pytest.raises(SlideUnreadableError, match="closed"):
        slide.read_box(0, 0, 64, 64, (64, 64))
    (tmp_path / "a.tif").unlink()


def test_a_slide_that_is_forgotten_leaves_no_file_open(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", picture(), levels=1)
    slide = Slide(tmp_path / "a.tif")
    slide.read_box(0, 0, 64, 64, (64, 64))
    forgotten = weakref.ref(slide)
    del slide
    assert forgotten() is None
    gc.collect()  # an unclosed file would be a warning, which is an error here
