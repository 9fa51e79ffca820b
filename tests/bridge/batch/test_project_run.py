"""A batch through a real QuPath project: slides sampled and scored by a model, results written back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import shapely
from helpers.qupath_projects import MadeProject, describe, draw_every_kind, files, ours
from helpers.small_slides import PATCH_PX, small_model, tissue_picture
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from bridge.batch.options import BatchOptions
from bridge.batch.run import BatchSummary, run_batch
from bridge.projects.open import open_collection
from bridge.results.files import read_json
from bridge.results.schema import Outcome, SlideResult
from bridge.scoring.options import ScoreOptions
from bridge.scoring.progress import Progress
from herohe_model.engines.scorer import Scorer
from herohe_model.model.compute import Compute
from herohe_model.slides.slide import Slide
from herohe_model.synthetic.slides import write_mirax, write_tiff

pytestmark = pytest.mark.qupath

ORIGIN = (256, 512)
OPTIONS = BatchOptions(
    region_classes=("Tumor",),
    # The colours that tell regions apart here are no stain.
    score=ScoreOptions(composites=2, min_patches=4, per_annotation=True, artefacts="ignore"),
)


class Ear:
    """A listener that remembers the outcomes."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}

    def started(self, total: int) -> None: ...

    def running(self, slides: Sequence[tuple[str, Progress]]) -> None: ...

    def finished(self, result: SlideResult, *, reused: bool) -> None:
        self.outcomes[result.slide] = result.error_code or result.outcome.value


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scorer]:
    scorer = Scorer.load(
        small_model(tmp_path_factory.mktemp("model") / "m.safetensors"), Compute("cpu", "fp32")
    )
    yield scorer
    scorer.close()


def run(project: Path, scorer: Scorer, ear: Ear | None = None) -> BatchSummary:
    collection = open_collection(project)
    output = project.parent / "herohe-bridge"
    return run_batch(collection, scorer, OPTIONS, output=output, listener=ear or Ear())


def coloured_by_region(side: int, tumour: BaseGeometry) -> NDArray[np.uint8]:
    """Reddish tissue inside a region, in QuPath's px, and bluish tissue elsewhere."""
    reddish = tissue_picture(side, tissue=(0, 0, side, side))
    reddish[..., 2] //= 2
    y, x = np.mgrid[0:side, 0:side] + 0.5
    inside = shapely.contains_xy(tumour, x.ravel(), y.ravel()).reshape(side, side)
    return np.where(inside[..., None], reddish, reddish[..., ::-1])


@pytest.mark.slide
def test_scored_twice_and_cleared_a_project_is_as_it_was(
    tmp_path: Path, scorer: Scorer, real_slide: Path
) -> None:
    def draw_slide(tumour: BaseGeometry) -> Path:
        picture = coloured_by_region(1024, tumour)
        write_mirax(tmp_path / "a.mrxs", picture, mpp=0.5, origin=ORIGIN, canvas=(2048, 2048), quality=95)
        return tmp_path / "a.mrxs"

    made = MadeProject(tmp_path / "project")
    mirax = draw_slide(shapely.Polygon())
    draw_every_kind(made.add(mirax))
    painter = made.add(real_slide)
    draw_every_kind(painter)
    painter.annotate(painter.ellipse(600, 900, 900, 1200), "Tumor")
    path = made.save()
    before = describe(path)
    drawn = [row for row in before["a.mrxs"] if str(row.get("class")).startswith("Tumor")]
    draw_slide(shapely.union_all([shapely.from_wkb(bytes.fromhex(row["wkb"])) for row in drawn]))

    assert run(path, scorer).exit_code == 0
    once = describe(path)
    second = run(path, scorer)
    assert (second.reused, second.written) == (2, 0)
    assert describe(path) == once
    for result in read_json(path.parent / "herohe-bridge" / "results.json"):
        assert result.outcome is Outcome.SCORED
        assert len(ours(once[result.slide])) > 10

    (result,) = [r for r in read_json(path.parent / "herohe-bridge" / "results.json") if r.slide == "a.mrxs"]
    with Slide(mirax) as opened:
        for region in (result.union, *result.annotations):
            assert region is not None
            for patch in region.patches:
                pixels = opened.read_box(patch.x, patch.y, patch.size, patch.size, (PATCH_PX, PATCH_PX))
                reddish = pixels[..., 0] > pixels[..., 2]
                assert reddish.mean() > OPTIONS.score.min_coverage - 0.05

    misspelt = dataclasses.replace(OPTIONS, region_classes=("tumor",))
    nothing = run_batch(open_collection(path), scorer, misspelt, output=tmp_path / "out", listener=Ear())
    assert nothing.exit_code == 1 and "did you mean Tumor" in nothing.unmatched_regions[0]

    collection = open_collection(path)
    for entry in collection.entries():
        assert collection.clear(entry)
    collection.close()
    assert describe(path) == before


def test_bad_slides_are_named_and_stop_nobody(tmp_path: Path, scorer: Scorer) -> None:
    made = MadeProject(tmp_path / "project")
    for number in range(10):
        slide = tmp_path / f"s{number}.tif"
        write_tiff(slide, tissue_picture(512, seed=number), mpp=0.5, tile=128)
        painter = made.add(slide)
        corner = (0, 0, 28, 28) if number == 3 else (64, 64, 256, 256)
        painter.annotate(painter.rectangle(*corner), "Tumor")
    path = made.save()
    (tmp_path / "s0.tif").unlink()
    whole = (tmp_path / "s1.tif").read_bytes()
    (tmp_path / "s1.tif").write_bytes(whole[: len(whole) // 3])
    write_tiff(tmp_path / "s2.tif", tissue_picture(512, seed=2), mpp=None, tile=128)
    document = json.loads(path.read_bytes())
    for side in document["images"][2]["serverBuilder"]["metadata"]["pixelCalibration"].values():
        if isinstance(side, dict):
            side |= {"value": 1.0, "unit": "px"}
    path.write_text(json.dumps(document))
    damaged = path.parent / "data" / "5" / "data.qpdata"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    before = files(path.parent / "data" / "5")

    ear = Ear()
    summary = run(path, scorer, ear)
    assert summary.exit_code == 1
    assert ear.outcomes == {
        "s0.tif": "slide_not_found",
        "s1.tif": "slide_unreadable",
        "s2.tif": "slide_scale",
        "s3.tif": "insufficient_tissue",
        "s4.tif": "entry_damaged",
        **{f"s{number}.tif": "scored" for number in range(5, 10)},
    }
    assert files(path.parent / "data" / "5") == before
    collection = open_collection(path)
    by_name = {entry.name: entry for entry in collection.entries()}
    for number in range(5, 10):
        assert collection.written_objects(by_name[f"s{number}.tif"]).tiles > 4
    lines = (path.parent / "herohe-bridge" / "results.csv").read_text("utf-8").splitlines()
    assert sum(line.startswith(f"s{n}.tif") for n in range(10) for line in lines) >= 10
