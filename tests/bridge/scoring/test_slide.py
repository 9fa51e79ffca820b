from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from helpers.small_slides import (
    MPP,
    PATCH_PX,
    drawn,
    immunostained_picture,
    small_model,
    small_slide,
    tissue_picture,
)
from PIL import Image, ImageFilter
from shapely.geometry import box

from bridge.annotations.regions import Annotation, SlideRegions, build_regions
from bridge.results.schema import Outcome, Prediction, RegionResult, SlideResult, image_metadata
from bridge.scoring.options import ScoreOptions
from bridge.scoring.progress import Progress
from bridge.scoring.region import disagreement
from bridge.scoring.slide import failed_result, score_slide
from herohe_model.engines.scorer import Scorer
from herohe_model.errors import (
    CancelledError,
    EntryDamagedError,
    HeroheError,
    ServerBusyError,
    SlideUnreadableError,
    UnsuitableSlideError,
)
from herohe_model.model.card import ModelCard
from herohe_model.model.compute import Compute
from herohe_model.model.score import CompositeScorer
from herohe_model.sampling.likeness import FEWEST, stain_seen
from herohe_model.sampling.patches import find_patches
from herohe_model.slides.slide import Slide
from herohe_model.synthetic.phantom import draw_phantom, look_like_tissue
from herohe_model.synthetic.slides import write_tiff


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scorer]:
    scorer = Scorer.load(
        small_model(tmp_path_factory.mktemp("model") / "m.safetensors"), Compute("cpu", "fp32")
    )
    yield scorer
    scorer.close()


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slide]:
    with Slide(small_slide(tmp_path_factory.mktemp("slide") / "s.tif")) as slide:
        yield slide


def regions_of(slide: Slide, *annotations: Annotation, classes: tuple[str, ...] = ("Tumor",)) -> SlideRegions:
    return build_regions(annotations, region_classes=classes, exclude_classes=(), slide_box=slide.bounds)


def score(slide: Slide, regions: SlideRegions, scorer: CompositeScorer, **options: object) -> SlideResult:
    chosen = msgspec.convert(options, ScoreOptions)
    return score_slide(slide, regions, chosen, scorer, entry="1", slide="s.tif")


def test_every_sampled_patch_lies_in_the_region(slide: Slide, scorer: Scorer) -> None:
    drawn_area = drawn(64, 96, 256, 288)
    result = score(slide, regions_of(slide, drawn_area), scorer, min_coverage=1.0)
    assert result.union is not None and result.outcome is Outcome.SCORED
    assert result.union.patches
    for patch in result.union.patches:
        assert drawn_area.geometry.covers(box(patch.x, patch.y, patch.x + patch.size, patch.y + patch.size))


def test_scoring_twice_gives_the_same_bytes(slide: Slide, scorer: Scorer) -> None:
    regions = regions_of(slide, drawn(64, 64, 320, 320))
    first, second = (score(slide, regions, scorer, composites=3) for _ in range(2))
    assert msgspec.json.encode(first) == msgspec.json.encode(second)


def test_the_way_pixels_are_read_changes_no_byte(slide: Slide, scorer: Scorer) -> None:
    regions = regions_of(slide, drawn(40, 40, 300, 320), drawn(200, 40, 280, 400, id="b"))
    results = []
    for options in ({}, {"fast": False}, {"readers": 1}, {"readers": 4}):
        with Slide(slide.path, **options) as other:
            result = score(other, regions, scorer, composites=None, per_annotation=True)
        results.append(msgspec.json.encode(result))
    assert len(set(results)) == 1


def test_another_seed_draws_other_composites_and_is_another_run(slide: Slide, scorer: Scorer) -> None:
    regions = regions_of(slide, drawn(64, 64, 320, 320))
    first, second = (score(slide, regions, scorer, seed=seed) for seed in (0, 1))
    assert first.union and second.union and first.provenance and second.provenance
    assert first.union.patches != second.union.patches
    assert first.provenance.run != second.provenance.run


def test_all_composites_cover_every_foreground_patch(slide: Slide, scorer: Scorer) -> None:
    result = score(slide, regions_of(slide, drawn(64, 64, 320, 320)), scorer, composites=None)
    assert result.union is not None
    assert result.union.patches_sampled == result.union.patches_foreground == 100
    assert len(result.union.composites) == 4


def test_probabilities_are_ordered_and_levels_sum_to_one(slide: Slide, scorer: Scorer) -> None:
    prediction = _prediction(score(slide, regions_of(slide, drawn(64, 64, 320, 320)), scorer))
    assert prediction.at_least["1+"] >= prediction.at_least["2+"] >= prediction.at_least["3+"]
    assert sum(prediction.levels.values()) == pytest.approx(1.0, abs=5e-6)
    assert prediction.expected_grade == pytest.approx(sum(prediction.at_least.values()), abs=5e-6)


