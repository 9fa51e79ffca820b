"""A scored run to make reports of."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from helpers.small_slides import drawn, small_model, small_slide
from rich.console import Console

from bridge.annotations.geojson_writing import write_annotations
from bridge.batch.options import BatchOptions
from bridge.batch.run import run_batch
from bridge.console.batch_view import BatchView
from bridge.projects.open import open_collection
from bridge.results.run import DEFAULT_FOLDER
from bridge.scoring.options import ScoreOptions
from herohe_model.engines.scorer import Scorer
from herohe_model.model.compute import Compute


@pytest.fixture(scope="session")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three slides, one of them broken, that was scored annotation by annotation."""
    folder = tmp_path_factory.mktemp("cohort")
    for number in range(2):
        slide = small_slide(folder / f"case-{number}.tif", seed=number)
        write_annotations(
            slide, [drawn(64, 64, 192, 320, id=f"{i:08d}-0000-4000-8000-000000000000") for i in range(2)]
        )
    (folder / "case-2.tif").write_bytes(b"no slide")
    model = small_model(tmp_path_factory.mktemp("model") / "m.safetensors")
    options = BatchOptions(("Tumor",), score=ScoreOptions(composites=3, per_annotation=True))
    with Scorer.load(model, Compute("cpu", "fp32")) as scorer:
        run_batch(
            open_collection(folder),
            scorer,
            options,
            output=folder / DEFAULT_FOLDER,
            listener=BatchView(Console(file=io.StringIO())),
        )
    return folder


@pytest.fixture
def cohort(scored: Path, tmp_path: Path) -> Path:
    """A copy to write into, at another place than it was scored."""
    return Path(shutil.copytree(scored, tmp_path / "cohort"))
