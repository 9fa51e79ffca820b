"""A probe of tissue: what it tells on slides it has not seen, and what it does not."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.numpy
import shapely
from sklearn.linear_model import LogisticRegression

from herohe_model.errors import CancelledError, HeroheError, OptionError
from herohe_model.features.probe import Probe, ProbeCard, load_probe, outlines, smoothed
from herohe_model.features.schema import FeatureFacts, FeatureFileError
from herohe_model.training.probe import DrawnSlide, learn_probe

DIMENSION = 24
SIDE = 224
GRID = 20
CARD = ProbeCard(
    region_classes=("Tumor",), encoder="small", dimension=DIMENSION, patch_px=224, mpp=0.5, weights_sha256="",
    threshold=0.5, held_out=(), versions={},
)  # fmt: skip


def drawn_slide(seed: int, name: str = "", *, signal: float = 1.0) -> DrawnSlide:
    """A slide of 20 x 20 patches with a round tumour: features shifted there, a stain of its own, noise."""
    rng = np.random.default_rng(seed)
    corners = np.array([(x * SIDE, y * SIDE) for y in range(GRID) for x in range(GRID)])
    middle, radius = rng.uniform(6, 14, 2) * SIDE, rng.uniform(3, 6) * SIDE
    tumour = shapely.Point(middle).buffer(radius)
    squares = shapely.box(corners[:, 0], corners[:, 1], corners[:, 0] + SIDE, corners[:, 1] + SIDE)
    inside = shapely.area(shapely.intersection(tumour, squares)) / SIDE**2
    features = rng.normal(size=(len(corners), DIMENSION)) + rng.normal(size=DIMENSION) * 0.5
    features[:, :3] += signal * inside[:, None]
    return DrawnSlide(
        name or f"s{seed}.tif", features.astype(np.float16), corners, SIDE, inside, float(tumour.area), 0.5
    )


def test_slides_that_were_not_seen_are_told_and_the_figures_hold_for_new_ones() -> None:
    probe = learn_probe([drawn_slide(seed) for seed in range(12)], CARD)
    held_out = probe.card.held_out
    mean = float(np.mean([slide.dice for slide in held_out]))
    assert mean > 0.7 and mean > np.mean([slide.dice_of_all for slide in held_out]) + 0.25
    new = []
    for seed in range(100, 130):
        slide = drawn_slide(seed)
        chosen = smoothed(slide.corners, SIDE, probe.probabilities(slide.features)) >= probe.card.threshold
        areas = shapely.union_all(outlines(slide.corners, SIDE, chosen, least=0))
        mine = slide.corners[slide.inside > 0.5]
        truth = shapely.union_all(shapely.box(*mine.T, *(mine.T + SIDE)))
        new.append(2 * areas.intersection(truth).area / (areas.area + truth.area))
    # What is said of held-out slides is what new ones get, and no better.
    assert abs(np.mean(new) - mean) < 0.06, (np.mean(new), mean)
    (first,) = [s for s in held_out if s.slide == "s0.tif"]
    assert first.drawn_mm2 == pytest.approx(drawn_slide(0).drawn_px * 0.25 / 1e6, abs=1e-4)


def test_where_features_tell_nothing_a_probe_is_no_better_than_all_tissue() -> None:
    probe = learn_probe([drawn_slide(seed, signal=0.0) for seed in range(12)], CARD)
    gain = [slide.dice - slide.dice_of_all for slide in probe.card.held_out]
    assert np.mean(gain) < 0.03


def test_it_is_the_logistic_regression_of_scikit_learn() -> None:
    """On slides of as many patches inside as outside and of one size, its weights are plain ones."""
    slides = []
    for seed in range(3):
        slide = drawn_slide(seed)
        inside = (np.argsort(np.argsort(slide.inside)) >= GRID * GRID // 2).astype(float)
        slides.append(
            DrawnSlide(slide.name, slide.features, slide.corners, SIDE, inside, slide.drawn_px, 0.5)
        )
    probe = learn_probe(slides, CARD)
    x = np.concatenate([s.features.astype(np.float64) for s in slides])
    y = np.concatenate([s.inside for s in slides])
    # Its penalty is half the squares, ours the squares, beside a mean instead of a sum.
    theirs = LogisticRegression(C=1 / (2e-3 * len(y)), tol=1e-8, max_iter=1000)
    theirs.fit((x - probe.centre) / probe.scale, y)
    np.testing.assert_allclose(probe.weight, theirs.coef_[0], atol=2e-3)
    np.testing.assert_allclose(probe.bias, theirs.intercept_[0], atol=2e-3)


def test_slides_of_one_patient_are_held_out_together() -> None:
    """A slide that is there twice would be told by its copy: of noise, the copy tells everything."""
    names = [f"TCGA-A1-A0S{k // 2}-01Z-00-DX{k % 2}.svs" for k in range(10)]
    slides = []
    for k, name in enumerate(names):
        slide = drawn_slide(k // 2, name, signal=0.0)
        wide = np.concatenate([slide.features, np.random.default_rng(k // 2).normal(size=(400, 400))], axis=1)
        slides.append(
            DrawnSlide(name, wide.astype(np.float16), slide.corners, SIDE, slide.inside, slide.drawn_px, 0.5)
        )
    card = msgspec.structs.replace(CARD, dimension=DIMENSION + 400)
    gain = [s.dice - s.dice_of_all for s in learn_probe(slides, card).card.held_out]
    assert np.mean(gain) < 0.05
    with pytest.raises(OptionError, match="2 patients"):
        learn_probe(slides[:4], card)


def test_a_slide_that_is_all_tumour_or_a_stop_is_said() -> None:
    slides = [drawn_slide(seed) for seed in range(4)]
    everything = [
        DrawnSlide(s.name, s.features, s.corners, SIDE, np.ones(len(s.inside)), 1.0, 0.5) for s in slides
    ]
    with pytest.raises(OptionError, match="No patch lies outside"):
        learn_probe(everything, CARD)
    with pytest.raises(CancelledError):
        learn_probe(slides, CARD, stop=lambda: True)


def test_neighbours_are_those_of_the_grid_even_where_it_has_gaps() -> None:
    corners = np.array([(0, 0), (100, 1), (199, 0), (100, 99), (500, 500)])
    mean = smoothed(corners, 100, np.array([0.0, 1.0, 0.0, 1.0, 0.25]))
    np.testing.assert_allclose(mean, [2 / 3, 0.5, 2 / 3, 0.5, 0.25])
    assert len(smoothed(corners[:0], 100, np.empty(0))) == 0


def test_small_areas_are_left_out_and_small_holes_closed() -> None:
    corners = np.array([(x * 10, y * 10) for y in range(5) for x in range(5)] + [(90, 90)])
    chosen = np.ones(26, dtype=bool)
    chosen[12] = False
    (area,) = outlines(corners, 10, chosen, least=150)
    assert not area.interiors and area.area == pytest.approx(51**2) and area.is_valid
    whole, alone = outlines(corners, 10, chosen, least=0)
    assert len(whole.interiors) == 1 and alone.area == 121
    assert outlines(corners, 10, np.zeros(26, dtype=bool), least=0) == []


def test_a_probe_is_read_as_it_was_written_and_nothing_else_is(tmp_path: Path) -> None:
    probe = learn_probe([drawn_slide(seed) for seed in range(4)], CARD)
    file = tmp_path / "probe.safetensors"
    probe.save(file)
    again = load_probe(file)
    assert again.card == probe.card and again.bias == probe.bias
    np.testing.assert_array_equal(again.weight, probe.weight)
    first = file.read_bytes()
    learn_probe([drawn_slide(seed) for seed in range(4)], CARD).save(file)
    assert file.read_bytes() == first
    bad = {
        "cut": first[: len(first) // 2],
        "none": safetensors.numpy.save({"x": np.zeros(2)}),
        "shape": safetensors.numpy.save(
            {"centre": np.zeros(2), "scale": np.ones(2), "weight": np.zeros(2), "bias": np.zeros(1)},
            {"probe": msgspec.json.encode(probe.card).decode()},
        ),
        "version": safetensors.numpy.save(
            {n: getattr(probe, n) for n in ("centre", "scale", "weight")} | {"bias": np.zeros(1)},
            {"probe": msgspec.json.encode(msgspec.structs.replace(probe.card, version=9)).decode()},
        ),
        "empty": b"",
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(HeroheError):
            load_probe(tmp_path / name)
    with pytest.raises(HeroheError):
        load_probe(tmp_path / "missing")


def test_features_of_another_kind_are_refused_by_name() -> None:
    probe = Probe(CARD, np.zeros(DIMENSION), np.ones(DIMENSION), np.zeros(DIMENSION), 0.0)
    good = {"encoder": "small", "dimension": DIMENSION, "patch_px": 224, "mpp": 0.5}
    probe.check(FeatureFacts(Path("s.h5"), "s", "trident", count=3, **good))
    for changed in ({"encoder": "other"}, {"dimension": 9}, {"patch_px": 256}, {"mpp": 1.0}):
        with pytest.raises(FeatureFileError, match=r"s\.h5 does not hold"):
            probe.check(FeatureFacts(Path("s.h5"), "s", "trident", count=3, **{**good, **changed}))
