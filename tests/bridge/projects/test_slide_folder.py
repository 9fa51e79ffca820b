from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from helpers.dicom_slides import write_dicom
from helpers.sampled_results import sampled_result
from helpers.small_slides import small_slide, tissue_picture
from PIL import Image
from shapely.geometry import box, shape

from bridge.commands.clear import command as clear
from bridge.projects.base import Entry
from bridge.projects.open import open_collection
from bridge.projects.slide_folder import SlideFolder
from bridge.scoring.options import WriteOptions
from herohe_model.dataset.tables import TableError
from herohe_model.errors import (
    EntryChangedError,
    ProjectNotFoundError,
    RegionError,
    SlideNotFoundError,
    SlideScaleError,
    SlideUnreadableError,
    WriteBackError,
)
from herohe_model.slides.guarded_slide import GuardedSlide
from herohe_model.synthetic.slides import write_mirax

ID = "6a6ae0fb-d3d1-4c1c-9d3e-6f2a0f4b0d11"
OTHER = "00000000-0000-0000-0000-000000000002"


def exported(id: str, x: int, y: int, side: int, class_name: str, **properties: Any) -> dict[str, Any]:
    """A rectangle as QuPath exports it."""
    ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
    return {
        "type": "Feature",
        "id": id,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "objectType": "annotation",
            "classification": {"name": class_name, "color": [200, 0, 0]},
            **properties,
        },
    }


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Two slides, one of them with two tumours and a stroma, and a project's usual neighbours."""
    home = tmp_path / "Fälle"
    home.mkdir()
    small_slide(home / "b.tif")
    write_mirax(home / "a.mrxs", tissue_picture(512), mpp=0.5, origin=(512, 256), canvas=(2048, 1024))
    features = [
        exported(
            ID,
            40,
            40,
            200,
            "Tumor",
            name="T1",
            isLocked=True,
            measurements={"mine": 1.5},
            metadata={"k": "v"},
        ),
        exported(OTHER, 100, 100, 64, "Tumor", measurements=[{"name": "old", "value": 2}]),
        exported("00000000-0000-0000-0000-000000000003", 300, 300, 50, "Stroma"),
    ]
    text = json.dumps({"type": "FeatureCollection", "features": features})
    (home / "a.geojson").write_text(text)
    (home / "stray.geojson").write_text(text)
    (home / "notes.txt").touch()
    return home


def entry(folder: SlideFolder, name: str) -> Entry:
    return next(e for e in folder.entries() if e.name == name)


def written(home: Path, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        (home / "herohe-bridge" / "geojson" / f"{name}.her2-he.geojson").read_text("utf-8")
    )
    return document


def test_a_folder_holds_its_slides_by_name(home: Path) -> None:
    folder = open_collection(home)
    assert isinstance(folder, SlideFolder)
    assert [e.name for e in folder.entries()] == ["a.mrxs", "b.tif"]
    assert folder.root == home
    assert folder.warnings == (
        "stray.geojson belongs to no slide of the folder.",
        "Passed over: 1 other file: notes.txt.",
    )


def test_a_folder_without_slides_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere", Path(__file__)):
        with pytest.raises(ProjectNotFoundError, match=path.name):
            open_collection(path)


def test_two_projects_in_a_folder_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "one.qpproj").touch()
    (tmp_path / "two.qpproj").touch()
    with pytest.raises(ProjectNotFoundError, match="2 projects"):
        open_collection(tmp_path)


def test_annotations_lie_where_qupath_shows_them(home: Path) -> None:
    folder = SlideFolder(home)
    content = folder.read(entry(folder, "a.mrxs"))
    assert content.annotations[0].geometry.equals(box(552, 296, 752, 496))
    assert [a.class_name for a in content.annotations] == ["Tumor", "Tumor", "Stroma"]
    assert content.written_run is None
    assert folder.read(entry(folder, "b.tif")).annotations == ()


