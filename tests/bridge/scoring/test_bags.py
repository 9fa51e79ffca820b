"""A bag model scores slides: every patch counts, none is embedded twice, every way gives the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from helpers.servers import serving
from helpers.small_bags import PATCH_PX, bag_model, small_weights
from helpers.small_slides import drawn, small_slide
from numpy.typing import NDArray

from bridge.annotations.regions import Annotation, SlideRegions, build_regions
from bridge.batch.options import BatchOptions
from bridge.client.client import Client
from bridge.client.locate import FixedServer
from bridge.extraction.slide import ExtractionOptions, SlideWork, extract_slide
from bridge.protocol.messages import ScoreSlide
from bridge.results.schema import Outcome, SlideResult
from bridge.scoring.feature_cache import FeatureCache
from bridge.scoring.options import ScoreOptions
from bridge.scoring.progress import Progress
from bridge.scoring.slide import score_slide
from bridge.server.server import ServerSettings
from herohe_model.encoders.weights import LoadedWeights
from herohe_model.engines.bag_scorer import BagScorer, encoder_weights, load_scorer
from herohe_model.engines.embedder import Embedder
from herohe_model.errors import CancelledError, ModelFileError
from herohe_model.features.read import read_features
from herohe_model.model.bag_model import load_bag_model
from herohe_model.model.compute import Compute
from herohe_model.model.score import CompositeScore
from herohe_model.slides.slide import Slide
from herohe_model.slides.view import SlideView

COMPUTE = Compute("cpu", "fp32", "torch")


class Counted(BagScorer):
    """Counts the patches that it embeds."""

    embedded = 0

    def submit(self, pixels: NDArray[np.uint8]) -> Future[CompositeScore]:
        self.embedded += len(pixels) // PATCH_PX
        return super().submit(pixels)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> LoadedWeights:
    return small_weights(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, weights: LoadedWeights) -> Path:
    return bag_model(tmp_path_factory.mktemp("model") / "bag.safetensors", weights)


@pytest.fixture(scope="module")
def scorer(model: Path) -> Iterator[Counted]:
    loaded = load_bag_model(model)
    with Counted(loaded, encoder_weights(loaded.card), COMPUTE) as scorer:
        yield scorer


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slide]:
    with Slide(small_slide(tmp_path_factory.mktemp("slide") / "s.tif")) as slide:
        yield slide


def regions_of(slide: Slide, *annotations: Annotation) -> SlideRegions:
    return build_regions(annotations, region_classes=("Tumor",), exclude_classes=(), slide_box=slide.bounds)


def score(
    slide: Slide,
    regions: SlideRegions,
    scorer: BagScorer,
    cache: FeatureCache | None = None,
    **options: object,
) -> SlideResult:
    chosen = msgspec.convert(options, ScoreOptions)
    return score_slide(slide, regions, chosen, scorer, entry="1", slide="s.tif", cache=cache)


def test_all_patches_of_a_region_count_as_in_a_file_of_features(
    slide: Slide, scorer: Counted, model: Path, weights: LoadedWeights, tmp_path: Path
) -> None:
    regions = regions_of(slide, drawn(64, 64, 320, 320))
    union = score(slide, regions, scorer).union
    assert union is not None and union.prediction is not None
    assert union.patches_sampled == union.patches_foreground == len(union.patches) == 100
    assert [patch.cell for patch in union.patches] == list(range(100))

    work = SlideWork("s.tif", "s", regions, slide.fingerprint, None, SlideView())
    options = ExtractionOptions(BatchOptions(), patch_px=PATCH_PX, mpp=0.5)
    with Embedder(weights, COMPUTE) as embedder:
        extract_slide(
            slide, work, options, embedder, tmp_path / "s.h5", progress=lambda _: None, stop=lambda: False
        )
    features = read_features(tmp_path / "s.h5").features
    bag = load_bag_model(model).score(features)
    assert union.composites[0].logits == tuple(round(float(z), 6) for z in bag.logits.mean(axis=0))
    assert [patch.attention for patch in union.patches] == [round(float(a), 6) for a in bag.attention]
    each = np.array([patch.contributions for patch in union.patches])
    np.testing.assert_allclose(each.sum(axis=0), union.composites[0].logits, atol=1e-4)


def test_no_patch_is_embedded_twice_whatever_is_drawn_or_asked(
    slide: Slide, scorer: Counted, tmp_path: Path
) -> None:
    cache = FeatureCache(tmp_path)
    alone = score(slide, regions_of(slide, drawn(64, 64, 320, 320)), scorer)
    before = scorer.embedded
    first = score(slide, regions_of(slide, drawn(64, 64, 320, 320)), scorer, cache)
    assert scorer.embedded == before + 100
    again = score(slide, regions_of(slide, drawn(64, 64, 320, 320)), scorer, FeatureCache(tmp_path))
    assert scorer.embedded == before + 100
    assert msgspec.json.encode(alone) == msgspec.json.encode(first) == msgspec.json.encode(again)
    two = (drawn(64, 64, 192, 320), drawn(192, 64, 224, 320, id="b"))
    wider = score(slide, regions_of(slide, *two), scorer, cache, per_annotation=True, seed=3)
    assert [region.patches_foreground for region in wider.annotations] == [60, 70]
    assert scorer.embedded == before + 110


def test_what_was_embedded_before_a_stop_is_not_embedded_again(
    slide: Slide, scorer: Counted, tmp_path: Path
) -> None:
    regions, cache = regions_of(slide, drawn(0, 0, 512, 512)), FeatureCache(tmp_path)
    told: list[Progress] = []

    def stop() -> bool:
        return bool(told) and told[-1].stage == "patches" and told[-1].done >= 32

    before = scorer.embedded
    with pytest.raises(CancelledError):
        score_slide(slide, regions, ScoreOptions(), scorer, cache=cache, progress=told.append, cancelled=stop)
    stopped = scorer.embedded - before
    assert 0 < stopped < 256
    result = score(slide, regions, scorer, cache)
    assert msgspec.json.encode(result) == msgspec.json.encode(score(slide, regions, scorer))
    assert len(list(cache.folder.rglob("*.safetensors"))) == 2, "what was embedded until the stop was kept"


def test_the_cache_stays_within_its_limit_and_a_damaged_file_counts_as_none(
    slide: Slide, scorer: Counted, tmp_path: Path
) -> None:
    regions = regions_of(slide, drawn(64, 64, 320, 320))
    result = score(slide, regions, scorer, FeatureCache(tmp_path))
    (part,) = FeatureCache(tmp_path).folder.rglob("*.safetensors")
    part.write_bytes(part.read_bytes()[:-9])
    before = scorer.embedded
    again = score(slide, regions, scorer, FeatureCache(tmp_path))
    assert msgspec.json.encode(again) == msgspec.json.encode(result)
    assert scorer.embedded == before + 100
    score(slide, regions, scorer, FeatureCache(tmp_path, limit_bytes=1))
    assert list(FeatureCache(tmp_path).folder.rglob("*.safetensors")) == []


def test_too_little_tissue_embeds_nothing(slide: Slide, scorer: Counted) -> None:
    before = scorer.embedded
    result = score(slide, regions_of(slide, drawn(0, 0, 64, 64)), scorer)
    assert (result.outcome, scorer.embedded) == (Outcome.INSUFFICIENT_TISSUE, before)


def test_the_server_gives_the_numbers_of_this_process(slide: Slide, scorer: Counted, model: Path) -> None:
    """From the client's patches, and from the file that the server reads itself."""
    region = drawn(64, 64, 320, 320)
    regions = build_regions(
        (region,), region_classes=(), exclude_classes=(), slide_box=slide.bounds, everything=True
    )
    here = score_slide(slide, regions, ScoreOptions(), scorer, entry="1", slide="s.tif")
    settings = ServerSettings(model, workers=(COMPUTE,))
    with serving(settings) as running, Client(FixedServer(running.address)) as client:
        assert client.info == scorer.info
        there = score_slide(slide, regions, ScoreOptions(), client, entry="1", slide="s.tif")
        request = ScoreSlide(id="r", entry="1", slide="s.tif", path=str(slide.path))
        geojson = msgspec.json.encode(
            {
                "type": "FeatureCollection",
                "features": [
                    {
                        "type": "Feature",
                        "id": region.id,
                        "geometry": {
                            "type": "Polygon",
                            "coordinates": [[[64, 64], [384, 64], [384, 384], [64, 384], [64, 64]]],
                        },
                        "properties": {"objectType": "annotation", "classification": {"name": "Tumor"}},
                    }
                ],
            }
        )
        answer = client.score_slide(request, geojson).result(60)
    assert msgspec.json.encode(there) == msgspec.json.encode(here)
    itself = msgspec.json.decode(answer.result, type=SlideResult)
    assert itself.union is not None and here.union is not None
    assert itself.union.prediction == here.union.prediction
    assert itself.union.patches == here.union.patches


def test_another_encoder_than_it_learned_from_is_refused_by_name(
    model: Path, weights: LoadedWeights, tmp_path: Path
) -> None:
    loaded = load_bag_model(model)
    other = small_weights(tmp_path, seed=1)
    with pytest.raises(ModelFileError, match="features here that are"):
        BagScorer(loaded, other, COMPUTE)
    normalised = msgspec.structs.replace(weights.encoder, mean=(0.7, 0.6, 0.7))
    with pytest.raises(ModelFileError, match="normalisation"):
        BagScorer(loaded, replace(weights, encoder=normalised), COMPUTE)


def test_weights_that_are_nowhere_are_asked_for(
    tmp_path: Path, weights: LoadedWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bag_model(tmp_path / "m.safetensors", weights)
    monkeypatch.setenv("HEROHE_CACHE_DIR", str(tmp_path / "another machine"))
    with pytest.raises(ModelFileError, match=r"sees patches through kaiko-vits16.*encoder verify"):
        load_scorer(path, COMPUTE)
