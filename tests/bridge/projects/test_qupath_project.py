"""Against the real QuPath that paquo finds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.qupath_projects import (
    MadeProject,
    describe,
    draw_every_kind,
    files,
    images,
    ours,
)
from helpers.sampled_results import PATCH, sampled_result
from helpers.small_slides import drawn, small_slide
from numpy.typing import NDArray
from shapely.geometry import box

from bridge.annotations.geojson import annotations_from_geojson
from bridge.annotations.regions import build_regions
from bridge.commands.clear import command as clear
from bridge.projects.base import Entry, EntryContent
from bridge.projects.open import open_collection
from bridge.projects.qupath_project import NewImage, QuPathProject, create_project
from bridge.qupath.jvm import start_qupath
from bridge.results.schema import Outcome, SlideResult, image_metadata, measurements
from bridge.scoring.options import WriteOptions
from bridge.scoring.slide import failed_result
from herohe_model.errors import (
    ProjectError,
    SlideError,
    SlideNotFoundError,
    SlideUnreadableError,
)
from herohe_model.slides.slide import Slide
from herohe_model.slides.source import Box
from herohe_model.synthetic.slides import write_mirax, write_tiff

pytestmark = pytest.mark.qupath

ORIGIN = (512, 256)
RED, BLUE = (200, 60, 60), (60, 60, 200)
PAINTED = (96, 64, 320, 256)  # x, y, width, height of the red part, in QuPath's px


@dataclass(frozen=True)
class World:
    """A project as its user left it; copied before anything is done to it."""

    project: Path
    ids: dict[str, str]


def painted() -> NDArray[np.uint8]:
    picture = np.empty((1024, 1024, 3), dtype=np.uint8)
    picture[:] = BLUE
    x, y, width, height = PAINTED
    picture[y : y + height, x : x + width] = RED
    return picture


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A MIRAX with bounds and a TIFF with annotations of every kind, and a TIFF that was never saved."""
    home = tmp_path_factory.mktemp("wörld of slides")
    write_mirax(home / "a.mrxs", painted(), mpp=0.5, origin=ORIGIN, canvas=(2048, 2048), quality=95)
    write_tiff(home / "b.tif", painted(), mpp=0.5)
    write_tiff(home / "c.tif", painted(), mpp=0.5)
    made = MadeProject(home / "project")
    made.list_classes("Tumor", "Stroma", "Ignore*")
    ids = draw_every_kind(made.add(home / "a.mrxs"))
    second = made.add(home / "b.tif")
    draw_every_kind(second)
    second.entry.metadata["Reader"] = "A"
    second.entry.description = "a description"
    made.add(home / "c.tif", saved=False)
    return World(made.save(), ids)


@pytest.fixture
def project(world: World, tmp_path: Path) -> Path:
    """A copy of the project; its slides stay where they are."""
    shutil.copytree(world.project.parent, tmp_path / "project")
    return tmp_path / "project" / "project.qpproj"


def entry(project: QuPathProject, name: str) -> Entry:
    return next(e for e in project.entries() if e.name == name)


def read(path: Path, name: str = "a.mrxs") -> EntryContent:
    opened = QuPathProject(path)
    return opened.read(entry(opened, name))


def score(path: Path, name: str = "a.mrxs", options: WriteOptions | None = None, **asked: Any) -> SlideResult:
    """Write a made-up result for one image."""
    opened = QuPathProject(path)
    content = opened.read(entry(opened, name))
    result = sampled_result(content, **asked)
    opened.write(content.entry, result, options or WriteOptions())
    opened.close()
    return result


def by_id(path: Path, name: str = "a.mrxs") -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in describe(path)[name] if "id" in row}


def test_reading_changes_no_byte(project: Path) -> None:
    (project.parent / "classifiers" / "classes.json").unlink()
    (project.parent / "classifiers").rmdir()
    before = files(project.parent)
    opened = open_collection(project.parent)
    assert isinstance(opened, QuPathProject)
    for e in opened.entries():
        opened.read(e)
        opened.written_objects(e)
    opened.close()
    assert files(project.parent) == before
    assert not (project.parent / "classifiers").exists()


