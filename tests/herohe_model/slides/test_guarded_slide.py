"""A slide is read in another process, whose end is that slide's outcome and nobody else's."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from helpers.damaged_slides import make_deadly
from helpers.small_slides import small_slide, tissue_picture

from herohe_model.errors import (
    SlideFatalError,
    SlideNotFoundError,
    SlideScaleError,
    SlideUnreadableError,
)
from herohe_model.printable import printable
from herohe_model.slides.guarded_slide import GuardedSlide
from herohe_model.slides.slide import Slide
from herohe_model.slides.source import Box
from herohe_model.synthetic.slides import write_mirax, write_tiff

BOXES = [(0, 0, 512, 512, (64, 64)), (100, 60, 128, 128, (128, 128)), (-20, 480, 64, 64, (32, 48))]

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")


def readers() -> list[psutil.Process]:
    """The processes that read for this one."""
    found = []
    for child in psutil.Process().children():
        # One that has just ended has no command line.
        with contextlib.suppress(psutil.Error):
            if "herohe_model.slides.reader_process" in child.cmdline():
                found.append(child)
    return found


def kill(how: signal.Signals) -> None:
    for process in readers():
        process.send_signal(how)


@pytest.mark.parametrize("kind", ["tif", "mrxs"])
def test_pixels_and_facts_are_those_of_the_slide(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "tif":
        write_tiff(path, tissue_picture(512), tile=64, quality=80)
    else:
        write_mirax(path, tissue_picture(512), mpp=0.5, origin=(256, 512), canvas=(2048, 2048))
    with Slide(path) as slide, GuardedSlide(path) as guarded:
        assert guarded.facts == slide.facts
        assert guarded.mpp == slide.mpp and guarded.bounds == slide.bounds
        for *box, out in BOXES:
            read = guarded.read_box(*box, out)
            assert read.flags.writeable and np.array_equal(read, slide.read_box(*box, out))
        boxes = [Box(x, 0, 64, 64) for x in range(0, 512, 64)]
        for ours, theirs in zip(
            guarded.read_boxes(boxes, (64, 64)), slide.read_boxes(boxes, (64, 64)), strict=True
        ):
            assert np.array_equal(ours, theirs)


def test_errors_are_those_of_the_slide(tmp_path: Path) -> None:
    (tmp_path / "text.svs").write_text("no slide")
    for path, kind in (
        (tmp_path / "none.tif", SlideNotFoundError),
        (tmp_path / "text.svs", SlideUnreadableError),
    ):
        with pytest.raises(kind) as here:
            Slide(path)
        with pytest.raises(kind) as guarded:
            GuardedSlide(path)
        assert str(guarded.value) == str(here.value)
    slide = small_slide(tmp_path / "a.tif", mpp=None)
    with pytest.raises(SlideScaleError, match="no scale"):
        GuardedSlide(slide, mpp=-1.0)
    with GuardedSlide(slide) as guarded_slide:
        with pytest.raises(SlideScaleError, match="--mpp"):
            _ = guarded_slide.mpp
        with pytest.raises(ValueError, match="empty"):
            guarded_slide.read_box(0, 0, 0, 5, (5, 5))
    with pytest.raises(SlideUnreadableError, match="was closed"):
        guarded_slide.read_box(0, 0, 5, 5, (5, 5))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_unicode(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/lat\xe9n.tif"))
    small_slide(path)
    with GuardedSlide(path) as slide:
        assert slide.read_box(0, 0, 64, 64, (64, 64)).shape == (64, 64, 3)
    path.unlink()
    with pytest.raises(SlideNotFoundError) as error:
        GuardedSlide(path)
    assert printable(str(path)) in str(error.value)


def test_a_relative_path_is_this_process_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with GuardedSlide(small_slide(tmp_path / "first.tif")):
        (tmp_path / "elsewhere").mkdir()
        small_slide(tmp_path / "elsewhere" / "second.tif")
        monkeypatch.chdir(tmp_path / "elsewhere")
        with GuardedSlide("second.tif") as slide:
            assert slide.path == Path("second.tif") and slide.size == (512, 512)


def test_a_slide_that_ends_its_reader_is_named_and_harms_no_other(tmp_path: Path) -> None:
    good, bad = small_slide(tmp_path / "good.tif"), make_deadly(small_slide(tmp_path / "bad.tif"))
    with GuardedSlide(good) as beside, GuardedSlide(bad) as deadly:
        expected = beside.read_box(0, 0, 512, 512, (512, 512))
        read: list[bool] = []
        stop = threading.Event()

        def keep_reading() -> None:
            while not stop.is_set():
                read.append(np.array_equal(beside.read_box(0, 0, 512, 512, (512, 512)), expected))

        with ThreadPoolExecutor(3) as pool:
            reading = pool.submit(keep_reading)
            # Several threads at once, as composites are read.
            failing = [pool.submit(deadly.read_box, 0, 0, 64, 64, (64, 64)) for _ in range(2)]
            for future in failing:
                with pytest.raises(SlideFatalError, match=r"bad\.tif is damaged"):
                    future.result()
            stop.set()
            reading.result()
        with pytest.raises(SlideFatalError):
            deadly.read_box(200, 200, 64, 64, (64, 64))
        assert read and all(read)


@posix
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGABRT])
def test_a_reader_that_was_ended_is_replaced(tmp_path: Path, how: signal.Signals) -> None:
    with GuardedSlide(small_slide(tmp_path / "a.tif")) as slide:
        before = slide.read_box(0, 0, 512, 512, (512, 512))
        kill(how)
        assert np.array_equal(slide.read_box(0, 0, 512, 512, (512, 512)), before)
        kill(how)
        with pytest.raises(SlideUnreadableError) as error:
            slide.read_box(0, 0, 512, 512, (512, 512))
        # One who ends it from outside says nothing about the file.
        assert isinstance(error.value, SlideFatalError) == (how == signal.SIGABRT)
        assert how.name in str(error.value)


def test_slides_share_readers_and_closed_or_forgotten_ones_leave_nothing_open(tmp_path: Path) -> None:
    paths = [small_slide(tmp_path / f"{n}.tif", side=128) for n in range(20)]
    slides = [GuardedSlide(path) for path in paths]
    assert 1 <= len(readers()) <= 4
    if sys.platform == "linux":
        assert any(process.open_files() for process in readers())
        for slide in slides[:10]:
            slide.close()
        del slide, slides
        with GuardedSlide(paths[0]) as last:
            last.read_box(0, 0, 64, 64, (64, 64))
            open_files = {Path(file.path) for process in readers() for file in process.open_files()}
            assert open_files & set(paths) == {paths[0]}
