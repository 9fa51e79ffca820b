from __future__ import annotations

import json
import math
import uuid
from pathlib import Path
from typing import Any

import pytest
from helpers.small_slides import drawn, small_slide
from shapely.geometry import box

from bridge.annotations.geojson import annotations_from_geojson, read_features
from bridge.annotations.geojson_writing import classification, write_annotations
from herohe_model.errors import RegionError

SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]]}
ID = "6a6ae0fb-d3d1-4c1c-9d3e-6f2a0f4b0d11"


def a_feature(properties: dict[str, Any] | None = None, **members: Any) -> dict[str, Any]:
    return {"type": "Feature", "id": ID, "geometry": SQUARE, "properties": properties or {}} | members


def collection(*features: Any) -> str:
    return json.dumps({"type": "FeatureCollection", "features": features})


def test_a_collection_a_list_and_a_single_feature_are_read_alike() -> None:
    one = a_feature({"name": "T1", "classification": {"name": "Tumor", "color": [200, 0, 0]}})
    expected = annotations_from_geojson(collection(one))
    assert [(a.id, a.name, a.class_name) for a in expected] == [(ID, "T1", "Tumor")]
    assert annotations_from_geojson(json.dumps([one])) == expected
    assert annotations_from_geojson(json.dumps(one)) == expected
    assert annotations_from_geojson(b"\xef\xbb\xbf" + json.dumps(one).encode()) == expected
    assert annotations_from_geojson("\ufeff" + json.dumps(one)) == expected
    assert annotations_from_geojson("[]") == ()


def test_coordinates_are_moved_to_the_slides_bounds() -> None:
    (found,) = annotations_from_geojson(collection(a_feature()), origin=(512, 256))
    assert found.geometry.equals(box(512, 256, 522, 266))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"name": "Tumor"}, "Tumor"),
        ({"name": "Tumor: Invasive", "colorRGB": -3670016}, "Tumor: Invasive"),
        ({"names": ["Tumor", "Invasive"], "color": [1, 2, 3]}, "Tumor: Invasive"),
        ({"name": "Invasive", "parentClass": {"name": "Tumor"}}, "Tumor: Invasive"),
        ("Tumor", "Tumor"),
        (None, ""),
        ({}, ""),
    ],
)
def test_classes_are_read_as_all_versions_write_them(given: Any, expected: str) -> None:
    (found,) = annotations_from_geojson(collection(a_feature({"classification": given})))
    assert found.class_name == expected


def test_objects_are_of_the_types_that_qupath_takes_them_for() -> None:
    others = ["detection", "cell", "tile", "tmaCore", "tma_core", "root", "PathDetectionObject"]
    others += ["PathCellObject", "PathTileObject", "TMACoreObject", "PathRootObject"]
    not_ours = [a_feature({key: kind}) for key in ("objectType", "object_type", "type") for kind in others]
    not_ours += [a_feature(id=kind) for kind in others if kind.endswith("Object")]
    not_ours += [a_feature({"objectType": "tile"}, id="PathAnnotationObject")]
    assert annotations_from_geojson(collection(*not_ours)) == ()

    drawn = [
        a_feature({"objectType": "annotation", "type": "detection"}),
        a_feature(id="PathAnnotationObject"),
    ]
    drawn += [a_feature({"objectType": "annotation"}, id="PathDetectionObject"), a_feature()]
    # Types that QuPath does not know become annotations there.
    unknown = [
        "PathAnnotationObject",
        "Annotation",
        "Detection",
        "tumor",
        "subcellular",
        "Polygon",
        "tmacore",
    ]
    drawn += [a_feature({key: kind}) for key in ("objectType", "type") for kind in unknown]
    assert len(annotations_from_geojson(collection(*drawn))) == len(drawn)


def test_two_annotations_of_one_identifier_are_both_kept() -> None:
    twice = collection(a_feature({"name": "left"}), a_feature({"name": "right"}))
    left, right = annotations_from_geojson(twice)
    assert (left.id, left.name, right.name) == (ID, "left", "right")
    assert right.id != ID
    assert uuid.UUID(right.id)
    assert annotations_from_geojson(twice) == (left, right)