def test_images_come_in_the_projects_order(project: Path) -> None:
    assert [e.name for e in QuPathProject(project).entries()] == ["a.mrxs", "b.tif", "c.tif"]


def test_annotations_are_read_where_they_were_drawn(world: World) -> None:
    mirax = {a.id: a for a in read(world.project).annotations}
    x, y = ORIGIN
    rectangle = mirax[world.ids["rectangle"]]
    assert rectangle.geometry.equals(box(x + 20, y + 30, x + 320, y + 310))
    assert (rectangle.name, rectangle.class_name) == ("T1", "Tumor")
    ellipse = mirax[world.ids["ellipse"]].geometry
    assert ellipse.bounds == pytest.approx((x + 350.25, y + 20.5, x + 571, y + 180.5))
    assert ellipse.area == pytest.approx(np.pi * 220.75 * 160 / 4, rel=0.01)
    assert mirax[world.ids["hole"]].geometry.area == 260 * 250 - 100 * 100
    assert len(mirax[world.ids["parts"]].geometry.geoms) == 2
    assert mirax[world.ids["line"]].geometry.geom_type == "LineString"
    assert mirax[world.ids["child"]].class_name == "Stroma"
    assert world.ids["detection"] not in mirax
    tiff = read(world.project, "b.tif").annotations
    assert tiff[0].geometry.equals(box(20, 30, 320, 310))


def test_every_patch_lies_in_its_annotation_in_pixels(world: World, tmp_path: Path) -> None:
    """Seen through OpenSlide where it was sampled, and through QuPath's own server where its tile lies."""
    made = MadeProject(tmp_path / "project")
    painter = made.add(Path(world.project.parent.parent / "a.mrxs"))
    painter.annotate(painter.rectangle(*PAINTED), "Tumor")
    path = made.save()
    result = score(path)
    assert result.union is not None
    with Slide(world.project.parent.parent / "a.mrxs") as slide:
        for patch in result.union.patches:
            pixels = slide.read_box(patch.x, patch.y, PATCH, PATCH, (PATCH, PATCH))
            assert np.abs(pixels.astype(int) - RED).max() < 60
    qupath = start_qupath()
    image = images(path)[0].java_object.readImageData()
    server, request = image.getServer(), qupath.java("qupath.lib.regions.RegionRequest")
    tiles = list(image.getHierarchy().getTileObjects())
    assert len(tiles) == len(result.union.patches) > 10
    for tile in tiles:
        seen = server.readRegion(request.createInstance(server.getPath(), 1.0, tile.getROI()))
        packed = np.array(seen.getRGB(0, 0, PATCH, PATCH, None, 0, PATCH), dtype=np.int64)
        rgb = np.stack([packed >> shift & 255 for shift in (16, 8, 0)], axis=-1)
        assert np.abs(rgb - RED).max() < 60


def test_two_runs_and_clear_leave_everything_as_it_was(project: Path) -> None:
    before, classes = describe(project), json.loads(_classes(project).read_text())
    bytes_before = project.read_bytes()
    for name in ("a.mrxs", "b.tif"):
        score(project, name)
    once = describe(project)
    for name in ("a.mrxs", "b.tif"):
        score(project, name)
    assert describe(project) == once
    assert len(ours(once["a.mrxs"])) > 30
    done = CliRunner().invoke(clear, [str(project)])
    assert done.exit_code == 0, done.output
    assert "2 of 3 images cleared." in done.output
    assert describe(project) == before
    assert json.loads(_classes(project).read_text()) == classes
    assert json.loads(project.read_bytes()) == json.loads(bytes_before)


def _classes(project: Path) -> Path:
    return project.parent / "classifiers" / "classes.json"


