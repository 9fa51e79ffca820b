from __future__ import annotations

import gzip
import os
import zipfile
from pathlib import Path

import pytest

from bridge.annotations import files
from bridge.annotations.files import find_annotation_files, read_texts
from herohe_model.errors import RegionError

HERE = Path("slides")


@pytest.mark.parametrize(
    ("slide", "name"),
    [
        ("x.svs", "x.geojson"),
        ("x.svs", "x.svs.geojson"),
        ("x.svs", "X.GEOJSON"),
        ("x.SVS", "x.svs.GeoJSON.GZ"),
        ("x.svs", "x.geojson.gz"),
        ("x.svs", "x.json"),
        ("x.svs", "x.svs.json.gz"),
        ("x.svs", "x.zip"),
        ("x.ome.tif", "x.geojson"),
        ("x.ome.tif", "x.ome.geojson"),
        ("x.OME.TIFF", "x.ome.tiff.geojson"),
        ("M\u00fcller.tif", "Mu\u0308ller.geojson"),
        ("Mu\u0308ller.tif", "M\u00fcller.tif.geojson"),
        ("case 1.2.mrxs", "case 1.2.geojson"),
        ("STRASSE.tif", "stra\u00dfe.geojson"),
    ],
)
def test_a_slides_annotations_are_found_however_they_are_called(slide: str, name: str) -> None:
    found = find_annotation_files([HERE / slide, HERE / name], [slide, "other.tif"])
    assert found.of(slide) == HERE / name
    assert found.of("other.tif") is None
    assert found.used == {HERE / name}
    assert found.strays == ()


def test_the_more_exact_name_decides_between_slides_and_between_files() -> None:
    names = ["a.geojson", "A.geojson", "b.tif.geojson", "b.svs.geojson", "c.geojson", "c.json", "c.zip"]
    slides = ["a.tif", "A.tif", "b.tif", "b.svs", "c.tif"]
    found = find_annotation_files([HERE / name for name in names], slides)
    assert [found.of(slide) for slide in slides] == [HERE / name for name in names[:5]]


def test_what_could_be_meant_twice_is_an_error() -> None:
    names = ["a.geojson", "a.tif.geojson", "b.geojson", "c.GEOJSON", "c.geojson.gz"]
    found = find_annotation_files([HERE / n for n in names], ["a.tif", "b.tif", "b.svs", "c.tif"])
    for slide, said in [
        ("a.tif", r"Both .*a\.tif\.geojson and .*a\.geojson"),
        ("b.tif", r"b\.geojson could belong to b\.tif and to b\.svs"),
        ("b.svs", r"Rename it to b\.tif\.geojson"),
        ("c.tif", "Both .*c.geojson.gz and .*c.GEOJSON"),
    ]:
        with pytest.raises(RegionError, match=said):
            found.of(slide)


def test_files_of_annotations_without_a_slide_are_strays_and_results_are_not() -> None:
    names = ["lost.geojson", "lost.geojson.gz", "labels.json", "a.tif.her2-he.geojson", "data.zip"]
    found = find_annotation_files([HERE / name for name in names], ["a.tif"])
    assert [path.name for path in found.strays] == ["lost.geojson", "lost.geojson.gz"]
    assert found.of("a.tif") is None


def test_compressed_files_hold_what_the_plain_one_does(tmp_path: Path) -> None:
    text = b'{"type": "FeatureCollection", "features": []}'
    (tmp_path / "a.geojson").write_bytes(text)
    (tmp_path / "a.geojson.gz").write_bytes(gzip.compress(text))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.geojson", text)
        archive.writestr("folder/b.GeoJSON", b"[]")
        archive.writestr("__MACOSX/a.geojson", b"no JSON")
        archive.writestr("notes.txt", b"")
    assert [data for _, data in read_texts(tmp_path / "a.geojson")] == [text]
    assert [data for _, data in read_texts(tmp_path / "a.geojson.gz")] == [text]
    assert [data for _, data in read_texts(tmp_path / "a.zip")] == [text, b"[]"]


def test_what_cannot_be_unpacked_is_an_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = b"[" + b" " * 5000 + b"]"
    (tmp_path / "cut.geojson.gz").write_bytes(gzip.compress(os.urandom(500))[:-20])
    (tmp_path / "plain.geojson.gz").write_bytes(text)
    (tmp_path / "plain.zip").write_bytes(text)
    (tmp_path / "folder.geojson").mkdir()
    (tmp_path / "bomb.geojson.gz").write_bytes(gzip.compress(text))
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.geojson", text)
    monkeypatch.setattr(files, "MAX_BYTES", 1000)
    for name in ["lost.geojson", *(path.name for path in tmp_path.iterdir())]:
        with pytest.raises(RegionError, match=name):
            read_texts(tmp_path / name)