def test_an_ellipse_is_one_however_few_corners_its_polygon_has() -> None:
    bounds = {"type": "Polygon", "coordinates": [[[10, 30], [30, 40], [50, 30], [30, 20], [10, 30]]]}
    ellipse = a_feature(geometry=bounds | {"isEllipse": True})
    found, rhombus = annotations_from_geojson(collection(ellipse, a_feature(geometry=bounds)))
    assert found.geometry.bounds == pytest.approx((10, 20, 50, 40))
    assert found.geometry.area == pytest.approx(math.pi * 20 * 10, rel=2e-3)
    assert rhombus.geometry.area == 400


def test_values_that_are_no_numbers_do_not_make_a_text_unreadable() -> None:
    values = '{"a": NaN, "b": -Infinity, "c": Infinity, "d": "NaN", "NaN \\" Infinity": 1}'
    text = json.dumps(a_feature()).replace('"properties": {}', f'"properties": {{"measurements": {values}}}')
    (found,) = read_features([("x", text)], (0, 0))
    assert found.annotation.id == ID
    assert found.members()["properties"]["measurements"] == {
        **{"a": None, "b": None, "c": None, "d": "NaN", 'NaN " Infinity': 1}
    }


def test_child_objects_follow_their_parents() -> None:
    child = a_feature({"name": "child", "objectType": "annotation"}, id=str(uuid.UUID(int=2)))
    hidden = a_feature({"objectType": "detection", "childObjects": [child]})
    parent = a_feature({"name": "parent", "childObjects": [hidden]})
    last = a_feature({"name": "last"})
    assert [a.name for a in annotations_from_geojson(collection(parent, last))] == ["parent", "child", "last"]


def test_what_we_wrote_is_not_read_back() -> None:
    tile = a_feature({"objectType": "tile", "classification": {"name": "HER2-HE patch"}})
    whole = a_feature({"name": "HER2-HE", "metadata": {"_HER2-HE": "run"}})
    mine = a_feature({"name": "HER2-HE", "classification": {"names": ["Tumor", "HER2-HE 2+"]}})
    taken_over = a_feature({"name": "HER2-HE", "metadata": {"_HER2-HE": "run"}, "classification": "Tumor"})
    found = annotations_from_geojson(collection(tile, whole, mine, taken_over))
    assert [a.class_name for a in found] == ["Tumor: HER2-HE 2+", "Tumor"]


def test_a_feature_without_an_identifier_gets_the_same_one_each_time() -> None:
    nameless = [a_feature(id=None), a_feature(id="not a uuid"), a_feature(id=7)]
    first, second = (annotations_from_geojson(collection(*nameless)) for _ in range(2))
    assert [a.id for a in first] == [a.id for a in second]
    assert len({a.id for a in first}) == 3


def test_every_shape_of_qupath_is_read() -> None:
    shapes: list[dict[str, Any]] = [
        SQUARE,
        {"type": "Polygon", "coordinates": [SQUARE["coordinates"][0], [[2, 2], [4, 2], [4, 4], [2, 2]]]},
        {"type": "MultiPolygon", "coordinates": [SQUARE["coordinates"]]},
        {"type": "LineString", "coordinates": [[0, 0], [5, 5]]},
        {"type": "MultiLineString", "coordinates": [[[0, 0], [5, 5]]]},
        {"type": "Point", "coordinates": [1, 2]},
        {"type": "MultiPoint", "coordinates": [[1, 2], [3, 4]]},
        {"type": "GeometryCollection", "geometries": [SQUARE]},
        {"type": "Polygon", "coordinates": [], "isEllipse": True, "plane": {"z": 0}},
        {"type": "LineString", "coordinates": [[1, 2]]},
        {"type": "MultiLineString", "coordinates": [[[1, 2, 0]], []]},
        {"type": "Point", "coordinates": []},
        {"type": "MultiPoint", "coordinates": []},
        {"type": "GeometryCollection", "geometries": []},
    ]
    found = annotations_from_geojson(collection(*(a_feature(geometry=shape) for shape in shapes)))
    assert [a.geometry.geom_type for a in found] == [shape["type"] for shape in shapes]
    assert [a.geometry.area for a in found] == [100, 98, 100, 0, 0, 0, 0, 100, *[0] * 6]


