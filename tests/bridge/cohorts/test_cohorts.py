"""Small folders of each cohort's form become slides, regions and labels that training and scoring take."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from click.testing import CliRunner
from helpers.small_slides import MPP, small_slide, tissue_picture
from openpyxl import Workbook
from PIL import Image

from bridge.annotations.outlines import OutlineFileError, read_aperio, read_bcnb
from bridge.batch.entry import read_entry
from bridge.batch.options import BatchOptions
from bridge.cli import cli
from bridge.projects.open import open_collection
from herohe_model.dataset.cases import Case
from herohe_model.dataset.folds import stratified_folds
from herohe_model.dataset.labels import read_labels
from herohe_model.slides.slide import Slide
from herohe_model.synthetic.slides import write_mirax

SQUARE = [[40, 40], [360, 40], [360, 360], [40, 360]]
HOLE = [[100, 100], [200, 100], [200, 200], [100, 200]]
ISLAND = [[130, 130], [170, 130], [170, 170], [130, 170]]


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, [str(a) for a in arguments])
    return result.exit_code, f"{result.output}{result.exception or ''}"


def aperio(path: Path, *rings: tuple[list[list[int]], bool]) -> None:
    """As ImageScope writes it: corners of closed regions, negative ones marked."""
    regions = "".join(
        f'<Region Id="{number}" NegativeROA="{int(negative)}"><Vertices>'
        + "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in [*ring, ring[0]] if ring)
        + "</Vertices></Region>"
        for number, (ring, negative) in enumerate(rings)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<Annotations MicronsPerPixel="0.5"><Annotation Id="1"><Regions>{regions}</Regions></Annotation>'
        "</Annotations>",
        encoding="utf-8",
    )


def svs(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    small_slide(path.with_suffix(".tif"), seed=seed).rename(path)
    return path


def cases_of(folder: Path) -> dict[str, Case]:
    return {case.id: case for case in read_labels(folder / "labels.csv").cases}


def test_bcnb_becomes_slides_outlines_and_labels(tmp_path: Path) -> None:
    download = tmp_path / "BCNB"
    (download / "WSIs").mkdir(parents=True)
    rows = [("1", "0", "Negative", "1"), ("2", "2+", "Positive", "3"), ("3", "3+", "Positive", "2")]
    book = Workbook()
    book.active.append(["Patient ID", "Age", "ER", "PR", "HER2", "HER2 Expression", "Histological grading"])
    for case, ihc, status, grade in rows:
        Image.fromarray(tissue_picture(512, seed=int(case))).save(download / "WSIs" / f"{case}.jpg")
        outline = {"positive": [{"name": "a", "vertices": SQUARE}], "negative": [{"vertices": HOLE}]}
        (download / "WSIs" / f"{case}.json").write_text(json.dumps(outline))
        book.active.append([int(case), 50, "Positive", "Negative", status, ihc, int(grade)])
    book.save(download / "patient-clinical-data.xlsx")
    (download / "dataset-splitting").mkdir()
    for name, ids in (("train", "1\n"), ("val", "2\n"), ("test", "3\n")):
        (download / "dataset-splitting" / f"{name}_id.txt").write_text(ids)

    code, said = run("cohort", "prepare", "bcnb", download, "--output", tmp_path / "out")
    assert (code == 0 and "2 train, 1 test" in said) or "1 test, 2 train" in said, said
    assert "non-commercial" in said and "Next: herohe-bridge cohort check" in said
    cases = cases_of(tmp_path / "out")
    assert {id: (c.split, c.ihc, c.positive) for id, c in cases.items()} == {
        "1": ("train", "0", False),
        "2": ("train", "2+", True),
        "3": ("test", "3+", True),
    }
    assert dict(cases["2"].columns) == {"er": "Positive", "pr": "Negative", "tumour grade": "3", "age": "50"}
    collection = open_collection(tmp_path / "out" / "slides" / "train")
    entries = list(collection.entries())
    assert [entry.name for entry in entries] == ["1.tif", "2.tif"]
    _, regions, _ = read_entry(collection, entries[0], BatchOptions(region_classes=("Tumor",)))
    assert regions.union is not None
    assert regions.union.geometry.area == pytest.approx(320**2 - 100**2)
    with Slide(tmp_path / "out" / "slides" / "train" / "1.tif") as slide:
        assert slide.mpp == pytest.approx(0.5) and slide.size == (512, 512)

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.tif")}
    assert run("cohort", "prepare", "bcnb", download, "--output", tmp_path / "out")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.tif")} == before
    code, said = run("cohort", "check", tmp_path / "out")
    assert code == 1 and "all: 3 slides, and 1058 are published." in said
    assert "train: slides 2, positive 1, negative 1" in said


def test_herohe_keeps_cases_of_both_splits_apart_and_names_what_is_missing(tmp_path: Path) -> None:
    download = tmp_path / "HEROHE"
    for split, cases in (("Training", ("1", "2")), ("Test", ("2", "9"))):
        (download / split).mkdir(parents=True)
        for case in cases:
            write_mirax(download / split / f"{case}.mrxs", tissue_picture(256), mpp=MPP)
    (download / "Training" / "labels.csv").write_text(
        "Case;Immunohistochemistry;ISH Group;Final Result (Ground truth);Laboratory\r\n"
        "1;0;;Negative;A\r\n2;2;1;Positive;B\r\n3;3;;Positive;B\r\n",
        encoding="utf-8-sig",
    )
    (download / "Test" / "labels_test.csv").write_text("Case;HER2 Status\n2;Negative\n", encoding="utf-8")
    code, said = run("cohort", "prepare", "herohe", download, "--output", tmp_path / "out")
    assert code == 1
    assert "Missing: No slide of the train case 3." in said and "No label of the test case 9." in said
    labels = read_labels(tmp_path / "out" / "labels.csv")
    found = {case.key: (case.ihc, case.ish, case.positive, case.laboratory) for case in labels.cases}
    assert found[("train", "2")] == ("2+", "positive", True, "B")
    assert found[("test", "2")] == (None, None, False, None)
    with Slide(tmp_path / "out" / "slides" / "test" / "9.mrxs") as slide:
        assert slide.mpp == pytest.approx(MPP)


def test_yale_and_tcga_come_with_outlines_and_what_is_no_label_is_left_out(tmp_path: Path) -> None:
    download = tmp_path / "TCIA"
    svs(download / "Yale_HER2_cohort" / "SVS" / "Her2Pos_Case_01.svs")
    svs(download / "Yale_HER2_cohort" / "SVS" / "Her2Neg_Case_02.svs")
    for name in ("Her2Pos_Case_01", "Her2Neg_Case_02"):
        aperio(download / "Yale_HER2_cohort" / "Annotations" / f"{name}.xml", (SQUARE, False))
    of_tcga = "TCGA-A1-A0SK-01Z-00-DX1.AB12"
    svs(download / "TCGA_BRCA_Filtered" / "SVS" / f"{of_tcga}.svs")
    aperio(download / "TCGA_BRCA_Filtered" / "Annotations" / "TCGA-A1-A0SK-01Z-00-DX1.xml", (SQUARE, False))
    (download / "TCGA_BRCA_Filtered" / "list.csv").write_text(
        "Slide,Clinical.HER2.status\nTCGA-A1-A0SK-01Z-00-DX1,Negative\n"
    )
    svs(download / "Yale_trastuzumab_response_cohort" / "SVS" / "12345.svs")
    code, said = run("cohort", "prepare", "yale", download, "--output", tmp_path / "out")
    assert code == 0, said
    assert "3 with outlines" in said and "12345.svs: its label is the response to treatment" in said
    cases = cases_of(tmp_path / "out")
    assert {(c.split, c.positive) for c in cases.values()} == {
        ("train", True),
        ("train", False),
        ("test", False),
    }
    assert cases[of_tcga].owner == "patient TCGA-A1-A0SK"


def test_tcga_tells_tumour_from_normal_tissue_and_no_patient_is_in_two_folds(tmp_path: Path) -> None:
    download = tmp_path / "TCGA"
    columns = (
        "er_status_by_ihc",
        "pr_status_by_ihc",
        "her2_status_by_ihc",
        "her2_ihc_score",
        "her2_fish_status",
    )
    header = "\t".join(("bcr_patient_barcode", *columns))
    rows = [header, header.upper(), "CDE_ID:1\t\t\t\t\t"]
    for number in range(6):
        patient = f"TCGA-{'AB'[number % 2]}1-A0S{number}"
        status, ihc = (("Positive", "3+"), ("Negative", "1+"))[number % 2]
        rows.append(f"{patient}\tPositive\t[Not Evaluated]\t{status}\t{ihc}\t[Not Available]")
        for slide in ("DX1", "DX2"):
            svs(download / f"{patient}-01Z-00-{slide}.{number}F.svs", seed=number)
    # What cannot be true together: the grade goes, and the status stays.
    rows.append("TCGA-C1-A0S9\tNegative\tNegative\tNegative\t3+\t[Not Available]")
    svs(download / "TCGA-C1-A0S9-01Z-00-DX1.svs")
    svs(download / "TCGA-A1-A0S0-11A-00-DX1.svs")
    (download / "nationwidechildrens.org_clinical_patient_brca.txt").write_text("\n".join(rows) + "\n")
    code, said = run("cohort", "prepare", "tcga", download, "--output", tmp_path / "out")
    assert code == 1 and "Case TCGA-C1-A0S9-01Z-00-DX1" in said and "ihc and ish" in said, said
    assert "TCGA-A1-A0S0-11A-00-DX1.svs: normal tissue or a control (sample type 11)." in said
    cases = read_labels(tmp_path / "out" / "labels.csv").cases
    assert len(cases) == 13
    doubted = next(case for case in cases if case.id.startswith("TCGA-C1"))
    assert (doubted.ihc, doubted.positive) == (None, False)
    folds = stratified_folds(cases, 3, seed=0)
    for fold in folds:
        held_out = {cases[i].owner for i in fold.held_out}
        assert held_out.isdisjoint(cases[i].owner for i in fold.train)
    code, said = run("cohort", "check", tmp_path / "out")
    assert "6 patients have several slides" in said


def test_another_folder_is_never_written_into(tmp_path: Path) -> None:
    svs(tmp_path / "down" / "TCGA-A1-A0SK-01Z-00-DX1.svs")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "labels.csv").write_text("precious")
    code, said = run("cohort", "prepare", "tcga", tmp_path / "down", "--output", tmp_path / "mine")
    assert code == 1 and "is not empty" in said
    assert (tmp_path / "mine" / "labels.csv").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    code, said = run("cohort", "prepare", "bcnb", tmp_path / "empty", "--output", tmp_path / "out")
    assert code == 1 and "holds no slide" in said and "bupt-ai-cz.github.io" in said
    assert not (tmp_path / "out").exists()


def test_negative_regions_are_holes_and_islands_within_them_stay(tmp_path: Path) -> None:
    aperio(tmp_path / "a.xml", (SQUARE, False), (HOLE, True), (ISLAND, False), ([[1, 1], [2, 2]], False))
    annotations, warnings = read_aperio(tmp_path / "a.xml", class_name="Tumor")
    by_hand = shapely.Polygon(SQUARE, [HOLE]).union(shapely.Polygon(ISLAND))
    drawn = shapely.union_all([a.geometry for a in annotations])
    assert drawn.symmetric_difference(by_hand).area < 1
    assert len({a.id for a in annotations}) == 2 and all(a.class_name == "Tumor" for a in annotations)
    assert warnings == ["a.xml: an outline of 3 corners is no area, and is left out."]
    again, _ = read_aperio(tmp_path / "a.xml", class_name="Tumor")
    assert [a.id for a in again] == [a.id for a in annotations]


def test_files_that_are_none_and_entities_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]><Annotations>&b;</Annotations>')
    with pytest.raises(OutlineFileError, match="declares entities"):
        read_aperio(tmp_path / "a.xml", class_name="Tumor")
    (tmp_path / "b.xml").write_text("<Annotations>")
    with pytest.raises(OutlineFileError, match="no XML"):
        read_aperio(tmp_path / "b.xml", class_name="Tumor")
    (tmp_path / "c.json").write_text('{"positive": [{"vertices": "none"}]}')
    with pytest.raises(OutlineFileError, match="holds no outlines"):
        read_bcnb(tmp_path / "c.json", class_name="Tumor")
    (tmp_path / "d.json").write_text(json.dumps({"positive": [{"vertices": SQUARE}]}))
    annotations, _ = read_bcnb(tmp_path / "d.json", class_name="Tumor")
    assert np.isclose(annotations[0].geometry.area, 320**2)