def test_sampled_annotations_carry_values_and_a_derived_class(project: Path, world: World) -> None:
    before = by_id(project)
    result = score(project)
    assert result.union is not None
    after = by_id(project)
    values = {name: repr(value) for name, value in measurements(result.union).items()}
    sampled = {world.ids[n] for n in ("rectangle", "ellipse", "hole", "parts", "overlapping", "probable")}
    assert set(result.union.annotations) == sampled
    for id in sampled:
        assert after[id]["class"] == f"{before[id]['class']}: HER2-HE 2+"
        assert after[id]["measurements"] == before[id]["measurements"] | values
        same = ("colour", "probability", "name", "locked", "wkb", "metadata", "parent", "kind")
        assert {key: after[id][key] for key in same} == {key: before[id][key] for key in same}
    for id in before.keys() - sampled:
        assert after[id] == before[id]
    metadata = describe(project)["a.mrxs"][0]["metadata"]
    assert metadata == image_metadata(result)


def test_tiles_lie_under_the_smallest_annotation_with_their_shares(project: Path, world: World) -> None:
    result = score(project)
    assert result.union is not None
    rows = ours(describe(project)["a.mrxs"])
    assert {row["kind"] for row in rows} == {"PathTileObject"}
    assert {row["class"] for row in rows} == {"HER2-HE patch"}
    overlap = box(200, 200, 320, 310)
    shares = {
        (p.x - ORIGIN[0], p.y - ORIGIN[1]): (p.saturation, p.contributions) for p in result.union.patches
    }
    assert len(rows) == len(shares)
    for row in rows:
        corner = _corner(row)
        if overlap.contains(box(*corner, corner[0] + PATCH, corner[1] + PATCH)):
            assert row["parent"] == world.ids["overlapping"]
        saturation, (first, second, third) = shares[corner]
        assert row["measurements"] == {
            "HER2-HE: saturation": repr(saturation),
            "HER2-HE: contribution 3+": repr(first),
            "HER2-HE: contribution >=2+": repr(second),
            "HER2-HE: contribution >=1+": repr(third),
        }


def _corner(row: dict[str, Any]) -> tuple[int, int]:
    from shapely import from_wkb

    bounds = from_wkb(bytes.fromhex(row["wkb"])).bounds
    return int(bounds[0]), int(bounds[1])


def test_each_annotation_can_carry_its_own(project: Path) -> None:
    result = score(project, per_annotation=True)
    after = by_id(project)
    for region in result.annotations:
        assert after[region.region]["measurements"]["HER2-HE: patches sampled"] == repr(
            float(region.patches_sampled)
        )


def test_annotations_of_one_identifier_get_their_own_values_and_tiles(world: World, tmp_path: Path) -> None:
    made = MadeProject(tmp_path / "twins")
    image = made.add(world.project.parents[1] / "b.tif")
    left = image.annotate(image.rectangle(96, 64, 128, 256), "Tumor", name="left")
    right = image.annotate(image.rectangle(224, 64, 192, 256), "Tumor", name="right")
    right.setID(left.getID())
    path = made.save()
    before = describe(path)

    result = score(path, "b.tif", per_annotation=True)
    assert len({region.region for region in result.annotations}) == 2
    rows = {row["name"]: row for row in describe(path)["b.tif"] if row.get("name") in ("left", "right")}
    assert rows["left"]["id"] == rows["right"]["id"]
    for region in result.annotations:
        wanted = {name: repr(value) for name, value in measurements(region).items()}
        assert rows[region.name]["measurements"] == wanted
    tiles = [row for row in ours(describe(path)["b.tif"]) if row["class"] == "HER2-HE patch"]
    assert len({tile["id"] for tile in tiles}) == len(tiles) > 0
    assert read(path, "b.tif").written_run == (result.provenance.run if result.provenance else None)

    opened = QuPathProject(path)
    opened.clear(entry(opened, "b.tif"))
    opened.close()
    assert describe(path) == before