def test_a_result_file_holds_the_sampled_annotations_with_their_tiles(home: Path) -> None:
    folder = SlideFolder(home)
    content = folder.read(entry(folder, "a.mrxs"))
    result = sampled_result(content, patch=32)
    folder.write(content.entry, result, WriteOptions())
    first, second = written(home, "a.mrxs")["features"]
    assert (first["id"], second["id"]) == (ID, OTHER)
    assert first["geometry"] == exported(ID, 40, 40, 200, "")["geometry"]
    properties = first["properties"]
    assert properties["name"] == "T1"
    assert properties["isLocked"] is True
    assert properties["metadata"] == {"k": "v"}
    assert properties["classification"] == {"names": ["Tumor", "HER2-HE 2+"], "color": [225, 150, 50]}
    assert properties["measurements"]["mine"] == 1.5
    assert properties["measurements"]["HER2-HE: P(positive)"] == 0.75
    assert second["properties"]["measurements"]["old"] == 2
    tiles = [*properties["childObjects"], *second["properties"]["childObjects"]]
    assert result.union is not None
    assert len(tiles) == len(result.union.patches)
    assert all(t["properties"]["classification"]["name"] == "HER2-HE patch" for t in tiles)
    for parent in (first, second):
        area = shape(parent["geometry"])
        assert all(area.contains(shape(t["geometry"]).centroid) for t in parent["properties"]["childObjects"])
    assert second["properties"]["childObjects"]


def test_a_whole_slide_is_one_annotation_over_the_image(home: Path) -> None:
    folder = SlideFolder(home)
    content = folder.read(entry(folder, "a.mrxs"))
    folder.write(content.entry, sampled_result(content, region_classes=()), WriteOptions(classify=False))
    (whole,) = written(home, "a.mrxs")["features"]
    assert shape(whole["geometry"]).bounds == (0, 0, 512, 512)
    assert whole["properties"]["name"] == "HER2-HE"
    assert whole["properties"]["isLocked"] is True
    assert "classification" not in whole["properties"]


def test_writing_again_gives_the_same_bytes_and_touches_nothing_else(home: Path) -> None:
    before = {path: path.read_bytes() for path in home.iterdir() if path.is_file()}
    texts = []
    for _ in range(2):
        folder = SlideFolder(home)
        content = folder.read(entry(folder, "a.mrxs"))
        folder.write(content.entry, sampled_result(content), WriteOptions())
        texts.append((home / "herohe-bridge" / "geojson" / "a.mrxs.her2-he.geojson").read_bytes())
    assert texts[0] == texts[1]
    assert {path: path.read_bytes() for path in home.iterdir() if path.is_file()} == before


def test_what_was_written_is_known_the_next_time(home: Path) -> None:
    folder = SlideFolder(home)
    content = folder.read(entry(folder, "a.mrxs"))
    result = sampled_result(content)
    options = WriteOptions(tiles="none")
    folder.write(content.entry, result, options)
    again = SlideFolder(home).read(content.entry)
    assert result.provenance is not None
    assert (again.written_run, again.written_with) == (result.provenance.run, options)
    path = home / "herohe-bridge" / "geojson" / "a.mrxs.her2-he.geojson"
    path.write_bytes(path.read_bytes()[:-5])
    assert SlideFolder(home).read(content.entry).written_run is None


def test_results_go_where_they_are_sent(home: Path, tmp_path: Path) -> None:
    folder = open_collection(home, output=tmp_path / "out")
    content = folder.read(Entry("b.tif", "b.tif"))
    folder.write(content.entry, sampled_result(content), WriteOptions())
    assert (tmp_path / "out" / "geojson" / "b.tif.her2-he.geojson").is_file()


def test_annotations_changed_since_they_were_read_are_not_written_over(home: Path) -> None:
    folder = SlideFolder(home)
    content = folder.read(entry(folder, "a.mrxs"))
    (home / "a.geojson").write_text("[]")
    with pytest.raises(EntryChangedError, match=r"a\.geojson"):
        folder.write(content.entry, sampled_result(content), WriteOptions())
    assert not (home / "herohe-bridge").exists()


def test_malformed_geojson_is_named_with_its_line(home: Path) -> None:
    (home / "b.geojson").write_text('{"type": "FeatureCollection",\n"features": [,]}')
    folder = SlideFolder(home)
    with pytest.raises(RegionError, match=r"b\.geojson is not JSON.*line 2"):
        folder.read(entry(folder, "b.tif"))
    assert folder.read(entry(folder, "a.mrxs")).annotations


def test_two_files_that_could_be_meant_are_an_error(home: Path) -> None:
    folder = SlideFolder(home)
    (home / "a.mrxs.geojson").write_text("[]")
    with pytest.raises(RegionError, match=r"a\.mrxs\.geojson and .*a\.geojson"):
        folder.read(entry(folder, "a.mrxs"))
    small_slide(home / "b.svs")
    (home / "b.geojson").write_text("[]")
    folder = SlideFolder(home)
    with pytest.raises(RegionError, match=r"b\.svs and to b\.tif"):
        folder.read(entry(folder, "b.tif"))
    (home / "b.geojson").rename(home / "b.tif.geojson")
    assert folder.read(entry(folder, "b.svs")).annotations == ()


