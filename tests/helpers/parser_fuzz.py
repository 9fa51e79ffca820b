"""Damaged files for each parser of files from strangers: they are read, or refused with an error of ours."""

from __future__ import annotations

import gzip
import io
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.annotations.files import read_texts
from bridge.annotations.geojson import annotations_from_geojson, read_features
from bridge.annotations.geojson_writing import collection_text
from bridge.annotations.regions import build_regions
from bridge.install.installed_files import read_record
from bridge.qupath.image_source import parse_builder
from bridge.qupath.project_file import image_metadata, read_project, update_metadata
from bridge.qupath.safe_replace import Backups
from bridge.results.files import read_json, write_json
from bridge.results.predictions import read_predictions
from helpers.example_results import made_result
from helpers.mutants import mutated_bytes, mutated_json, mutated_text_of, mutated_zip, refused
from helpers.small_slides import small_model
from herohe_model.dataset.labels import read_labels
from herohe_model.dataset.submission import read_submission
from herohe_model.model.card import CARD_KEY, read_card
from herohe_model.model.checkpoint import load_model
from herohe_model.slides.source import Box

Case = Callable[[], object]


@dataclass
class Fuzzed:
    """How many damaged files were read and refused, and how long the slowest took, in seconds."""

    read: int = 0
    refused: int = 0
    slowest_s: float = 0.0


def run_cases(cases: Iterator[Case], count: int) -> Fuzzed:
    """Run so many cases; whatever is raised that is no error of ours is raised here."""
    found = Fuzzed()
    for _ in range(count):
        case = next(cases)
        began = time.perf_counter()
        if refused(case):
            found.refused += 1
        else:
            found.read += 1
        found.slowest_s = max(found.slowest_s, time.perf_counter() - began)
    return found


def annotation_cases(folder: Path, seed: int) -> Iterator[Case]:
    """GeoJSON in every form that is read, made into regions."""
    rng = random.Random(seed)
    document = _annotations()
    path = folder / "a.geojson"
    while True:
        text = mutated_text_of(document, rng)
        match rng.randrange(4):
            case 0:
                packed = (
                    mutated_bytes(gzip.compress(text), rng) if rng.random() < 0.3 else gzip.compress(text)
                )
                yield _written(folder / "a.geojson.gz", packed, _regions_of)
            case 1:
                yield _written(folder / "a.zip", mutated_zip(_zipped({"a.geojson": text}), rng), _regions_of)
            case _:
                yield _written(path, text, _regions_of)


def table_cases(folder: Path, seed: int) -> Iterator[Case]:
    """Labels, submissions and results as CSV and as workbooks."""
    rng = random.Random(seed)
    labels = (
        "Case;Immunohistochemistry;ISH Group;Final Result (Ground truth)\n1;2+;1;Positive\n2;0;;Negative\n"
    )
    submission = "caseID,soft_prediction,hard_prediction\n1,0.5,1\n2,0.25,0\n"
    book = _workbook()
    while True:
        match rng.randrange(4):
            case 0:
                yield _written(folder / "l.csv", mutated_bytes(labels.encode(), rng), read_labels)
            case 1:
                yield _written(folder / "s.csv", mutated_bytes(submission.encode(), rng), read_submission)
            case 2:
                yield _written(folder / "p.csv", mutated_bytes(submission.encode(), rng), read_predictions)
            case _:
                yield _written(folder / "l.xlsx", mutated_zip(book, rng), read_labels)


def model_cases(folder: Path, seed: int) -> Iterator[Case]:
    """Model files: their bytes, their header and their card."""
    rng = random.Random(seed)
    sound = small_model(folder / "sound.safetensors").read_bytes()
    size = int.from_bytes(sound[:8], "little")
    header, weights = json.loads(sound[8 : 8 + size]), sound[8 + size :]
    path = folder / "m.safetensors"
    while True:
        match rng.randrange(3):
            case 0:
                changed = mutated_bytes(sound[: 8 + size], rng) + weights
            case 1:
                changed = _model(mutated_json(header, rng), weights)
            case _:
                card = mutated_text_of(json.loads(header["__metadata__"][CARD_KEY]), rng)
                metadata = {CARD_KEY: card.decode("utf-8", "replace")}
                changed = _model({**header, "__metadata__": metadata}, weights)
        yield _written(path, changed, lambda path: (read_card(path), load_model(path)))