def test_an_image_that_qupath_passes_over_for_its_identifier_is_named(project: Path) -> None:
    document = json.loads(project.read_text("utf-8"))
    document["images"][1]["entryID"] = document["images"][0]["entryID"]
    project.write_text(json.dumps(document), "utf-8")
    opened = QuPathProject(project)
    assert len(opened.entries()) == 2
    assert any("b.tif has the id of another image" in warning for warning in opened.warnings)


def test_classes_and_tiles_are_left_out_when_asked(project: Path) -> None:
    before = by_id(project)
    score(project, options=WriteOptions(tiles="none", classify=False))
    after = by_id(project)
    assert after.keys() == before.keys()
    assert {id: row["class"] for id, row in after.items()} == {id: row["class"] for id, row in before.items()}
    score(project, options=WriteOptions(tiles="all"))
    assert any(len(row["measurements"]) == 1 for row in ours(describe(project)["a.mrxs"]))


def test_a_slide_without_annotations_gets_one_over_the_image(project: Path) -> None:
    result = score(project, "c.tif", region_classes=(), patch=128)
    assert result.union is not None
    rows = ours(describe(project)["c.tif"])
    (whole,) = [row for row in rows if row["kind"] == "PathAnnotationObject"]
    assert (whole["name"], whole["class"], whole["locked"]) == ("HER2-HE", "HER2-HE 2+", True)
    assert whole["metadata"] == {"_HER2-HE": result.provenance.run if result.provenance else ""}
    assert _corner(whole) == (0, 0)
    assert len(rows) == len(result.union.patches) + 1
    assert {row["parent"] for row in rows if row is not whole} == {whole["id"]}
    assert read(project, "c.tif").annotations == ()
    score(project, "c.tif", region_classes=(), patch=128)
    assert len(ours(describe(project)["c.tif"])) == len(rows)
    opened = QuPathProject(project)
    assert opened.clear(entry(opened, "c.tif"))
    opened.close()
    assert ours(describe(project)["c.tif"]) == []


def test_what_the_user_put_into_our_annotation_stays(project: Path) -> None:
    score(project, "c.tif", region_classes=(), patch=128)
    image = images(project)[0:3][2].java_object
    data = image.readImageData()
    qupath = start_qupath()
    (whole,) = data.getHierarchy().getAnnotationObjects()
    plane = qupath.java("qupath.lib.regions.ImagePlane").getDefaultPlane()
    roi = qupath.java("qupath.lib.roi.ROIs").createEllipseROI(10, 10, 20, 20, plane)
    cell = qupath.java("qupath.lib.objects.PathObjects").createDetectionObject(roi)
    whole.addChildObject(cell)
    image.saveImageData(data)
    id = str(cell.getID())

    score(project, "c.tif", region_classes=(), patch=128, grade="3+")
    assert id in by_id(project, "c.tif")
    opened = QuPathProject(project)
    opened.clear(entry(opened, "c.tif"))
    after = by_id(project, "c.tif")
    assert after[id]["parent"] == "root"
    assert len(after) == 1


def test_our_annotation_becomes_the_users_when_they_make_it_theirs(project: Path) -> None:
    """Named, classified or moved by the user, it is an annotation of theirs, and never removed."""
    changes: dict[str, Callable[[Any], None]] = {
        "name": lambda item: item.setName("my region"),
        "class": lambda item: item.setPathClass(path_class("Tumor")),
        "place": lambda item: item.setROI(item.getROI().translate(10.0, 10.0)),
    }
    path_class = start_qupath().java("qupath.lib.objects.classes.PathClass").fromString
    for number, change in enumerate(changes.values(), start=1):
        score(project, "c.tif", region_classes=(), patch=256)
        image = images(project)[2].java_object
        data = image.readImageData()
        (item,) = [
            o
            for o in data.getHierarchy().getAnnotationObjects()
            if o.isLocked() and str(o.getName()) == "HER2-HE"
        ]
        item.setLocked(False)
        change(item)
        image.saveImageData(data)
        assert len(read(project, "c.tif").annotations) == number
        score(project, "c.tif", region_classes=(), patch=256)
        assert len(read(project, "c.tif").annotations) == number
        opened = QuPathProject(project)
        opened.clear(entry(opened, "c.tif"))
        assert len(read(project, "c.tif").annotations) == number