def test_annotations_that_cannot_be_read_fail_their_slide_and_never_widen_it(home: Path) -> None:
    (home / "b.geojson").symlink_to(home / "nowhere.geojson")
    (home / "c.tif").symlink_to(home / "nowhere.tif")
    folder = SlideFolder(home)
    assert [e.name for e in folder.entries()] == ["a.mrxs", "b.tif", "c.tif"]
    with pytest.raises(RegionError, match=r"b\.geojson cannot be read \(No such file"):
        folder.read(entry(folder, "b.tif"))
    with pytest.raises(SlideNotFoundError, match=r"c\.tif is a link to .*nowhere\.tif, which is not there"):
        folder.read(entry(folder, "c.tif"))
    (home / "b.geojson").unlink()
    (home / "b.json").write_text('{"patient": 1}')
    with pytest.raises(RegionError, match=r"b\.json is JSON, but no GeoJSON .*move it away"):
        folder.read(entry(folder, "b.tif"))
    (home / "b.json").unlink()
    with zipfile.ZipFile(home / "b.zip", "w") as archive:
        archive.writestr("b.tif", b"the slide itself")
    content = folder.read(entry(folder, "b.tif"))
    assert content.annotations == ()
    assert "b.zip holds no GeoJSON" in content.warnings[0]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_slide_whose_name_is_no_text_is_one_outcome_that_says_so(home: Path) -> None:
    for name in (b"lat\xe9n.tif", b"lat\xe8n.tif"):
        small_slide(Path(os.fsdecode(os.path.join(os.fsencode(home), name))))
    folder = SlideFolder(home)
    names = [e.name for e in folder.entries()]
    assert names == ["a.mrxs", "b.tif", "lat\\xe8n.tif", "lat\\xe9n.tif"]
    with pytest.raises(SlideUnreadableError, match=r"lat\\xe9n\.tif is no text.*Rename it"):
        folder.read(entry(folder, names[-1]))


def test_what_takes_no_part_is_counted_and_named(home: Path) -> None:
    (home / "project").mkdir()
    for name in ("one.svs", "two.tif", "note.txt", "project.qpproj"):
        (home / "project" / name).touch()
    (home / "sub" / "x.ome.zarr").mkdir(parents=True)
    (home / "sub" / "note.txt").touch()
    for name in ("x.dcm", "y.DCM", "1.png", "2.jpg", "3.jpg", "4.jpg", "s.qptiff", "b.xml", "t.ndpa"):
        (home / name).touch()
    (home / "evil\x1b[31m\n.txt").touch()
    assert SlideFolder(home).warnings == (
        "stray.geojson belongs to no slide of the folder.",
        "b.xml lies beside b.tif and is not used.",
        "Passed over: 4 pictures: 1.png, 2.jpg, 3.jpg and 1 more. "
        "To make slides of them: herohe-bridge slides convert.",
        "Passed over: 4 other files: evil\\x1b[31m\\x0a.txt, notes.txt, t.ndpa and 1 more.",
        "Passed over: 1 project or folder with slides: project (2).",
        "Passed over: 1 file in a format that is not read: s.qptiff.",
        "Passed over: 2 DICOM files that are no slides: x.dcm, y.DCM.",
        "Passed over: 1 image in Zarr, which OpenSlide does not read: sub/x.ome.zarr. "
        "Export them as OME-TIFF, as QuPath can.",
    )


def test_pictures_beside_slides_are_passed_over_and_alone_they_are_slides(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "sub").mkdir(parents=True)
    picture = tissue_picture(512)
    Image.fromarray(picture).save(home / "sub" / "1.jpg", quality=97, dpi=(72, 72))
    feature = exported(ID, 64, 64, 200, "Tumor")
    text = json.dumps({"type": "FeatureCollection", "features": [feature]})
    (home / "sub" / "1.geojson").write_text(text)
    table = tmp_path / "mpp.csv"
    table.write_text("slide,mpp\n1,0.5\n")
    for scales, mpp in ((None, None), (table, 0.5)):
        folder = open_collection(home, mpp_table=scales, output=tmp_path / f"out {mpp}")
        (found,) = folder.entries()
        assert (found.id, found.name) == ("sub/1.jpg", "1.jpg") and folder.warnings == ()
        content = folder.read(found)
        made = content.slide_path
        assert made == tmp_path / f"out {mpp}" / "slides" / "sub" / "1.jpg.tif"
        assert content.mpp == mpp and [a.id for a in content.annotations] == [ID]
        with GuardedSlide(made, mpp=mpp) as slide:
            seen = slide.read_box(128, 128, 128, 128, (128, 128)).astype(int)
            assert np.abs(seen - picture[128:256, 128:256]).mean() < 8
            if mpp is None:
                with pytest.raises(SlideScaleError):
                    _ = slide.mpp
        before = made.stat().st_mtime_ns
        assert open_collection(home, output=tmp_path / f"out {mpp}").read(found).slide_path == made
        assert made.stat().st_mtime_ns == before
        folder.write(found, sampled_result(content, patch=32), WriteOptions())
    assert [e.name for e in open_collection(home / "sub" / "1.jpg").entries()] == ["1.jpg"]
    small_slide(home / "a.tif")
    folder = open_collection(home)
    assert [e.name for e in folder.entries()] == ["a.tif"]
    assert any("1 picture: sub/1.jpg" in warning for warning in folder.warnings)


