from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet
import pytest
from click.testing import CliRunner
from helpers.example_results import made_provenance, made_result
from helpers.small_slides import PATCH_PX, drawn, small_model, small_slide, tissue_picture
from rich.console import Console

from bridge.annotations.geojson import annotations_from_geojson
from bridge.annotations.geojson_writing import write_annotations
from bridge.batch.options import BatchOptions
from bridge.batch.run import run_batch
from bridge.commands.export import command
from bridge.console.batch_view import BatchView
from bridge.export.features import export_features
from bridge.export.geojson import export_geojson, file_stem
from bridge.export.tables import TABLES, export_tables, table_columns
from bridge.projects.open import open_collection
from bridge.results.files import write_json
from bridge.results.run import ScoredRun, find_run
from bridge.results.schema import Outcome, SlideResult, tiles
from bridge.scoring.options import ScoreOptions
from herohe_model.engines.scorer import Scorer
from herohe_model.errors import OptionError
from herohe_model.grades import Target
from herohe_model.model.checkpoint import load_model
from herohe_model.model.compute import Compute
from herohe_model.model.network import load_networks
from herohe_model.synthetic.slides import write_mirax


def a_run(folder: Path, *results: SlideResult) -> ScoredRun:
    folder.mkdir(exist_ok=True)
    write_json(folder / "results.json", results)
    return find_run(folder)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model") / "m.safetensors")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Path]:
    """A scored folder: a TIFF, and a MIRAX whose bounds do not begin at (0, 0)."""
    folder = tmp_path_factory.mktemp("cohort")
    write_annotations(small_slide(folder / "a.tif"), [drawn(64, 64, 256, 320)])
    write_mirax(folder / "b.mrxs", tissue_picture(512), mpp=0.5, origin=(256, 128), tile=128)
    with Scorer.load(model, Compute("cpu", "fp32")) as scorer:
        run_batch(
            open_collection(folder),
            scorer,
            BatchOptions(score=ScoreOptions(composites=2, keep_unsampled=True)),
            output=folder / "herohe-bridge",
            listener=BatchView(Console(file=io.StringIO())),
        )
    yield folder


def test_tables_hold_every_slide_region_composite_and_patch(tmp_path: Path) -> None:
    failed = SlideResult("2", "broken, it is", "b.svs", Outcome.FAILED, 'It "broke".', "error")
    run = a_run(tmp_path / "run", made_result("1", per_annotation=True), failed)
    exported = export_tables(run, tmp_path / "out", "csv")
    assert [p.name for p in exported.files] == [f"{name}.csv" for name in TABLES]
    slides, regions, composites, patches = (rows_of(path) for path in exported.files)
    assert [(r["entry"], r["slide"], r["outcome"]) for r in slides] == [
        ("1", "slide-1.tif", "scored"),
        ("2", "broken, it is", "failed"),
    ]
    assert slides[0]["p_positive"] == "0.750000" and slides[0]["p_level_2+"] == "0.550000"
    assert json.loads(slides[0]["options"]) == {"composites": 2}
    assert slides[1]["message"] == 'It "broke".' and slides[1]["grade"] == ""
    assert [r["region"] for r in regions] == ["slide", "a", "b"]
    assert len(composites) == 3 * 2 and composites[1]["logit_ge_2"] == "1.200000"
    assert len(patches) == 3 * (4 + 1)
    assert patches[0] | {"contribution_ge_1": "1.000000", "cell": "0", "x": "100"} == patches[0]
    assert patches[4]["composite"] == "" and patches[4]["contribution_3"] == ""
    assert {r["entry"] for r in patches} == {"1"}