def test_contributions_add_up_to_the_logits(slide: Slide, scorer: Scorer) -> None:
    union = score(slide, regions_of(slide, drawn(64, 64, 320, 320)), scorer).union
    assert union is not None
    for composite in union.composites:
        shares = [p.contributions for p in union.patches if p.composite == composite.index]
        assert len(shares) == 25
        np.testing.assert_allclose(np.sum(shares, axis=0), composite.logits, atol=1e-4)


def test_too_little_tissue_is_said_and_not_guessed(slide: Slide, scorer: Scorer) -> None:
    result = score(slide, regions_of(slide, drawn(64, 64, 96, 96)), scorer)
    assert result.outcome is Outcome.INSUFFICIENT_TISSUE
    assert result.union is not None and result.union.prediction is None
    assert "9 foreground patches" in result.message and "min-patches" in result.message


def test_glass_in_the_region_is_never_sampled(slide: Slide, scorer: Scorer) -> None:
    result = score(slide, regions_of(slide, drawn(0, 0, 512, 512)), scorer, composites=None)
    assert result.union is not None and result.union.patches_foreground == 14 * 14
    assert min(p.x for p in result.union.patches) == 32


def test_without_a_matching_annotation_the_classes_present_are_named(slide: Slide, scorer: Scorer) -> None:
    result = score(slide, regions_of(slide, drawn(0, 0, 99, 99, class_name="Stroma")), scorer)
    assert result.outcome is Outcome.NO_MATCHING_ANNOTATION and "Stroma" in result.message


def test_each_annotation_is_scored_for_itself_on_request(slide: Slide, scorer: Scorer) -> None:
    left, right = drawn(32, 32, 192, 320, id="left"), drawn(256, 32, 192, 320, id="right")
    result = score(slide, regions_of(slide, left, right), scorer, per_annotation=True)
    assert [r.region for r in result.annotations] == ["left", "right"]
    for region, annotation in zip(result.annotations, (left, right), strict=True):
        assert region.prediction is not None
        assert all(annotation.geometry.intersects(box(p.x, p.y, p.x + 1, p.y + 1)) for p in region.patches)
    assert result.union is not None and result.union.annotations == ("left", "right")


def test_an_annotation_alone_is_the_union_and_computed_once(slide: Slide, scorer: Scorer) -> None:
    seen: list[Progress] = []
    options = ScoreOptions(composites=2, per_annotation=True)
    regions = regions_of(slide, drawn(64, 64, 320, 320))
    result = score_slide(slide, regions, options, scorer, entry="1", slide="s", progress=seen.append)
    assert seen[-1] == Progress("composites", 2, 2)
    (alone,) = result.annotations
    assert (alone.region, alone.name, alone.class_name) == ("a1", "drawn a1", "Tumor")
    assert result.union == msgspec.structs.replace(alone, region="slide", name="")


def test_a_slide_has_no_grade_where_none_of_its_annotations_is_large_enough(
    slide: Slide, scorer: Scorer
) -> None:
    small = [drawn(64 + 160 * n, 64, 96, 96, id=f"a{n}") for n in range(2)]
    together = score(slide, regions_of(slide, *small), scorer)
    assert together.outcome is Outcome.SCORED
    result = score(slide, regions_of(slide, *small), scorer, per_annotation=True)
    assert result.outcome is Outcome.INSUFFICIENT_TISSUE
    assert result.union is not None and result.union.prediction is None
    assert "together they have 18" in result.message
    assert image_metadata(result)["HER2-HE grade"] == ""


def test_slide_and_annotations_that_disagree_say_so() -> None:
    at_least = {"1+": 0.2, "2+": 0.1, "3+": 0.1}
    low = Prediction("0", "HER2-negative", 0.1, 0.0, 0.4, at_least, {"0": 0.8})
    high = msgspec.structs.replace(low, grade="3+", status="HER2-positive")
    union = RegionResult("slide", "", "", ("a", "b"), Outcome.SCORED, prediction=low)
    named = RegionResult("a", "left", "Tumor", ("a",), Outcome.SCORED, prediction=high)
    alike = RegionResult("b", "", "", ("b",), Outcome.SCORED, prediction=low)
    (warning,) = disagreement(union, [named, alike])
    assert "called 0, HER2-negative, but left 3+, HER2-positive." in warning
    assert disagreement(union, [alike]) == ()
    assert (named.title, alike.title) == ("left", "Annotation")