def test_slides_of_folders_below_count_each_with_what_lies_beside_it(home: Path) -> None:
    deep = home / "lab 1" / "day"
    deep.mkdir(parents=True)
    small_slide(deep / "c.tif", seed=3)
    small_slide(deep / "b.tif", seed=4)
    feature = exported(ID, 64, 64, 200, "Tumor")
    (deep / "c.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    (home / "link").symlink_to(deep, target_is_directory=True)
    (deep / "round").symlink_to(home, target_is_directory=True)
    (home / ".hidden").mkdir()
    small_slide(home / ".hidden" / "h.tif")
    folder = SlideFolder(home)
    names = {e.id: e.name for e in folder.entries()}
    assert names == {
        "a.mrxs": "a.mrxs",
        "b.tif": "b.tif",
        "lab 1/day/b.tif": "b.tif (in day in lab 1)",
        "lab 1/day/c.tif": "c.tif",
    }
    deeper = entry(folder, "c.tif")
    content = folder.read(deeper)
    assert [a.id for a in content.annotations] == [ID] and not folder.read(entry(folder, "b.tif")).annotations
    folder.write(deeper, sampled_result(content, patch=32), WriteOptions())
    assert (home / "herohe-bridge" / "geojson" / "lab 1" / "day" / "c.tif.her2-he.geojson").is_file()
    again = SlideFolder(home)
    assert again.read(entry(again, "c.tif")).written_run and len(again.entries()) == 4
    # What is drawn while a run goes on is what counts, wherever the slide lies.
    (deep / "c.geojson").write_text("{")
    with pytest.raises(EntryChangedError):
        folder.write(deeper, sampled_result(content, patch=32), WriteOptions())
    assert again.clear(entry(again, "c.tif"))


def test_a_folder_below_that_cannot_be_read_is_named_and_stops_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "lost+found").mkdir()
    real = Path.iterdir

    def refuse(path: Path) -> Any:
        if path.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    folder = SlideFolder(home)
    assert [e.name for e in folder.entries()] == ["a.mrxs", "b.tif"]
    assert any("lost+found" in warning and "ermission" in warning for warning in folder.warnings)


def test_a_series_of_dicom_is_one_slide_called_by_its_glass(tmp_path: Path) -> None:
    picture = tissue_picture(512)
    large, small = write_dicom(
        tmp_path / "s", picture, mpp=0.5, series=1, container="TCGA-A1-A0SB-01Z-00-DX1"
    )
    write_dicom(tmp_path / "s", picture[::-1], mpp=0.5, series=2)
    (tmp_path / "s" / "broken.dcm").write_bytes(b"DICM")
    folder = SlideFolder(tmp_path)
    assert [e.name for e in folder.entries()] == ["TCGA-A1-A0SB-01Z-00-DX1.dcm", "z2.dcm"]
    assert folder.warnings == ("Passed over: 1 DICOM file that is no slide: s/broken.dcm.",)
    content = folder.read(folder.entries()[0])
    assert content.slide_path == large
    with GuardedSlide(content.slide_path) as slide:
        assert slide.size == (512, 512) and slide.mpp == 0.5 and len(slide.level_downsamples) == 2
        seen = slide.read_box(128, 128, 128, 128, (128, 128)).astype(int)
    assert np.abs(seen - picture[128:256, 128:256]).mean() < 8
    # Whichever file of it is named, it is this slide.
    for file in (large, small):
        assert [e.name for e in open_collection(file).entries()] == ["TCGA-A1-A0SB-01Z-00-DX1.dcm"]