def project_cases(folder: Path, seed: int) -> Iterator[Case]:
    """Project files, image sources, records of what was installed, and results."""
    rng = random.Random(seed)
    write_json(folder / "results.json", [made_result("a"), made_result("b")])
    results = json.loads((folder / "results.json").read_text("utf-8"))
    builder = _builder()
    images = [{"entryID": n, "imageName": f"{n}.svs", "metadata": {"k": "v"}} for n in (1, 2)]
    project = {"version": "0.6.0", "uri": "file:/p/project.qpproj", "images": images}
    record = {"format": 1, "version": "1", "files": {"a/b": "0" * 64}, "folders": ["a"], "notes": {"k": "v"}}
    while True:
        match rng.randrange(4):
            case 0:
                yield _written(folder / "project.qpproj", mutated_text_of(project, rng), _edited)
            case 1:
                changed = mutated_json(builder, rng)
                yield lambda changed=changed: parse_builder(changed, "a")
            case 2:
                yield _written(folder / "installed.json", mutated_text_of(record, rng), read_record)
            case _:
                yield _written(folder / "results.json", mutated_text_of(results, rng), _read_results)


def _written(path: Path, data: bytes, read: Callable[[Path], object]) -> Case:
    def case() -> object:
        path.write_bytes(data)
        return read(path)

    return case


def _regions_of(path: Path) -> object:
    features = read_features(read_texts(path), (10, 20))
    collection_text([feature.members() for feature in features])
    found = [feature.annotation for feature in features]
    assert len({annotation.id for annotation in found}) == len(found)
    box = Box(0, 0, 1000, 1000)
    return build_regions(found, region_classes=("Tumor",), exclude_classes=("Necrosis",), slide_box=box)


def _read_results(path: Path) -> object:
    return read_json(path), read_predictions(path)


def _edited(path: Path) -> object:
    image_metadata(read_project(path))
    return update_metadata(
        path, {"1": {"k": None}}, Backups(path.parent, path.parent / "kept"), lambda _: None
    )


def _model(header: object, weights: bytes) -> bytes:
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + weights


def _zipped(members: dict[str, bytes]) -> bytes:
    import zipfile

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def _workbook() -> bytes:
    from openpyxl import Workbook

    book = Workbook()
    sheet = book.active
    assert sheet is not None
    for row in (["Case", "IHC", "Status"], [1, "2+", "Positive"], ["2", 0, "Negative"], [3, None, True]):
        sheet.append(row)
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def _annotations() -> dict[str, Any]:
    ring = [[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]
    hole = [[10, 10], [20, 10], [20, 20], [10, 10]]
    shapes = [
        {"type": "Polygon", "coordinates": [ring, hole]},
        {"type": "Polygon", "coordinates": [ring], "isEllipse": True},
        {"type": "MultiPolygon", "coordinates": [[ring], [[[x + 200, y] for x, y in ring]]]},
        {"type": "LineString", "coordinates": [[0, 0], [5, 5]]},
        {"type": "MultiPoint", "coordinates": [[1, 2], [3, 4]]},
    ]
    shapes.append({"type": "GeometryCollection", "geometries": shapes[:4]})
    features = [
        {
            "type": "Feature",
            "id": f"5c1e2a3b-1111-4222-8333-{number:012d}",
            "geometry": shape,
            "properties": {
                "objectType": "annotation",
                "name": f"n{number}",
                "classification": {"names": ["Tumor", "Invasive"], "color": [200, 0, 0]},
                "measurements": {"m": 1.5},
                "metadata": {"k": "v"},
                "childObjects": [{"type": "Feature", "geometry": shape, "properties": {"type": "cell"}}],
            },
        }
        for number, shape in enumerate(shapes)
    ]
    assert len(annotations_from_geojson(json.dumps(features))) == len(features)
    return {"type": "FeatureCollection", "features": features}


def _builder() -> dict[str, Any]:
    side = {"value": 0.5, "unit": "um"}
    inner = {"builderType": "uri", "providerClassName": "x", "uri": "file:/a.svs", "args": ["--series", "0"]}
    return {
        "builderType": "rotated",
        "rotation": "ROTATE_90",
        "builder": {
            "builderType": "cropped",
            "region": {"x": 1, "y": 2, "width": 3, "height": 4},
            "builder": inner,
        },
        "metadata": {
            "width": 10,
            "height": 20,
            "pixelCalibration": {"pixelWidth": side, "pixelHeight": side},
        },
    }
