"""What training sees: the order of composites, their pixels, and the foreground that is kept."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.small_training import (
    NO_AUGMENTATION,
    OPTIONS,
    PATCH_PX,
    SIDE,
    break_tiles,
    tiny_options,
    tiny_set,
    tiny_slides,
)
from shapely.geometry import box

from herohe_model.dataset.cases import Case
from herohe_model.errors import CancelledError, SlideUnreadableError
from herohe_model.sampling.patches import PatchSet
from herohe_model.slides.slide import Slide
from herohe_model.training.data import (
    CompositeReader,
    Curriculum,
    OpenSlides,
    Position,
    TrainingSlide,
    derived_seed,
    read_ahead,
)
from herohe_model.training.foreground_cache import Unusable, find_foreground
from herohe_model.training.options import TrainOptions
from herohe_model.training.step import TrainingSet

_MANY = [
    TrainingSlide(Case("train", str(k), ihc="3+" if k < 4 else "0"), Path(f"{k}.tif")) for k in range(20)
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    return tiny_set(tmp_path_factory.mktemp("slides"))


def found(slides: Sequence[TrainingSlide], folder: Path, options: TrainOptions = OPTIONS) -> list[PatchSet]:
    patches = find_foreground(
        slides, options, folder, workers=2, progress=lambda _: None, cancelled=lambda: False
    )
    return [p for p in patches if isinstance(p, PatchSet)]


def test_an_epoch_shows_every_slide_equally_often_in_another_order() -> None:
    options = tiny_options(composites_per_slide=3)
    curriculum = Curriculum(_MANY, options)
    epochs = [curriculum.places(range(e * 60, (e + 1) * 60)) for e in range(2)]
    for number, places in enumerate(epochs):
        assert {p.epoch for p in places} == {number}
        assert sorted((p.slide, p.number) for p in places) == [(s, k) for s in range(20) for k in range(3)]
    assert [p.slide for p in epochs[0]] != [p.slide for p in epochs[1]]


def test_balancing_by_levels_draws_each_level_equally_often() -> None:
    curriculum = Curriculum(_MANY, tiny_options(balance="levels"))
    counts = Counter(p.slide < 4 for p in curriculum.places(range(20 * 50)))
    assert counts[True] == pytest.approx(500, abs=10)


def test_a_slide_without_a_level_has_the_share_of_one_slide() -> None:
    unknown = replace(_MANY[0], case=Case("train", "nobody knows", status="HER2-positive"))
    curriculum = Curriculum([*_MANY, unknown], tiny_options(balance="levels"))
    counts = Counter(p.slide for p in curriculum.places(range(21 * 50)))
    assert counts[20] == pytest.approx(50, abs=2)
    assert sum(counts[k] for k in range(4)) == pytest.approx(500, abs=10)


def test_balancing_bits_makes_both_answers_weigh_the_same() -> None:
    options = tiny_options(balance="bits", batch=20)
    curriculum = Curriculum(_MANY, options)
    places = curriculum.places(range(20))
    weights = curriculum.loss_weights(places, 0)
    positive = np.array([place.slide < 4 for place in places])
    assert weights.sum() == pytest.approx(1)
    assert weights[positive].sum(axis=0) == pytest.approx(weights[~positive].sum(axis=0))


def test_the_weights_of_a_step_sum_to_one_and_skip_what_is_unknown() -> None:
    some = [replace(_MANY[0], case=Case("train", "a", status="HER2-positive")), *_MANY[1:4]]
    curriculum = Curriculum(some, tiny_options(batch=4))
    places = curriculum.places(range(4))
    weights = curriculum.loss_weights(places, 0)
    assert weights.sum() == pytest.approx(1)
    row = [place.slide for place in places].index(0)
    assert weights[row].tolist() == pytest.approx([0, 1 / 11, 1 / 11])


def test_composites_are_drawn_afresh_every_epoch_and_alike_from_the_same_seed(data: TrainingSet) -> None:
    reader = CompositeReader(data.slides, data.foreground, OPTIONS)
    first, again, next_epoch = (reader.read(Position(epoch, 2, 0)) for epoch in (0, 0, 1))
    assert (first.pixels == again.pixels).all()
    assert (first.pixels != next_epoch.pixels).any()
    other = CompositeReader(data.slides, data.foreground, tiny_options(seed=6)).read(Position(0, 2, 0))
    assert (first.pixels != other.pixels).any()


def test_a_composite_holds_patches_of_its_slide(data: TrainingSet) -> None:
    composite = CompositeReader(data.slides, data.foreground, OPTIONS).read(Position(0, 1, 0))
    patches = data.foreground[1]
    with Slide(data.slides[1].path) as source:
        cut = [
            source.read_box(int(x), int(y), patches.size, patches.size, (PATCH_PX, PATCH_PX))
            for x, y in zip(patches.x, patches.y, strict=True)
        ]
    pixels = composite.pixels.numpy()
    shown = [
        pixels[y : y + PATCH_PX, x : x + PATCH_PX]
        for y in range(0, SIDE, PATCH_PX)
        for x in range(0, SIDE, PATCH_PX)
    ]
    # The region has 25 patches, so each is shown once, somewhere.
    assert sorted(map(bytes, shown)) == sorted(map(bytes, cut))


def test_preloaded_composites_are_the_same(data: TrainingSet) -> None:
    read, kept = (CompositeReader(data.slides, data.foreground, OPTIONS) for _ in range(2))
    kept.preload(range(4), workers=2, progress=lambda _: None)
    assert kept.preload_bytes() == 4 * 25 * PATCH_PX**2 * 3
    for slide in range(4):
        assert (read.read(Position(3, slide, 0)).pixels == kept.read(Position(3, slide, 0)).pixels).all()


def test_without_augmentation_patches_are_not_turned(data: TrainingSet) -> None:
    options = tiny_options(augment=NO_AUGMENTATION)
    composite = CompositeReader(data.slides, data.foreground, options).read(Position(0, 0, 0))
    assert composite.augmentation is not None
    assert (composite.augmentation.turns == 0).all()


def test_open_slides_are_limited_and_still_readable_when_forgotten(data: TrainingSet) -> None:
    slides = OpenSlides(1)
    first = slides.get(data.slides[0].path, None)
    assert slides.get(data.slides[0].path, None) is first
    slides.get(data.slides[1].path, None)
    assert first.read_box(0, 0, 8, 8, (8, 8)).shape == (8, 8, 3)
    assert slides.get(data.slides[0].path, None) is not first


def test_reading_ahead_keeps_the_order_and_its_distance() -> None:
    started: list[int] = []
    lock = threading.Lock()

    def read(task: int) -> int:
        with lock:
            started.append(task)
        return task * task

    results = read_ahead(range(100), read, workers=4, ahead=5)
    assert next(results) == 0
    assert max(started) <= 6
    assert list(results) == [k * k for k in range(1, 100)]


def test_seeds_are_the_same_on_every_platform() -> None:
    assert derived_seed(1, 2, 3) == 6_498_626_229_777_268_288
    assert derived_seed(0, 1, 2) != derived_seed(0, 2, 1)


def test_foreground_is_found_inside_the_region_and_kept(tmp_path: Path) -> None:
    slides = tiny_slides(tmp_path)
    patches = found(slides, tmp_path / "cache")
    files = sorted((tmp_path / "cache").iterdir())
    assert len(files) == 4
    for of in patches:
        assert of.x.min() == PATCH_PX and of.x.max() == SIDE
    before = [file.stat().st_mtime_ns for file in files]
    again = found(slides, tmp_path / "cache")
    assert [file.stat().st_mtime_ns for file in files] == before
    assert all((a.x == b.x).all() and a.covered == b.covered for a, b in zip(patches, again, strict=True))


def test_another_region_threshold_or_slide_is_found_anew(tmp_path: Path) -> None:
    slides = tiny_slides(tmp_path)[:1]
    found(slides, tmp_path / "cache")
    moved = [replace(slides[0], geometry=box(0, 0, SIDE, SIDE))]
    found(moved, tmp_path / "cache")
    found(slides, tmp_path / "cache", tiny_options(foreground_threshold=0.05))
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_a_damaged_cache_file_is_made_again(tmp_path: Path) -> None:
    slides = tiny_slides(tmp_path)[:1]
    patches = found(slides, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:60])
    again = found(slides, tmp_path / "cache")
    assert (again[0].x == patches[0].x).all()


def test_slides_that_cannot_be_used_are_told_with_the_reason(tmp_path: Path) -> None:
    slides = tiny_slides(tmp_path)
    (tmp_path / "broken.tif").write_bytes(b"no slide")
    slides[1] = replace(slides[1], path=tmp_path / "broken.tif")
    slides[2] = replace(slides[2], geometry=box(0, 0, PATCH_PX, PATCH_PX))
    result = find_foreground(
        slides, OPTIONS, tmp_path / "cache", workers=2, progress=lambda _: None, cancelled=lambda: False
    )
    assert [isinstance(p, Unusable) for p in result] == [False, True, True, False]
    assert isinstance(result[1], Unusable) and "broken.tif" in result[1].reason
    assert isinstance(result[2], Unusable) and "at least 10 are needed" in result[2].reason


def test_finding_foreground_can_be_cancelled(tmp_path: Path) -> None:
    with pytest.raises(CancelledError):
        find_foreground(
            tiny_slides(tmp_path),
            OPTIONS,
            tmp_path / "cache",
            workers=1,
            progress=lambda _: None,
            cancelled=lambda: True,
        )


def test_another_patch_always_the_same_stands_in_for_one_that_cannot_be_read(tmp_path: Path) -> None:
    data = tiny_set(tmp_path)
    slides, patches = data.part([0])
    whole = CompositeReader(slides, patches, OPTIONS)
    every = np.arange(25)
    before = whole.read_held_out(0, every).pixels
    # The slide's second tile of 32 px in the second row; patches begin at 16 px.
    break_tiles(slides[0].path, [5])
    first, second = (CompositeReader(slides, patches, OPTIONS) for _ in range(2))
    found = first.read_held_out(0, every).pixels
    assert np.array_equal(found, second.read_held_out(0, every).pixels)
    changed = {
        index
        for index in range(25)
        for y, x in [divmod(index, 5)]
        if not np.array_equal(
            before[y * PATCH_PX : (y + 1) * PATCH_PX, x * PATCH_PX : (x + 1) * PATCH_PX],
            found[y * PATCH_PX : (y + 1) * PATCH_PX, x * PATCH_PX : (x + 1) * PATCH_PX],
        )
    }
    said = first.damage()
    assert changed == {6, 7, 11, 12} and len(said) == 4
    assert all(line.startswith("train/1: another patch stands in") for line in said)
    assert not first.damage()


def test_a_slide_without_any_readable_patch_is_given_up_by_name(tmp_path: Path) -> None:
    data = tiny_set(tmp_path)
    slides, patches = data.part([0])
    break_tiles(slides[0].path, range(16))
    with pytest.raises(SlideUnreadableError, match=r"1\.tif"):
        CompositeReader(slides, patches, OPTIONS).read_held_out(0, np.arange(25))