def test_parquet_holds_what_csv_holds_with_types(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", made_result("1", per_annotation=True), made_result("2"))
    export_tables(run, tmp_path, "csv")
    for path in export_tables(run, tmp_path, "parquet").files:
        table = pyarrow.parquet.read_table(path)
        written = rows_of(path.with_suffix(".csv"))
        assert table.column_names == list(written[0])
        for row, text in zip(table.to_pylist(), written, strict=True):
            for name, value in row.items():
                assert text[name] == (
                    "" if value is None else f"{value:.6f}" if isinstance(value, float) else str(value)
                )
    assert str(pyarrow.parquet.read_schema(tmp_path / "patches.parquet").field("x").type) == "int64"


def test_the_same_run_gives_the_same_files(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", made_result("1"))
    for form in ("csv", "parquet"):
        first = [p.read_bytes() for p in export_tables(run, tmp_path / "a", form).files]
        assert [p.read_bytes() for p in export_tables(run, tmp_path / "b", form).files] == first
    assert not list(tmp_path.glob("*/*.part"))


def test_columns_follow_the_targets_of_the_models() -> None:
    composites = [name for name, _ in table_columns([Target.IHC_ISH])["composites"]]
    assert composites[-4:] == ["logit_3", "logit_ge_2_ish_positive", "logit_ge_2", "logit_ge_1"]
    slides = [name for name, _ in table_columns([Target.IHC, Target.IHC_ISH])["slides"]]
    assert "p_level_2+" in slides and "p_level_2+/ISH-" in slides and len(slides) == len(set(slides))


def test_geojson_holds_the_patches_where_qupath_shows_them(cohort: Path, tmp_path: Path) -> None:
    run = find_run(cohort)
    results = {r.slide: r for r in run.slides()}
    in_qupath = export_geojson(run, tmp_path / "q")
    in_slide = export_geojson(run, tmp_path / "s", "level0")
    assert [p.name for p in in_qupath.files] == ["00001-a.tif.geojson", "00002-b.mrxs.geojson"]
    for name, path, other, origin in zip(
        ("a.tif", "b.mrxs"), in_qupath.files, in_slide.files, ((0, 0), (256, 128)), strict=True
    ):
        features = json.loads(path.read_text(encoding="utf-8"))["features"]
        union = results[name].union
        assert union is not None
        shown = tiles(union)
        assert len(features) == len(shown) + 1
        assert features[0]["properties"]["objectType"] == "annotation"
        assert features[0]["properties"]["measurements"]["HER2-HE: composites"] == 2.0
        for feature, tile in zip(features[1:], shown, strict=True):
            x, y = np.min(feature["geometry"]["coordinates"][0], axis=0)
            assert (x + origin[0], y + origin[1]) == (tile.x, tile.y)
        there = json.loads(other.read_text(encoding="utf-8"))["features"][1]["geometry"]["coordinates"][0]
        assert tuple(np.min(there, axis=0)) == (shown[0].x, shown[0].y)


def test_exported_geojson_is_never_taken_for_the_pathologists(cohort: Path, tmp_path: Path) -> None:
    for path in export_geojson(find_run(cohort), tmp_path).files:
        assert annotations_from_geojson(path.read_bytes()) == ()


def test_a_slide_whose_bounds_cannot_be_read_is_left_out_and_named(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", made_result("1"))
    exported = export_geojson(run, tmp_path / "out")
    assert exported.files == () and exported.left_out[0][0] == "slide-1.tif"
    assert len(export_geojson(run, tmp_path / "out", "level0").files) == 1
    done = CliRunner().invoke(command, [str(run.folder), "--to", str(tmp_path / "c"), "--format", "geojson"])
    assert done.exit_code == 1 and "Left out slide-1.tif: " in done.output and "--slides-root" in done.output


@pytest.mark.parametrize(
    ("slide", "stem"),
    [
        ("a b.svs", "00007-a_b.svs"),
        ("../../etc/passwd", "00007-etc_passwd"),
        ("<b>:\\|?*", "00007-b"),
        ("…", "00007"),
        ("con", "00007-con"),
    ],
)
def test_file_names_are_taken_by_every_system(slide: str, stem: str) -> None:
    assert file_stem(7, slide) == stem


def test_features_explain_the_contributions(cohort: Path, model: Path, tmp_path: Path) -> None:
    run = find_run(cohort)
    exported = export_features(run, tmp_path, model, device="cpu")
    assert exported.left_out == () and len(exported.files) == 2
    card, state, _ = load_model(model)
    (network,) = load_networks(card, state)
    direction = network.head.direction.numpy()
    biases = network.head.biases().numpy()
    for path, result in zip(exported.files, run.slides(), strict=True):
        assert result.union is not None
        with np.load(path, allow_pickle=False) as arrays:
            cells = len(result.union.patches)
            assert arrays["X"].shape == (cells, network.plan.channels) and cells == 2 * 25
            shares = (arrays["X"] @ direction)[:, None] / 25 + biases / 25
            assert np.allclose(shares, arrays["contributions"], atol=1e-4)
            assert arrays["steps"].tolist() == ["3+", ">=2+", ">=1+"]
            assert arrays["x"].tolist() == [p.x for p in result.union.patches]
            assert set(arrays["size"].tolist()) == {PATCH_PX}
            about = json.loads(str(arrays["about"]))
            assert about["slide"] == result.slide and about["largest_logit_difference"] < 1e-3


def test_features_of_another_model_are_refused(cohort: Path, tmp_path: Path) -> None:
    other = small_model(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(OptionError, match=r"a\.tif was scored by"):
        export_features(find_run(cohort), tmp_path, other, device="cpu")


def test_logits_that_come_out_differently_are_not_passed_on(
    cohort: Path, model: Path, tmp_path: Path
) -> None:
    result = next(find_run(cohort).slides())
    assert result.union is not None
    others = tuple(
        msgspec.structs.replace(c, logits=tuple(z + 0.1 for z in c.logits)) for c in result.union.composites
    )
    union = msgspec.structs.replace(result.union, composites=others)
    write_json(tmp_path / "results.json", [msgspec.structs.replace(result, union=union)])
    run = find_run(tmp_path, slides_root=cohort)
    ((name, reason),) = export_features(run, tmp_path, model, device="cpu").left_out
    assert name == "a.tif" and "differ by 0.100" in reason


def test_the_command_writes_each_format_that_is_asked_for(cohort: Path, model: Path, tmp_path: Path) -> None:
    asked = ["--format", "csv", "--format", "geojson", "--features", "--model", str(model), "--device", "cpu"]
    done = CliRunner().invoke(command, [str(cohort), "--to", str(tmp_path), *asked], catch_exceptions=False)
    assert done.exit_code == 0 and f"Wrote 8 files to {tmp_path}" in done.output
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [*(f"{name}.csv" for name in TABLES), "features", "geojson"]
    )
    done = CliRunner().invoke(command, [str(cohort), "--to", str(tmp_path), "--features"])
    assert done.exit_code == 2 and "--model" in done.output


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", made_result("1"))
    (tmp_path / "file").write_text("", encoding="utf-8")
    done = CliRunner().invoke(command, [str(run.folder), "--to", str(tmp_path / "file")])
    assert str(tmp_path / "file") in str(done.exception)


def test_a_run_of_two_targets_keeps_both(tmp_path: Path) -> None:
    four = msgspec.structs.replace(made_provenance(), target="ihc+ish", steps=Target.IHC_ISH.steps)
    plain = made_result("2")
    empty = msgspec.structs.replace(
        plain, union=None, provenance=four, outcome=Outcome.NO_MATCHING_ANNOTATION
    )
    run = a_run(tmp_path / "run", made_result("1"), empty)
    exported = export_tables(run, tmp_path, "csv")
    assert [r["target"] for r in rows_of(exported.files[0])] == ["ihc", "ihc+ish"]
    assert "contribution_ge_2_ish_positive" in rows_of(exported.files[3])[0]