def test_a_tile_whose_class_was_changed_is_still_ours(project: Path) -> None:
    score(project)
    image = images(project)[0].java_object
    data = image.readImageData()
    for tile in list(data.getHierarchy().getTileObjects())[:5]:
        tile.resetPathClass()
    image.saveImageData(data)
    count = len(by_id(project))
    score(project)
    assert len(by_id(project)) == count


def test_a_complete_result_is_known_and_a_damaged_one_is_not(project: Path, world: World) -> None:
    result = score(project)
    assert result.provenance is not None
    known = read(project)
    assert (known.written_run, known.written_with) == (result.provenance.run, WriteOptions())
    whole = (project.parent / "data" / "1" / "data.qpdata").read_bytes()

    def spoil(how: str) -> None:
        image = images(project)[0].java_object
        data = image.readImageData()
        hierarchy = data.getHierarchy()
        item = next(o for o in hierarchy.getAnnotationObjects() if str(o.getID()) == world.ids["rectangle"])
        if how == "tile":
            hierarchy.removeObject(next(iter(hierarchy.getTileObjects())), True)
        elif how == "measurement":
            item.getMeasurementList().remove("HER2-HE: P(positive)")
        elif how == "class":
            item.resetPathClass()
        elif how == "annotation":
            hierarchy.removeObject(item, True)
        image.saveImageData(data)

    for how in ("tile", "measurement", "class", "annotation"):
        spoil(how)
        assert read(project).written_run is None, how
        (project.parent / "data" / "1" / "data.qpdata").write_bytes(whole)
    assert read(project).written_run == result.provenance.run
    document = json.loads(project.read_bytes())
    del document["images"][0]["metadata"]["HER2-HE run"]
    project.write_text(json.dumps(document))
    assert read(project).written_run is None


def test_a_result_without_objects_is_known_by_its_outcome(project: Path) -> None:
    before = files(project.parent / "data")
    result = score(project, "b.tif", region_classes=("DCIS",))
    assert result.outcome is Outcome.NO_MATCHING_ANNOTATION
    assert result.provenance is not None
    assert files(project.parent / "data") == before
    assert read(project, "b.tif").written_run == result.provenance.run


def test_a_run_that_no_longer_matches_takes_its_work_back(project: Path) -> None:
    before = by_id(project, "b.tif")
    score(project, "b.tif")
    score(project, "b.tif", region_classes=("DCIS",))
    assert by_id(project, "b.tif") == before


def test_a_slide_that_could_not_be_scored_gets_its_outcome_only(project: Path) -> None:
    score(project)
    before = by_id(project)
    opened = QuPathProject(project)
    error = SlideUnreadableError("It is damaged", "Copy it again")
    opened.write(entry(opened, "a.mrxs"), failed_result(error, entry="1", slide="a.mrxs"), WriteOptions())
    opened.close()
    assert by_id(project) == before
    assert describe(project)["a.mrxs"][0]["metadata"]["HER2-HE outcome"] == "unreadable"
    assert read(project).written_run is None


def test_classes_are_appended_to_the_projects_list(project: Path) -> None:
    score(project)
    names = [item["name"] for item in json.loads(_classes(project).read_text())["pathClasses"]]
    assert names[:3] == ["Tumor", "Stroma", "Ignore*"]
    assert sorted(names[3:]) == ["HER2-HE patch", "Tumor: HER2-HE 2+", "Tumor: Invasive: HER2-HE 2+"]
    listed = {str(c): int(c.getColor()) for c in images_project(project).getPathClasses()}
    assert listed["Tumor: HER2-HE 2+"] & 0xFFFFFF == 225 << 16 | 150 << 8 | 50
    opened = QuPathProject(project)
    opened.clear(entry(opened, "a.mrxs"))
    opened.close()
    assert len(json.loads(_classes(project).read_text())["pathClasses"]) == 6