def test_a_slide_that_is_not_he_is_refused_unless_any_stain_will_do(tmp_path: Path, scorer: Scorer) -> None:
    write_tiff(tmp_path / "brown.tif", immunostained_picture(512), mpp=MPP, tile=128)
    with Slide(tmp_path / "brown.tif") as brown:
        regions = regions_of(brown, drawn(64, 64, 320, 320))
        refused = score(brown, regions, scorer)
        assert refused.outcome is Outcome.UNSUITABLE and refused.union is None
        assert "brown, as by DAB" in refused.message and "--any-stain" in refused.message
        whatever = score(brown, regions, scorer, any_stain=True)
        assert whatever.outcome is Outcome.SCORED
        assert whatever.union is not None and whatever.union.artefacts is None, "nothing was looked for"


def test_unsampled_foreground_is_kept_on_request(slide: Slide, scorer: Scorer) -> None:
    regions = regions_of(slide, drawn(64, 64, 320, 320))
    union = score(slide, regions, scorer, composites=1, keep_unsampled=True).union
    assert union is not None
    assert len(union.unsampled) == 100 - 25
    places = {(p.x, p.y) for p in union.unsampled} | {(p.x, p.y) for p in union.patches}
    assert len(places) == 100


def test_the_result_says_what_made_it(slide: Slide, scorer: Scorer) -> None:
    provenance = score(slide, regions_of(slide, drawn(64, 64, 320, 320)), scorer, seed=5).provenance
    assert provenance is not None
    assert provenance.model_sha256 == scorer.info.model_sha256 and provenance.seed == 5
    assert provenance.patch_px == PATCH_PX and provenance.options["composites"] == 8
    assert {"torch", "openslide-bin"} <= provenance.versions.keys()
    assert provenance.note.startswith("Research use only")


def test_a_coarse_slide_is_scored_with_a_warning(tmp_path: Path, scorer: Scorer) -> None:
    with Slide(small_slide(tmp_path / "coarse.tif", mpp=1.0)) as slide:
        result = score(slide, regions_of(slide, drawn(0, 0, 512, 512)), scorer)
    assert result.outcome is Outcome.SCORED
    assert any("coarse" in warning for warning in result.warnings)


def test_cancelling_stops_within_a_composite(slide: Slide, scorer: Scorer) -> None:
    seen: list[Progress] = []
    with pytest.raises(CancelledError):
        score_slide(
            slide,
            regions_of(slide, drawn(64, 64, 320, 320)),
            ScoreOptions(composites=50),
            scorer,
            entry="1",
            slide="s.tif",
            progress=seen.append,
            cancelled=lambda: bool(seen) and seen[-1].done >= 2,
        )
    assert seen[-1].done <= 3


def test_progress_ends_with_all_composites_done(slide: Slide, scorer: Scorer) -> None:
    seen: list[Progress] = []
    regions = regions_of(slide, drawn(64, 64, 320, 320))
    score_slide(slide, regions, ScoreOptions(), scorer, entry="1", slide="s", progress=seen.append)
    assert seen[-1] == Progress("composites", 8, 8)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (SlideUnreadableError("x.svs is truncated"), Outcome.UNREADABLE),
        (EntryDamagedError("data.qpdata"), Outcome.UNREADABLE),
        (UnsuitableSlideError("x.svs is fluorescent"), Outcome.UNSUITABLE),
        (ServerBusyError("no answer"), Outcome.FAILED),
        (CancelledError("stopped"), Outcome.CANCELLED),
    ],
)
def test_an_error_becomes_the_outcome_it_stands_for(error: Exception, outcome: Outcome) -> None:
    assert isinstance(error, HeroheError)
    result = failed_result(error, entry="1", slide="x.svs")
    assert result.outcome is outcome and result.error_code == error.code and result.message == str(error)


def _prediction(result: SlideResult) -> Prediction:
    assert result.union is not None and result.union.prediction is not None
    return result.union.prediction


def test_artefacts_are_left_out_counted_and_said(tmp_path: Path, scorer: Scorer) -> None:
    picture = np.array(tissue_picture(512), dtype=np.float32)
    picture[:256] *= np.array((40, 150, 70), dtype=np.float32) / 255
    write_tiff(tmp_path / "pen.tif", picture.astype(np.uint8), mpp=MPP, tile=128)
    with Slide(tmp_path / "pen.tif") as slide:
        half = score(slide, regions_of(slide, drawn(64, 64, 384, 384)), scorer)
        pure = score(slide, regions_of(slide, drawn(64, 64, 384, 160)), scorer)
        marked = score(slide, regions_of(slide, drawn(64, 64, 384, 384)), scorer, artefacts="mark")
        ignored = score(slide, regions_of(slide, drawn(64, 64, 384, 384)), scorer, artefacts="ignore")
    assert half.union is not None and half.union.artefacts == {"pen": 72} and half.outcome is Outcome.SCORED
    assert all(patch.y >= 256 for patch in half.union.patches)
    assert any(
        "50% of the tissue patches are artefacts (72 pen) and were left out" in w for w in half.warnings
    )
    assert pure.outcome is Outcome.INSUFFICIENT_TISSUE and "60 pen were left out as artefacts" in pure.message
    assert marked.union is not None and marked.union.patches_foreground == 144
    assert {patch.artefact for patch in marked.union.patches} == {"", "pen"}
    assert ignored.union is not None and ignored.union.artefacts is None


