"""A collection's slides become files of features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.feature_files import bag, write_trident
from helpers.small_encoders import random_network, random_state, small
from helpers.small_slides import drawn, immunostained_picture, small_slide, tissue_picture

from bridge.annotations.geojson_writing import write_annotations
from bridge.batch.options import BatchOptions
from bridge.extraction.run import ExtractedSlide, ExtractionSummary, extract_features, feature_path
from bridge.extraction.slide import ExtractionOptions, PatchProgress
from bridge.projects.open import open_collection
from herohe_model.encoders.weights import LoadedWeights
from herohe_model.engines.embedder import Embedder
from herohe_model.errors import HeroheError, ModelFileError, OptionError
from herohe_model.features.read import read_features
from herohe_model.model.compute import Compute
from herohe_model.sampling.patches import find_patches
from herohe_model.slides.slide import Slide
from herohe_model.synthetic.slides import write_tiff


class Heard:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.slides: dict[str, ExtractedSlide] = {}
        self.total = 0
        self.seen: list[tuple[str, PatchProgress]] = []

    def started(self, total: int) -> None:
        self.total = total

    def running(self, slides: Sequence[tuple[str, PatchProgress]]) -> None:
        self.seen += slides

    def finished(self, slide: ExtractedSlide) -> None:
        self.slides[slide.slide] = slide


def make_embedder(seed: int = 0) -> Embedder:
    encoder = small()
    weights = LoadedWeights(encoder, Path("w"), random_state(encoder, seed), f"{seed:064x}")
    return Embedder(weights, Compute("cpu", "fp32", "torch"))


@pytest.fixture(scope="module")
def embedder() -> Iterator[Embedder]:
    with make_embedder() as embedder:
        yield embedder


OPTIONS = ExtractionOptions(BatchOptions(), patch_px=32, mpp=0.5)


def extract(
    slides: Path,
    embedder: Embedder,
    options: ExtractionOptions = OPTIONS,
    *,
    restart: bool = False,
    cancelled: Callable[[], bool] = lambda: False,
) -> tuple[ExtractionSummary, Heard]:
    heard = Heard()
    summary = extract_features(
        open_collection(slides),
        embedder,
        options,
        output=slides / "features",
        listener=heard,
        restart=restart,
        cancelled=cancelled,
    )
    return summary, heard


def test_a_file_holds_every_foreground_patch_of_the_regions_in_order(
    tmp_path: Path, embedder: Embedder
) -> None:
    slide = small_slide(tmp_path / "a.tif")
    region = drawn(64, 64, 256, 320)
    write_annotations(slide, [region, drawn(0, 0, 100, 100, id="b", class_name="Other")])
    options = replace(OPTIONS, batch=BatchOptions(region_classes=("Tumor",)))
    summary, heard = extract(tmp_path, embedder, options)
    assert (summary.outcomes, summary.exit_code, heard.total) == ({"extracted": 1}, 0, 1)
    found = read_features(tmp_path / "features" / "a.h5")
    with Slide(slide) as source:
        patches = find_patches(source, region.geometry, patch_px=32, mpp=0.5, threshold=0.07)
        pixels = np.stack(
            [source.read_box(x, y, 32, 32, (32, 32)) for x, y in zip(patches.x, patches.y, strict=True)]
        )
    assert found.count == len(patches) == 80
    assert found.coords is not None
    assert found.coords.tolist() == np.stack([patches.x, patches.y], axis=1).tolist()
    expected = random_network(small())(torch.from_numpy(pixels)).numpy()
    assert np.allclose(found.features, expected, atol=1e-4)
    assert (found.encoder, found.mpp, found.slide_mpp, found.patch_size_level0) == (
        "kaiko-vits16",
        0.5,
        0.5,
        32,
    )
    assert found.provenance["region_classes"] == ["Tumor"]


def test_patches_of_another_size_are_resampled_to_what_the_encoder_sees(
    tmp_path: Path, embedder: Embedder
) -> None:
    small_slide(tmp_path / "a.tif")
    extract(tmp_path, embedder, replace(OPTIONS, patch_px=64))
    found = read_features(tmp_path / "features" / "a.h5")
    assert (found.patch_px, found.patch_size_level0, found.count) == (64, 64, 64)


def test_one_bad_slide_never_stops_the_others(tmp_path: Path, embedder: Embedder) -> None:
    small_slide(tmp_path / "a.tif")
    (tmp_path / "b.tif").write_bytes(b"II*\x00 damaged")
    write_tiff(tmp_path / "c.tif", np.full((256, 256, 3), 245, np.uint8), mpp=0.5, tile=128)
    write_tiff(tmp_path / "d.tif", immunostained_picture(512), mpp=0.5, tile=128)
    write_tiff(tmp_path / "e.tif", tissue_picture(256), mpp=None, tile=128)
    summary, heard = extract(tmp_path, embedder)
    outcomes = {name: slide.outcome for name, slide in heard.slides.items()}
    assert outcomes == {
        "a.tif": "extracted",
        "b.tif": "unreadable",
        "c.tif": "insufficient_tissue",
        "d.tif": "unsuitable",
        "e.tif": "unreadable",
    }
    assert summary.exit_code == 1 and "--mpp" in heard.slides["e.tif"].message
    assert sorted(p.name for p in (tmp_path / "features").glob("*.h5")) == ["a.h5", "c.h5"]
    assert read_features(tmp_path / "features" / "c.h5").count == 0


def test_what_no_annotation_matches_has_no_file(tmp_path: Path, embedder: Embedder) -> None:
    small_slide(tmp_path / "a.tif")
    options = replace(OPTIONS, batch=BatchOptions(region_classes=("Tumor",)))
    summary, _ = extract(tmp_path, embedder, options)
    assert summary.outcomes == {"no_matching_annotation": 1} and summary.exit_code == 1
    assert not list((tmp_path / "features").glob("*.h5"))


def test_a_run_goes_on_from_the_files_that_are_there(tmp_path: Path, embedder: Embedder) -> None:
    for name in "ab":
        small_slide(tmp_path / f"{name}.tif", seed=ord(name))
    extract(tmp_path, embedder)
    files = {p.name: p.read_bytes() for p in (tmp_path / "features").glob("*.h5")}
    (tmp_path / "features" / "b.h5").unlink()
    before = (tmp_path / "features" / "a.h5").stat().st_mtime_ns
    summary, heard = extract(tmp_path, embedder)
    assert summary.reused == 1 and heard.slides["a.tif"].reused and not heard.slides["b.tif"].reused
    assert (tmp_path / "features" / "a.h5").stat().st_mtime_ns == before
    assert {p.name: p.read_bytes() for p in (tmp_path / "features").glob("*.h5")} == files


def test_a_file_that_was_made_otherwise_is_named_and_replaced_only_on_demand(
    tmp_path: Path, embedder: Embedder
) -> None:
    slide = small_slide(tmp_path / "a.tif")
    extract(tmp_path, embedder)
    before = (tmp_path / "features" / "a.h5").read_bytes()
    write_annotations(slide, [drawn(64, 64, 256, 320)])
    tumour = replace(OPTIONS, batch=BatchOptions(region_classes=("Tumor",)))
    for options, why in ((tumour, "of other regions"), (replace(OPTIONS, patch_px=64), "patches of 32 px")):
        summary, heard = extract(tmp_path, embedder, options)
        assert summary.outcomes == {"failed": 1}
        assert why in heard.slides["a.tif"].message and "--restart" in heard.slides["a.tif"].message
        assert (tmp_path / "features" / "a.h5").read_bytes() == before
    assert extract(tmp_path, embedder, tumour, restart=True)[0].outcomes == {"extracted": 1}
    assert read_features(tmp_path / "features" / "a.h5").count == 80


def test_a_file_of_another_tool_is_never_replaced(tmp_path: Path, embedder: Embedder) -> None:
    small_slide(tmp_path / "a.tif")
    (tmp_path / "features").mkdir()
    before = write_trident(tmp_path / "features" / "a.h5", *bag()).read_bytes()
    summary, heard = extract(tmp_path, embedder, restart=True)
    assert summary.exit_code == 1 and "not made by herohe-bridge" in heard.slides["a.tif"].message
    assert (tmp_path / "features" / "a.h5").read_bytes() == before


def test_a_folder_of_another_encoder_is_refused_by_name(tmp_path: Path, embedder: Embedder) -> None:
    small_slide(tmp_path / "a.tif")
    extract(tmp_path, embedder)
    with make_embedder(seed=1) as other:
        with pytest.raises(ModelFileError, match=r"was made by kaiko-vits16.*weights are another file"):
            extract(tmp_path, other)
        assert extract(tmp_path, other, restart=True)[0].outcomes == {"extracted": 1}


def test_cancelling_leaves_whole_files_only(tmp_path: Path, embedder: Embedder) -> None:
    for name in "abcd":
        small_slide(tmp_path / f"{name}.tif")
    done = tmp_path / "features" / "a.h5"
    summary, heard = extract(tmp_path, embedder, cancelled=done.exists)
    assert summary.exit_code == 1 and summary.outcomes["cancelled"] >= 1
    left = {p.name for p in (tmp_path / "features").iterdir() if not p.name.startswith(".")}
    whole = {f"{name[0]}.h5" for name, slide in heard.slides.items() if slide.outcome == "extracted"}
    assert left == whole | {"encoder.json", "run.lock"}
    assert all(read_features(tmp_path / "features" / name).count == 196 for name in whole)


def test_two_runs_never_share_a_folder(tmp_path: Path, embedder: Embedder) -> None:
    small_slide(tmp_path / "a.tif")
    refused: list[str] = []

    def second() -> bool:
        if not refused:
            refused.append("")
            with pytest.raises(HeroheError, match="Another run uses") as error:
                extract(tmp_path, embedder)
            refused[0] = str(error.value)
        return False

    assert extract(tmp_path, embedder, cancelled=second)[0].outcomes == {"extracted": 1}
    assert "--output" in refused[0]


def test_slides_of_one_name_are_refused_before_anything_is_written(
    tmp_path: Path, embedder: Embedder
) -> None:
    small_slide(tmp_path / "a.tif")
    small_slide(tmp_path / "A.svs")
    with pytest.raises(OptionError, match=r"one file of features: A\.svs, a\.tif"):
        extract(tmp_path, embedder)
    assert not (tmp_path / "features").exists()


@pytest.mark.parametrize(
    ("slide", "file"),
    [
        ("a.mrxs", "a.h5"),
        ("x/y.ome.tif", "x/y.h5"),
        ("../../a.svs", "a.h5"),
        ("/etc/a.svs", "etc/a.h5"),
        ("TCGA-A1.0F3C.svs", "TCGA-A1.0F3C.h5"),
        ("a:b?.svs", "a_b_.h5"),
    ],
)
def test_features_lie_below_the_folder_under_the_slides_name(tmp_path: Path, slide: str, file: str) -> None:
    assert feature_path(tmp_path, slide) == tmp_path / file