def images_project(project: Path) -> Any:
    return start_qupath().open_project(project).java_object


def test_a_class_keeps_the_colour_that_each_image_gave_it(project: Path) -> None:
    """In one Java machine a class has one colour; the first image's would spread to all others."""
    colours = {"a.mrxs": (0, 0, 255), "b.tif": (255, 0, 0)}
    for image in images(project)[:2]:
        data = image.java_object.readImageData()
        (item,) = [o for o in data.getHierarchy().getAnnotationObjects() if str(o.getName()) == "T1"]
        path_class = start_qupath().java("qupath.lib.objects.classes.PathClass").fromString("Unlisted")
        path_class.setColor(*colours[image.image_name])
        item.setPathClass(path_class)
        image.java_object.saveImageData(data)
    for name in colours:
        score(project, name, region_classes=("Unlisted",))
        opened = QuPathProject(project)
        opened.clear(entry(opened, name))
        opened.close()
    found = {}
    for name, id in (("a.mrxs", "1"), ("b.tif", "2")):
        with start_qupath().file_input(project.parent / "data" / id / "data.qpdata") as stream:
            items = start_qupath().data.read(stream)
        (hierarchy,) = [
            i for i in items if "PathObjectHierarchy" in str(i.getClass() if i is not None else "")
        ]
        objects = hierarchy.getRootObject().getChildObjects()
        (colour,) = [o.getPathClass().getColor() for o in objects if str(o.getPathClass()) == "Unlisted"]
        found[name] = tuple(int(colour) >> shift & 255 for shift in (16, 8, 0))
    assert found == colours


def test_a_project_without_a_list_of_classes_is_not_given_one(project: Path) -> None:
    _classes(project).unlink()
    score(project)
    assert not _classes(project).exists()


def test_what_was_saved_meanwhile_is_kept(project: Path) -> None:
    opened = QuPathProject(project)
    content = opened.read(entry(opened, "a.mrxs"))
    document = json.loads(project.read_bytes())
    document["images"][1]["metadata"]["Reader"] = "B"
    document["images"][1]["unknown to this version"] = {"x": 0.1}
    document["images"].pop(2)
    project.write_text(json.dumps(document))
    opened.write(content.entry, sampled_result(content), WriteOptions())
    opened.close()
    after = json.loads(project.read_bytes())
    assert after["images"][0].pop("metadata")["HER2-HE grade"] == "2+"
    document["images"][0].pop("metadata")
    assert after == document


def test_a_run_keeps_one_copy_of_what_it_changes(project: Path) -> None:
    before = files(project.parent)
    opened = QuPathProject(project)
    for name in ("a.mrxs", "b.tif", "a.mrxs"):
        content = opened.read(entry(opened, name))
        opened.write(content.entry, sampled_result(content), WriteOptions())
    opened.close()
    (run,) = (project.parent / "herohe-bridge" / "backups").iterdir()
    changed = ["classifiers/classes.json", "data/1/data.qpdata", "data/2/data.qpdata", "project.qpproj"]
    assert files(run) == {name: before[name] for name in changed}
    after = files(project.parent)
    assert {name for name in before if after[name] != before[name]} == set(changed)


def test_objects_of_files_without_identifiers_get_lasting_ones(project: Path) -> None:
    """QuPath before 0.4 stored none, and each reading makes new ones."""
    qupath = start_qupath()
    image = images(project)[0].java_object
    data = image.readImageData()
    field = qupath.java("qupath.lib.objects.PathObject").class_.getDeclaredField("id")
    field.setAccessible(True)
    for item in data.getHierarchy().getFlattenedObjectList(None):
        field.set(item, None)
    image.saveImageData(data)
    assert {a.id for a in read(project).annotations}.isdisjoint(a.id for a in read(project).annotations)

    result = score(project)
    assert result.union is not None
    assert set(result.union.annotations) <= by_id(project).keys()
    content = read(project)
    assert result.provenance is not None
    assert content.written_run == result.provenance.run