def test_a_slide_out_of_focus_is_not_scored_unless_it_is_asked_for(tmp_path: Path, scorer: Scorer) -> None:
    tissue = look_like_tissue(draw_phantom("2+", seed=1, side=1024), seed=1)[256:768, 256:768]
    soft = Image.fromarray(tissue).filter(ImageFilter.GaussianBlur(4))
    write_tiff(tmp_path / "soft.tif", np.asarray(soft), mpp=MPP, tile=128)
    with Slide(tmp_path / "soft.tif") as slide:
        refused = score(slide, regions_of(slide, drawn(64, 64, 384, 384)), scorer)
        marked = score(slide, regions_of(slide, drawn(64, 64, 384, 384)), scorer, artefacts="mark")
    assert refused.outcome is Outcome.UNSUITABLE and "is out of focus" in refused.message
    assert marked.outcome is Outcome.SCORED and marked.union is not None
    assert marked.union.out_of_focus is not None and marked.union.out_of_focus > 0.5
    assert any("are blurred" in warning for warning in marked.warnings)


def test_sharp_patches_are_drawn_in_the_place_of_blurred_ones(tmp_path: Path, scorer: Scorer) -> None:
    tissue = look_like_tissue(draw_phantom("2+", seed=1, side=1024), seed=1)[256:768, 256:768]
    soft = np.asarray(Image.fromarray(tissue).filter(ImageFilter.GaussianBlur(4)))
    half = np.concatenate([soft[:, :224], tissue[:, 224:]], axis=1)
    write_tiff(tmp_path / "half.tif", half, mpp=MPP, tile=128)
    of = {}
    with Slide(tmp_path / "half.tif") as slide:
        for rule in ("leave-out", "mark"):
            region = regions_of(slide, drawn(64, 64, 384, 384))
            of[rule] = score(slide, region, scorer, artefacts=rule, composites=2)
            again = score(slide, region, scorer, artefacts=rule, composites=2)
            assert again == of[rule]
    blurred = {}
    for rule, result in of.items():
        assert result.outcome is Outcome.SCORED and result.union is not None, result.message
        assert len(result.union.composites) == 2 and result.union.out_of_focus is not None
        blurred[rule] = np.mean([patch.x + patch.size <= 224 for patch in result.union.patches])
    assert blurred["mark"] > 0.3 and blurred["leave-out"] < 0.2, blurred
    assert any("sharp ones were drawn in their place" in warning for warning in of["leave-out"].warnings)


def test_a_stain_unlike_that_of_training_is_said_and_refused_when_asked_for(
    slide: Slide, scorer: Scorer, tmp_path: Path
) -> None:
    stains = []
    for seed in range(FEWEST):
        with Slide(small_slide(tmp_path / "t.tif", seed=seed)) as of_training:
            stains.append(find_patches(of_training, None, patch_px=32, mpp=0.5, threshold=0.07).stain)
    card = msgspec.structs.replace(scorer.info.card, stain=stain_seen(stains))
    knowing = Knowing(scorer, card)
    pale = (255 * (tissue_picture(512) / 255.0) ** 0.4).astype(np.uint8)
    write_tiff(tmp_path / "pale.tif", pale, mpp=MPP, tile=128)
    region = drawn(64, 64, 320, 320)
    like = score(slide, regions_of(slide, region), knowing)
    with Slide(tmp_path / "pale.tif") as other:
        warned = score(other, regions_of(other, region), knowing)
        refused = score(other, regions_of(other, region), knowing, strict=True)
    assert set(like.stain_percentiles) == {"density", "red", "blue"}
    assert not any("unlike" in warning for warning in like.warnings)
    assert warned.outcome is Outcome.SCORED
    assert any("is stained unlike what the model knows: paler than all 20" in w for w in warned.warnings)
    assert refused.outcome is Outcome.UNSUITABLE and "paler than all 20 slides" in refused.message


class Knowing:
    """A scorer whose card says what it was trained on."""

    head = None

    def __init__(self, scorer: Scorer, card: ModelCard) -> None:
        self.info = dataclasses.replace(scorer.info, card=card)
        self.submit, self.close = scorer.submit, scorer.close
