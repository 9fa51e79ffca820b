"""Features that another tool made, scored where they lie: which count, and which are refused."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import shapely
from helpers.drawn_bags import DIMENSION, write_cohort, write_drawn
from helpers.small_slides import small_slide

from bridge.annotations.regions import Annotation, build_regions
from bridge.results.schema import Outcome, SlideResult
from bridge.scoring.features_on_disk import FeaturesOnDisk, HeadScorer
from bridge.scoring.job import SlideJob, score_job
from bridge.scoring.options import ScoreOptions
from herohe_model.errors import ModelFileError
from herohe_model.features.find import find_features
from herohe_model.features.schema import FeatureFileError
from herohe_model.model.bag_model import BagModel, load_bag_model
from herohe_model.slides.guarded_slide import GuardedSlide
from herohe_model.training.bag_folds import FeatureSlide, train_bag_folds
from herohe_model.training.bag_loop import BagOptions
from herohe_model.training.cross_validation import FoldPlan

SIDE = 256
"""Of a patch, level-0 px: as the model has it, at the slide's scale."""

WHOLE = 8 * SIDE


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> BagModel:
    """A bag model whose patches have 256 px at 0.5 µm/px."""
    from helpers.drawn_bags import read_labels

    folder = tmp_path_factory.mktemp("model")
    labels = write_cohort(folder, 25)
    found = find_features(folder / "features")
    slides = [FeatureSlide(case, found[case.id]) for case in read_labels(labels).cases]
    options = BagOptions(width=8, epochs=2)
    trained = train_bag_folds(slides, FoldPlan("folds", 2), options, folder / "run", name="small")
    return load_bag_model(trained.model)


@pytest.fixture
def slide(tmp_path: Path, model: BagModel) -> Path:
    assert (model.card.patch_px, model.card.mpp) == (SIDE, 0.5)
    return small_slide(tmp_path / "s.tif", side=WHOLE, mpp=0.5)


def write(path: Path, corners: list[tuple[int, int]], *, side: int = SIDE) -> Path:
    rng = np.random.default_rng(len(corners))
    write_drawn(path, rng.normal(size=(len(corners), DIMENSION)).astype(np.float32))
    with h5py.File(path, "r+") as file:
        file["coords"][...] = np.array(corners)
        file["coords"].attrs["patch_size_level0"] = side
    return path


def score(
    slide: Path, features: Path, model: BagModel, *areas: shapely.Geometry, strict: bool = False
) -> SlideResult:
    with GuardedSlide(slide) as opened:
        drawn = [Annotation(f"id{k}", "", "Tumor", area) for k, area in enumerate(areas)]
        classes = ("Tumor",) if areas else ()
        regions = build_regions(drawn, region_classes=classes, exclude_classes=(), slide_box=opened.bounds)
    options = ScoreOptions(min_patches=2, artefacts="ignore", per_annotation=len(areas) > 1, strict=strict)
    job = SlideJob(
        entry="s", slide="s.tif", path="s.tif", file=str(slide), mpp=None, warnings=(), regions=regions,
        options=options, features=str(features),
    )  # fmt: skip
    return score_job(job, HeadScorer(model))


def test_only_patches_of_the_region_count_in_whatever_order_the_file_has_them(
    tmp_path: Path, slide: Path, model: BagModel
) -> None:
    grid = [(x, y) for y in range(0, WHOLE, SIDE) for x in range(0, WHOLE, SIDE)]
    shuffled = np.random.default_rng(0).permutation(len(grid)).tolist()
    file = write(tmp_path / "s.h5", [grid[i] for i in shuffled])
    # A triangle: patches of which less than half lies within are none of its.
    triangle = shapely.Polygon([(0, 0), (WHOLE, 0), (0, WHOLE)])
    square = shapely.box(4 * SIDE, 4 * SIDE, WHOLE, WHOLE)
    result = score(slide, file, model, triangle, square)
    assert result.outcome is Outcome.SCORED and len(result.annotations) == 2, result.message
    inside = [(p.x, p.y) for p in result.annotations[0].patches]
    expected = [(x, y) for x, y in grid if x + y + SIDE <= WHOLE]
    assert inside == expected
    with h5py.File(file) as opened:
        rows = {
            tuple(c): f for c, f in zip(opened["coords"][...].tolist(), opened["features"][...], strict=True)
        }
    bag = model.score(np.array([rows[corner] for corner in expected], dtype=np.float32))
    logits = result.annotations[0].composites[0].logits
    np.testing.assert_allclose(logits, bag.logits.mean(axis=0)[: len(logits)], atol=2e-6)
    assert result.union is not None and result.union.patches_foreground == len(expected) + 16
    assert result.union.foreground_threshold is None
    few = score(slide, file, model, shapely.box(0, 0, SIDE + 9, SIDE + 9))
    assert few.outcome is Outcome.INSUFFICIENT_TISSUE and "1 foreground patches" in few.message


@pytest.mark.parametrize(
    ("corners", "side", "said"),
    [
        ([(0, 0)] * 3, 512, "512 level-0 px"),
        ([(0, 0), (4000, 0), (SIDE, 0)], SIDE, "outside of the slide"),
        ([(0, 0), (-1, 0), (SIDE, 0)], SIDE, "outside of the slide"),
    ],
)
def test_features_of_another_grid_or_slide_are_refused_by_name(
    corners: list[tuple[int, int]], side: int, said: str, tmp_path: Path, slide: Path, model: BagModel
) -> None:
    result = score(slide, write(tmp_path / "s.h5", corners, side=side), model)
    assert result.outcome is Outcome.FAILED and said in result.message and "s.h5" in result.message


def test_features_of_another_encoder_or_without_places_are_refused(
    tmp_path: Path, slide: Path, model: BagModel
) -> None:
    file = write(tmp_path / "s.h5", [(0, 0), (SIDE, 0)])
    with h5py.File(file, "r+") as opened:
        del opened["coords"]
    with GuardedSlide(slide) as source, pytest.raises(FeatureFileError):
        FeaturesOnDisk(file, source, model.card, model)
    other = tmp_path / "other.h5"
    write_drawn(other, np.ones((20, DIMENSION), np.float32), encoder="other")
    assert "of other, not of small" in score(slide, other, model).message


def test_features_unlike_all_that_were_learned_from_are_warned_of_or_refused(
    tmp_path: Path, slide: Path, model: BagModel
) -> None:
    seen = model.card.features
    assert seen is not None and seen.slides == 25
    grid = [(x, y) for y in range(0, WHOLE, SIDE) for x in range(0, WHOLE, SIDE)]
    file = write(tmp_path / "s.h5", grid)
    like = score(slide, file, model)
    assert like.union is not None and like.union.feature_distance is not None
    assert 0 <= like.stain_percentiles["features"] <= 100
    assert not any("unlike" in warning for warning in like.warnings)
    with h5py.File(file, "r+") as opened:
        opened["features"][...] = opened["features"][...] + 3.0
    unlike = score(slide, file, model)
    assert unlike.outcome is Outcome.SCORED and unlike.stain_percentiles["features"] == 100
    assert any("farther off than those of all 25 slides" in warning for warning in unlike.warnings)
    refused = score(slide, file, model, strict=True)
    assert refused.outcome is Outcome.UNSUITABLE and "unlike what the model knows" in refused.message


def test_a_head_takes_no_pixels(model: BagModel) -> None:
    with HeadScorer(model) as scorer, pytest.raises(ModelFileError, match="without its encoder"):
        scorer.submit(np.zeros((256, 256, 3), np.uint8))