def test_a_project_moved_with_its_slides_is_scored(world: World, tmp_path: Path) -> None:
    home = world.project.parent.parent
    shutil.copytree(home, tmp_path / "moved")
    project = tmp_path / "moved" / "project" / "project.qpproj"
    # The old place is still there, and is made to look as if it were not.
    document = json.loads(project.read_text("utf-8").replace(home.as_uri(), "file:///gone"))
    document["uri"] = "file:/gone/project/project.qpproj"
    project.write_text(json.dumps(document))
    assert read(project).slide_path == tmp_path / "moved" / "a.mrxs"
    for name in ("a.mrxs", "c.tif"):
        score(project, name, region_classes=())
        opened = QuPathProject(project)
        assert opened.written_objects(entry(opened, name)).whole_image == 1


def test_moved_slides_are_found_below_slides_root(project: Path, world: World) -> None:
    home = world.project.parent.parent
    text = project.read_text("utf-8")
    assert home.as_uri() in text
    project.write_text(text.replace(home.as_uri(), "file:///gone"), "utf-8")
    opened = QuPathProject(project)
    with pytest.raises(SlideNotFoundError, match=r"a\.mrxs.*--slides-root"):
        opened.read(entry(opened, "a.mrxs"))
    opened = QuPathProject(project, slides_root=home)
    content = opened.read(entry(opened, "a.mrxs"))
    assert content.slide_path == home / "a.mrxs"
    never_saved = opened.read(entry(opened, "c.tif"))
    opened.write(never_saved.entry, sampled_result(never_saved, region_classes=()), WriteOptions())
    assert opened.written_objects(never_saved.entry).whole_image == 1


def test_rotated_cropped_and_uncropped_images_are_followed(world: World, tmp_path: Path) -> None:
    qupath = start_qupath()
    slide = world.project.parent.parent / "a.mrxs"
    java = qupath.java
    uri = java("java.io.File")(str(slide)).toURI()
    plain = java("qupath.lib.images.servers.ImageServers")
    servers = {
        "uncropped": plain.buildServer(uri, "--no-crop"),
        "turned": java("qupath.lib.images.servers.RotatedImageServer")(
            plain.buildServer(uri), java("qupath.lib.images.servers.RotatedImageServer.Rotation").ROTATE_90
        ),
        "part": java("qupath.lib.images.servers.CroppedImageServer")(
            plain.buildServer(uri),
            java("qupath.lib.regions.ImageRegion").createInstance(64, 32, 512, 400, 0, 0),
        ),
    }
    x, y, width, height = PAINTED
    places = {
        "uncropped": (x + ORIGIN[0], y + ORIGIN[1], width, height),
        "turned": (1024 - y - height, x, height, width),
        "part": (x - 64, y - 32, width, height),
    }
    made = MadeProject(tmp_path / "project")
    for name, server in servers.items():
        painter = made.add_built(server.getBuilder(), name)
        painter.annotate(painter.rectangle(*places[name]), "Tumor")
    path = made.save()
    expected = box(ORIGIN[0] + x, ORIGIN[1] + y, ORIGIN[0] + x + width, ORIGIN[1] + y + height)
    for name, place in places.items():
        assert read(path, name).annotations[0].geometry.equals(expected), name
        result = score(path, name)
        assert result.union is not None
        rows = ours(describe(path)[name])
        assert len(rows) == len(result.union.patches)
        area = box(place[0], place[1], place[0] + place[2], place[1] + place[3]).buffer(PATCH / 2)
        for row in rows:
            corner = _corner(row)
            assert area.contains(box(*corner, corner[0] + PATCH, corner[1] + PATCH)), name