def test_rings_too_short_to_enclose_anything_are_empty() -> None:
    stub = {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}
    (found,) = annotations_from_geojson(collection(a_feature(geometry=stub)))
    assert found.geometry.is_empty


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"type": "FeatureCollection",\n "features": [}', "line 2, column 15"),
        (b'{"type": "\xff"}', "not UTF-8"),
        ('{"type": "Polygon"}', "no GeoJSON of features"),
        ("7", "no GeoJSON of features"),
        (collection(a_feature(), 7), "feature 2, is not a GeoJSON feature"),
        (
            collection(a_feature(properties=[1])),
            "feature 1, is not a GeoJSON feature (Expected `object | null`",
        ),
        (collection(a_feature({"childObjects": [a_feature(), 3]})), "feature 1, child 2"),
        (
            collection(a_feature(geometry=[1])),
            "feature 1, has a geometry that cannot be used (Expected `object`",
        ),
        (collection(a_feature(geometry={"type": "Polygon"})), "missing required field `coordinates`"),
        (
            collection(a_feature(geometry={"type": "Circle", "coordinates": []})),
            "Invalid value 'Circle' - at `$.type`",
        ),
        (
            collection(a_feature(geometry={"type": "Polygon", "coordinates": [[["a", 1]]]})),
            "Expected `float`, got `str` - at `$.coordinates[0][0][0]`",
        ),
        (collection(a_feature(geometry={"type": "Polygon", "coordinates": [[1]]})), "at `$.coordinates"),
        (collection(a_feature(geometry={"type": "Polygon", "coordinates": [[[1]]]})), "pairs of numbers"),
        (
            collection(a_feature(geometry={"type": "Point", "coordinates": [float("nan"), 1]})),
            "got `null`",
        ),
        (collection(a_feature(geometry={"type": "Point", "coordinates": [1e300, 1]})), "no slide holds"),
        (collection(a_feature(geometry={"type": "Point", "coordinates": [10**400, 1]})), "out of range"),
        ("[" + "1" * 5000 + "]", "Number out of range"),
        ("[" * 100_000, "nested too deeply"),
        ('{"type":"Feature","properties":{"childObjects":[' * 150 + "]}}" * 150, "nested too deeply"),
        (collection(a_feature({"metadata": json.loads("[" * 900 + "]" * 900)})) * 2, "trailing characters"),
    ],
)
def test_malformed_text_is_named_with_its_place(text: str | bytes, place: str) -> None:
    with pytest.raises(RegionError) as caught:
        annotations_from_geojson(text, source="case1.geojson")
    assert "case1.geojson" in str(caught.value)
    assert place in str(caught.value)


def test_annotations_written_beside_a_slide_are_read_back(tmp_path: Path) -> None:
    slide = small_slide(tmp_path / "a.tif")
    annotations = (drawn(10, 20, 30, 40, id=ID), drawn(50, 60, 5, 5, id=str(uuid.UUID(int=3)), class_name=""))
    path = write_annotations(slide, annotations)
    assert path == tmp_path / "a.tif.geojson"
    assert annotations_from_geojson(path.read_bytes()) == annotations
    moved = write_annotations(slide, annotations, origin=(10, 20))
    assert annotations_from_geojson(moved.read_bytes(), origin=(10, 20)) == annotations


def test_a_class_is_always_written_with_a_colour() -> None:
    assert classification("Tumor: HER2-HE 2+") == {"names": ["Tumor", "HER2-HE 2+"], "color": [225, 150, 50]}
    assert classification("Tumor") == {"name": "Tumor", "color": [128, 128, 128]}