def test_two_annotations_of_one_identifier_get_their_own_values_and_tiles(home: Path) -> None:
    twice = [
        exported(ID, 40, 40, 200, "Tumor", name="left"),
        exported(ID, 260, 40, 200, "Tumor", name="right"),
    ]
    (home / "a.geojson").write_text(json.dumps(twice))
    folder = SlideFolder(home)
    content = folder.read(entry(folder, "a.mrxs"))
    result = sampled_result(content, patch=32)
    assert result.union is not None
    assert len(set(result.union.annotations)) == 2
    folder.write(content.entry, result, WriteOptions())
    left, right = written(home, "a.mrxs")["features"]
    assert [item["properties"]["name"] for item in (left, right)] == ["left", "right"]
    assert left["id"] == ID != right["id"]
    for item in (left, right):
        tiles = item["properties"]["childObjects"]
        assert tiles
        assert all(shape(item["geometry"]).contains(shape(t["geometry"]).centroid) for t in tiles)


def test_values_that_are_no_numbers_are_left_out_of_what_is_written(home: Path) -> None:
    drawn = exported(
        ID, 40, 40, 200, "Tumor", measurements={"mine": 1.5, "none": float("nan"), "text": "NaN"}
    )
    (home / "a.geojson").write_text(json.dumps([drawn]))
    folder = SlideFolder(home)
    content = folder.read(entry(folder, "a.mrxs"))
    folder.write(content.entry, sampled_result(content), WriteOptions())
    text = (home / "herohe-bridge" / "geojson" / "a.mrxs.her2-he.geojson").read_bytes()
    (item,) = msgspec.json.decode(text)["features"]
    values = item["properties"]["measurements"]
    assert {key: value for key, value in values.items() if not key.startswith("HER2-HE")} == {
        **{"mine": 1.5, "text": "NaN"}
    }
    assert folder.read(content.entry).written_run
    assert folder.clear(content.entry)


def test_a_link_in_the_place_of_a_result_file_is_not_followed(home: Path) -> None:
    precious = home / "precious.txt"
    precious.write_text("mine")
    results = home / "herohe-bridge" / "geojson"
    results.mkdir(parents=True)
    (results / "b.tif.her2-he.geojson").symlink_to(precious)
    folder = SlideFolder(home)
    with pytest.raises(WriteBackError, match=r"her2-he\.geojson is a link.*Remove it"):
        folder.write(
            entry(folder, "b.tif"), sampled_result(folder.read(entry(folder, "b.tif"))), WriteOptions()
        )
    assert precious.read_text() == "mine"


def test_clear_removes_our_files_only(home: Path) -> None:
    folder = SlideFolder(home)
    for e in folder.entries():
        content = folder.read(e)
        folder.write(e, sampled_result(content), WriteOptions())
    results = home / "herohe-bridge" / "geojson"
    (results / "b.tif.her2-he.geojson").write_text("[]")

    dry = CliRunner().invoke(clear, [str(home), "--dry-run"])
    assert dry.exit_code == 0
    assert "a.mrxs: " in dry.output
    assert "1 of 2 images would be cleared. Nothing was changed." in dry.output
    assert (results / "a.mrxs.her2-he.geojson").exists()

    done = CliRunner().invoke(clear, [str(home)])
    assert done.exit_code == 0
    assert "tiles, 2 annotations with values, metadata" in done.output
    assert [p.name for p in results.iterdir()] == ["b.tif.her2-he.geojson"]
    assert (home / "a.geojson").is_file()


def test_one_slide_of_a_folder_may_be_meant(tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif"):
        small_slide(tmp_path / name)
    (tmp_path / "notes.txt").write_text("")
    collection = open_collection(tmp_path / "b.tif")
    assert [entry.name for entry in collection.entries()] == ["b.tif"]
    assert collection.warnings == () and collection.root == tmp_path


def test_scales_come_from_a_table_and_what_it_says_of_none_is_named(tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif"):
        small_slide(tmp_path / name, mpp=None)
    table = tmp_path / "scales.csv"
    table.write_text("slide,mpp\na,0.25\nb.tif,0.5\nnobody,0.5\n")
    collection = open_collection(tmp_path, mpp_table=table)
    assert [collection.read(entry).mpp for entry in collection.entries()] == [0.25, 0.5]
    assert "The table of scales names nobody, no slide of the folder." in collection.warnings
    for text, said in (
        ("slide\na\n", "columns"),
        ("slide,mpp\na,none\n", "row 2"),
        ("slide,mpp\na,1\na,2\n", "two scales"),
    ):
        table.write_text(text)
        with pytest.raises(TableError, match=said):
            open_collection(tmp_path, mpp_table=table)