def test_a_pixel_size_set_in_qupath_is_used(project: Path) -> None:
    assert read(project).mpp is None
    document = json.loads(project.read_bytes())
    calibration = document["images"][0]["serverBuilder"]["metadata"]["pixelCalibration"]
    for side in ("pixelWidth", "pixelHeight"):
        calibration[side]["value"] = 0.25
    project.write_text(json.dumps(document))
    assert read(project).mpp == 0.25


def test_an_image_of_another_size_than_its_slide_is_refused(project: Path) -> None:
    document = json.loads(project.read_bytes())
    document["images"][0]["serverBuilder"]["metadata"]["width"] = 1000
    project.write_text(json.dumps(document))
    with pytest.raises(SlideError, match=r"QuPath shows a\.mrxs with 1000 x 1024 px"):
        read(project)


def test_project_and_exported_geojson_give_the_same_regions(project: Path) -> None:
    qupath = start_qupath()
    data = images(project)[0].java_object.readImageData()
    out = project.parent / "exported.geojson"
    qupath.java("qupath.lib.io.PathIO").exportObjectsAsGeoJSON(
        qupath.java("java.io.File")(str(out)), data.getHierarchy().getAllObjects(False)
    )
    digests = {
        build_regions(
            annotations, region_classes=("Tumor",), exclude_classes=(), slide_box=Box(*ORIGIN, 1024, 1024)
        ).digest()
        for annotations in (
            read(project).annotations,
            annotations_from_geojson(out.read_bytes(), origin=ORIGIN),
        )
    }
    assert len(digests) == 1


def test_result_files_of_a_slide_folder_are_read_by_qupath(world: World, tmp_path: Path) -> None:
    from bridge.annotations.geojson_writing import write_annotations
    from bridge.projects.slide_folder import SlideFolder

    slide = small_slide(tmp_path / "a.tif")
    write_annotations(slide, [drawn(40, 40, 200, 200, id="6a6ae0fb-d3d1-4c1c-9d3e-6f2a0f4b0d11")])
    folder = SlideFolder(tmp_path)
    content = folder.read(folder.entries()[0])
    result = sampled_result(content)
    assert result.union is not None
    folder.write(content.entry, result, WriteOptions())
    qupath = start_qupath()
    path = tmp_path / "herohe-bridge" / "geojson" / "a.tif.her2-he.geojson"
    (item,) = qupath.java("qupath.lib.io.PathIO").readObjects(qupath.java("java.io.File")(str(path)))
    assert str(item.getID()) == "6a6ae0fb-d3d1-4c1c-9d3e-6f2a0f4b0d11"
    assert str(item.getPathClass()) == "Tumor: HER2-HE 2+"
    assert float(item.getMeasurementList().get("HER2-HE: P(positive)")) == 0.75
    tiles = list(item.getChildObjects())
    assert len(tiles) == len(result.union.patches)
    assert all(tile.isTile() and str(tile.getPathClass()) == "HER2-HE patch" for tile in tiles)


def test_a_project_is_made_for_the_demo(tmp_path: Path) -> None:
    slide = tmp_path / "a.mrxs"
    write_mirax(slide, painted(), mpp=0.5, origin=ORIGIN, canvas=(2048, 2048))
    annotation = drawn(600, 300, 200, 200, id="6a6ae0fb-d3d1-4c1c-9d3e-6f2a0f4b0d11")
    create_project(tmp_path / "project", [NewImage(slide, "case 1", (annotation,))])
    content = read(tmp_path / "project" / "project.qpproj", "case 1")
    (found,) = content.annotations
    assert found.geometry.equals(annotation.geometry)
    assert (found.id, found.name, found.class_name) == (annotation.id, annotation.name, "Tumor")
    assert describe(tmp_path / "project" / "project.qpproj")["case 1"][0]["type"] == "Brightfield (H&E)"
    with pytest.raises(ProjectError, match="No project could be made"):
        create_project(tmp_path / "project", [])
