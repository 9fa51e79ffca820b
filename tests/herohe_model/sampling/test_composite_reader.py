"""Composites are read ahead in the order of the file, each patch once, and are those read one by one."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from herohe_model.errors import CancelledError, SlideUnreadableError
from herohe_model.sampling import composite_reader
from herohe_model.sampling.composite import draw_composites, read_composite
from herohe_model.sampling.composite_reader import Drawn, read_composites
from herohe_model.sampling.patches import find_patches
from herohe_model.slides.slide import Slide
from herohe_model.slides.source import Box
from herohe_model.synthetic.slides import write_tiff

PX = 32


class Watched:
    """A slide that writes down which boxes were asked for together, and cannot read one of them."""

    def __init__(self, slide: Slide, *, damaged: tuple[int, int] | None = None) -> None:
        self._slide = slide
        self._damaged = damaged
        self._lock = threading.Lock()
        self.asked: list[list[Box]] = []
        self.readers = slide.readers

    def __getattr__(self, name: str) -> object:
        return getattr(self._slide, name)

    def read_boxes(self, boxes: Sequence[Box], out: tuple[int, int]) -> Iterable[NDArray[np.uint8]]:
        with self._lock:
            self.asked.append(list(boxes))
        for box in boxes:
            if (box.x, box.y) == self._damaged:
                raise SlideUnreadableError(f"the patch at {box.x}, {box.y} is damaged")
            yield from self._slide.read_boxes([box], out)

    @property
    def times(self) -> Counter[Box]:
        return Counter(box for boxes in self.asked for box in boxes)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "a.tif"
    picture = np.random.default_rng(0).integers(0, 256, (512, 384, 3), dtype=np.uint8)
    write_tiff(path, picture, mpp=0.5, tile=64)
    return path


def drawn(slide: Slide, *composites: int | None, seed: int = 0) -> list[Drawn]:
    """Composites of as many regions, all of which are the whole slide."""
    patches = find_patches(slide, None, patch_px=PX, mpp=0.5, threshold=0.0, artefacts="ignore")
    return [(patches, draw_composites(len(patches), composites=n, seed=seed)) for n in composites]


def one_by_one(slide: Slide, regions: Sequence[Drawn]) -> list[NDArray[np.uint8]]:
    return [read_composite(slide, patches, row, patch_px=PX) for patches, rows in regions for row in rows]


@pytest.mark.parametrize("readers", [1, 4])
@pytest.mark.parametrize("composites", [(1,), (8,), (None, 3), (30, 7)], ids=str)
def test_they_are_those_that_are_read_one_by_one(
    path: Path, readers: int, composites: tuple[int | None, ...]
) -> None:
    with Slide(path, readers=readers) as slide:
        regions = drawn(slide, *composites)
        read = list(read_composites(slide, regions, patch_px=PX))
        assert np.array_equal(np.stack(read), np.stack(one_by_one(slide, regions)))


@pytest.mark.parametrize("readers", [1, 4])
def test_every_patch_is_read_once_for_all_composites_of_all_regions(path: Path, readers: int) -> None:
    with Slide(path, readers=readers) as slide:
        watched = Watched(slide)
        regions = drawn(slide, 20, 10)
        assert len(list(read_composites(watched, regions, patch_px=PX))) == 30
        assert set(watched.times.values()) == {1}
        assert len(watched.times) == len(regions[0][0]) == 192


def test_what_does_not_fit_into_memory_is_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composite_reader, "_KEPT_BYTES", 50 * 3 * PX**2)
    with Slide(path) as slide:
        watched = Watched(slide)
        regions = drawn(slide, 60)
        read = list(read_composites(watched, regions, patch_px=PX))
        assert np.array_equal(np.stack(read), np.stack(one_by_one(slide, regions)))
        assert sum(times == 1 for times in watched.times.values()) >= 50
        assert max(watched.times.values()) > 1


def test_patches_of_a_composite_are_read_in_the_order_of_the_file(path: Path) -> None:
    with Slide(path, readers=1) as slide:
        watched = Watched(slide)
        list(read_composites(watched, drawn(slide, 3), patch_px=PX))
    for boxes in watched.asked:
        assert boxes == sorted(boxes, key=lambda box: (box.y, box.x))


def test_one_reader_is_asked_once_a_composite(path: Path) -> None:
    with Slide(path, readers=1) as slide:
        watched = Watched(slide)
        assert len(list(read_composites(watched, drawn(slide, 5), patch_px=PX))) == 5
    assert [len(boxes) for boxes in watched.asked] == [25] * 5


def test_no_more_than_two_windows_are_read_ahead(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composite_reader, "_LARGEST_WINDOW", 2)
    with Slide(path) as slide:
        watched = Watched(slide)
        pictures = read_composites(watched, drawn(slide, None), patch_px=PX)
        next(pictures)
        pictures.close()
    # One composite in the first window, two in the next.
    assert sum(len(boxes) for boxes in watched.asked) <= 3 * 25


@pytest.mark.parametrize("readers", [1, 4])
def test_damage_is_told_when_its_composite_comes(path: Path, readers: int) -> None:
    with Slide(path, readers=readers) as slide:
        regions = drawn(slide, 7)
        patches, rows = regions[0]
        bad = int(rows[3, 0])
        watched = Watched(slide, damaged=(int(patches.x[bad]), int(patches.y[bad])))
        pictures = read_composites(watched, regions, patch_px=PX)
        expected = one_by_one(slide, regions)
        for number in range(3):
            assert np.array_equal(next(pictures), expected[number])
        with pytest.raises(SlideUnreadableError, match="is damaged"):
            next(pictures)


def test_waiting_for_pixels_can_be_cancelled(path: Path) -> None:
    asked = threading.Event()
    answer = threading.Event()

    class Slow(Watched):
        def read_boxes(self, boxes: Sequence[Box], out: tuple[int, int]) -> Iterable[NDArray[np.uint8]]:
            asked.set()
            assert answer.wait(60)
            return super().read_boxes(boxes, out)

    def check() -> None:
        if asked.wait(60):
            answer.set()
            raise CancelledError("enough")

    with Slide(path) as slide, pytest.raises(CancelledError):
        next(read_composites(Slow(slide), drawn(slide, 3), patch_px=PX, check=check))


def test_without_composites_nothing_is_read(path: Path) -> None:
    with Slide(path) as slide:
        patches, rows = drawn(slide, 1)[0]
        watched = Watched(slide)
        assert list(read_composites(watched, [(patches, rows[:0])], patch_px=PX)) == []
        assert list(read_composites(watched, [], patch_px=PX)) == []
    assert watched.asked == []
