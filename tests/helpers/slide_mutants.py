"""Slides with damage of every kind, the same for the same seed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile

from helpers.small_slides import tissue_picture
from herohe_model.synthetic.slides import write_mirax, write_tiff

_EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1)


def write_originals(folder: Path) -> tuple[Path, ...]:
    """Write a BigTIFF with JPEG tiles, one with deflate, a classic TIFF, an SVS, and a MIRAX."""
    picture = tissue_picture(256)
    jpeg, deflate, mirax = folder / "jpeg.tif", folder / "deflate.tif", folder / "a.mrxs"
    write_tiff(jpeg, picture, tile=64, mpp=0.5)
    write_tiff(deflate, picture, tile=64, mpp=0.5, quality=None)
    write_mirax(mirax, picture, tile=64, mpp=0.5)
    classic, svs = folder / "classic.tif", folder / "aperio.svs"
    for path, about in ((classic, None), (svs, "Aperio Image Library v11\r\n256x256|AppMag = 20|MPP = 0.5")):
        with tifffile.TiffWriter(path, byteorder=">" if about is None else "<") as file:
            for level, step in enumerate((1, 2, 4)):
                file.write(
                    picture[::step, ::step],
                    tile=(64, 64),
                    photometric="rgb",
                    compression="zlib",
                    subfiletype=int(level > 0 and about is None),
                    resolution=(20_000 / step, 20_000 / step),
                    resolutionunit="CENTIMETER",
                    description=about,
                    metadata=None,
                )
    return jpeg, deflate, classic, svs, mirax


def mutants(originals: tuple[Path, ...], folder: Path, count: int, seed: int) -> Iterator[Path]:
    """Yield damaged slides, one at a time: the next replaces the one before."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        original = originals[number % len(originals)]
        target = folder / f"mutant{original.suffix}"
        beside = original.with_suffix("")
        damaged = target
        shutil.copy(original, target)
        if beside.is_dir():
            shutil.rmtree(target.with_suffix(""), ignore_errors=True)
            shutil.copytree(beside, target.with_suffix(""))
            files = sorted(target.with_suffix("").iterdir())
            damaged = files[int(rng.integers(len(files)))]
        damaged.write_bytes(_damaged(damaged.read_bytes(), rng))
        yield target


def _damaged(content: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 3))):
        # Tables stand at the ends; between them are pixels.
        edge = min(len(data), 2000)
        place = int(
            rng.choice([rng.integers(edge), len(data) - 1 - rng.integers(edge), rng.integers(len(data))])
        )
        kind = rng.integers(16)
        if kind < 9:
            data[place] ^= 1 << int(rng.integers(8))
        elif kind < 14:
            width = int(rng.choice([1, 2, 4, 8]))
            value = int(rng.choice(np.array(_EXTREMES, dtype=np.uint64)))
            new = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little" if rng.integers(2) else "big")
            data[place : place + width] = new[: len(data) - place]
        elif kind == 14:
            data[place : place + 16] = rng.bytes(len(data[place : place + 16]))
        else:
            del data[max(place, 1) :]
        if not data:
            break
    return bytes(data)
