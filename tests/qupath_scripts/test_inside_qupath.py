"""The scripts in a real QuPath, without its window."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.qupath_process import InsideQuPath, installed_qupath
from helpers.qupath_projects import (
    MadeProject,
    describe,
    described,
    draw_every_kind,
    files,
    ours,
    shown_images,
)
from helpers.small_bags import bag_model, small_weights
from helpers.small_slides import (
    MPP,
    PATCH_PX,
    immunostained_picture,
    scanner_profile,
    small_model,
    tissue_picture,
)
from PIL import Image
from shapely.geometry import box

from bridge.projects.qupath_project import QuPathProject
from bridge.qupath.jvm import start_qupath
from herohe_model.slides.slide import Slide
from herohe_model.synthetic.slides import write_mirax, write_tiff

pytestmark = pytest.mark.qupath

SIDE = 928
Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InsideQuPath]:
    model = small_model(tmp_path_factory.mktemp("model") / "small.safetensors")
    directory = start_qupath().directory
    with installed_qupath(directory, tmp_path_factory.mktemp("home"), model) as inside:
        yield inside


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MIRAX with bounds and a TIFF, with annotations of every kind, and bare glass."""
    home = tmp_path_factory.mktemp("wörld of slides")
    write_mirax(
        home / "a b.mrxs", tissue_picture(SIDE, seed=1), mpp=MPP, origin=(512, 256), canvas=(2048, 2048)
    )
    write_tiff(home / "ü.tif", tissue_picture(SIDE, seed=2), mpp=MPP)
    write_tiff(home / "glass.tif", np.full((512, 512, 3), 245, dtype=np.uint8), mpp=MPP)
    made = MadeProject(home / "project")
    made.list_classes("Tumor", "Stroma")
    draw_every_kind(made.add(home / "a b.mrxs"))
    second = made.add(home / "ü.tif")
    draw_every_kind(second)
    left = second.annotate(second.rectangle(40, 710, 200, 180), "Tumor", name="left")
    right = second.annotate(second.rectangle(260, 710, 200, 180), "Tumor", name="right")
    right.setID(left.getID())
    glass = made.add(home / "glass.tif")
    glass.annotate(glass.rectangle(10, 10, 400, 400), "Tumor")
    return made.save()


@pytest.fixture(scope="module")
def ways(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that shows slides as they are, turned, mirrored, cropped, and by their ICC profile."""
    slides = world.parent.parent
    write_tiff(slides / "icc.tif", tissue_picture(SIDE, seed=3), mpp=MPP, icc=scanner_profile())
    made = MadeProject(tmp_path_factory.mktemp("ways") / "project")
    images = shown_images(made.qupath, slides / "a b.mrxs", slides / "icc.tif")
    for name, (_, server) in images.items():
        painter = made.add_built(server.getBuilder(), name)
        painter.annotate(painter.rectangle(40, 50, 500, 440), "Tumor", name="left")
        painter.annotate(painter.ellipse(330, 200, 300, 350), "Tumor")
    return made.save()


@pytest.fixture
def project(world: Path, tmp_path: Path) -> Path:
    shutil.copytree(world.parent, tmp_path / "project")
    return tmp_path / "project" / world.name


def test_a_result_is_the_one_of_the_command_line_and_clear_takes_it_away(
    inside: InsideQuPath, world: Path, project: Path, tmp_path: Path
) -> None:
    before = described(world)
    run = inside.script("herohe_score.groovy", project)
    assert run.stdout.count("Research use only") == 2, run.stdout
    assert "foreground patches of" in run.stdout and "nothing was written" in run.stdout, "the glass"

    twin = tmp_path / "twin"
    shutil.copytree(world.parent, twin)
    inside.score(twin / world.name)
    assert any("HeroheScripts').score(this, [regionClasses: ['Tumor']" in step for step in workflow(project))
    scored, wanted = described(project), described(twin / world.name)
    assert scored.pop("glass.tif") == before["glass.tif"]
    wanted.pop("glass.tif")
    assert scored == wanted
    assert all(len(ours(rows)) > 20 for rows in scored.values())
    for name in ("a b.mrxs", "ü.tif"):
        assert mark(project, name) == mark(twin / world.name, name)

    # What a probe proposed goes, too.
    opened = QuPathProject(project)
    image = next(entry for entry in opened.entries() if entry.name == "glass.tif")
    assert opened.propose(image, [box(20, 20, 300, 300)], "Tumor", "probe")
    assert described(project) != before
    cleared = inside.script("herohe_clear.groovy", project)
    assert "was removed" in cleared.stdout
    assert described(project) == before
    assert not any("HER2-HE" in step for step in workflow(project))


def test_a_bag_model_gives_the_result_of_the_command_line(
    inside: InsideQuPath, world: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bag_model(tmp_path / "bag.safetensors", small_weights(tmp_path))
    shutil.copytree(world.parent, tmp_path / "twin")
    run = inside.script("herohe_score.groovy", project, f"model={model}", image="ü.tif")
    assert run.stdout.count("Research use only") == 1, run.stdout
    # Elsewhere, so that nothing is known of what was embedded here.
    monkeypatch.setenv("HEROHE_CACHE_DIR", str(tmp_path / "cache"))
    small_weights(tmp_path)
    there = {**inside.environment, "HEROHE_CACHE_DIR": str(tmp_path / "cache")}
    of_bag = dataclasses.replace(inside, model=model, environment=there)
    of_bag.score(tmp_path / "twin" / world.name)
    scored, wanted = described(project)["ü.tif"], described(tmp_path / "twin" / world.name)["ü.tif"]
    assert scored == wanted
    assert len(ours(scored)) > 20
    said = inside.script("herohe_explain.groovy", project, "composite=all", image="ü.tif")
    assert "sees every patch for itself" in said.stdout


@pytest.mark.slide
def test_a_real_slide_gives_the_result_of_the_command_line(
    inside: InsideQuPath, real_slide: Path, tmp_path: Path
) -> None:
    made = MadeProject(tmp_path / "one")
    painter = made.add(real_slide)
    painter.annotate(painter.ellipse(400, 500, 1200, 1500), "Tumor", name="left")
    painter.annotate(painter.rectangle(900, 300, 900, 800), name="nobody asked for it")
    one = made.save()
    shutil.copytree(one.parent, tmp_path / "two")
    inside.script("herohe_score.groovy", one, "seed=7", "composites=3")
    inside.score(tmp_path / "two" / one.name, "--seed", "7", "--composites", "3")
    found = described(one)
    assert found == described(tmp_path / "two" / one.name)
    assert len(ours(found[real_slide.name])) > 50


def test_every_way_in_gives_the_same_numbers_however_an_image_is_shown(
    inside: InsideQuPath, ways: Path, tmp_path: Path
) -> None:
    """The command line, the script with the slide's file, and the script with pixels out of QuPath."""
    for name in ("command line", "files", "pixels"):
        shutil.copytree(ways.parent, tmp_path / name)
    inside.score(tmp_path / "command line" / ways.name)
    inside.script("herohe_score.groovy", tmp_path / "files" / ways.name)
    ran = inside.script("herohe_score.groovy", tmp_path / "pixels" / ways.name, "pixelsFromQuPath=true")
    wanted = described(tmp_path / "command line" / ways.name)
    assert described(tmp_path / "files" / ways.name) == wanted
    found = described(tmp_path / "pixels" / ways.name)
    for name, rows in wanted.items():
        assert len(ours(rows)) > 20, name
        assert numbers(found[name]) == numbers(rows), name
    assert ("transformed by the slide's own ICC profile" in ran.stdout) == ("icc" in wanted)


def test_slides_of_another_stain_are_refused_and_nothing_is_written(
    inside: InsideQuPath, tmp_path: Path
) -> None:
    made = MadeProject(tmp_path / "project")
    types = made.qupath.java("qupath.lib.images.ImageData").ImageType
    pictures = {"brown": immunostained_picture(SIDE), "typed": tissue_picture(SIDE)}
    for name, kind in (("brown", types.UNSET), ("typed", types.BRIGHTFIELD_H_DAB)):
        write_tiff(tmp_path / f"{name}.tif", pictures[name], mpp=MPP)
        painter = made.add(tmp_path / f"{name}.tif")
        painter.annotate(painter.rectangle(64, 64, 500, 500), "Tumor")
        painter.entry._image_data.setImageType(kind)
    project = made.save()
    before = files(project.parent)
    ran = inside.script("herohe_score.groovy", project, save=False)
    assert "brown.tif does not look like H&E: its tissue is brown" in ran.stdout
    assert "The image type of typed.tif is Brightfield (H-DAB)" in ran.stdout
    assert files(project.parent) == before
    options = ("--model", inside.model, "--region-class", "Tumor")
    done = inside.bridge("score", project, *options)
    assert done.returncode == 1 and "2 unsuitable" in done.stdout, done.stdout + done.stderr
    scored = describe(project)
    assert all(rows[0]["metadata"]["HER2-HE outcome"] == "unsuitable" for rows in scored.values())
    assert not any(ours(rows) for rows in scored.values())


def test_explain_selects_the_patches_and_writes_the_picture_that_was_scored(
    inside: InsideQuPath, world: Path, project: Path
) -> None:
    inside.script("herohe_score.groovy", project, "perAnnotation=false", "composites=2", image="a b.mrxs")
    run = inside.script(
        "herohe_explain.groovy", project, "top=3", "composite=2", save=False, image="a b.mrxs"
    )
    assert "3 patches with the" in run.stdout
    pictures = sorted((project.parent / "herohe-bridge" / "composites").glob("*composite 2.png"))
    assert pictures, run.stdout
    picture = np.asarray(Image.open(pictures[0])).astype(int)
    assert picture.shape == (5 * PATCH_PX, 5 * PATCH_PX, 3)
    layout = json.loads(property_of(project, "a b.mrxs", "_HER2-HE composites"))
    cells = layout["regions"]["slide"][1]
    with Slide(world.parent.parent / "a b.mrxs") as slide:
        origin = slide.bounds
        for number, (x, y) in enumerate(cells):
            row, column = divmod(number, 5)
            cell = picture[row * PATCH_PX :, column * PATCH_PX :][:PATCH_PX, :PATCH_PX]
            size = layout["size"]
            corner = (origin.x + int(x), origin.y + int(y))
            read = slide.read_box(*corner, int(size), int(size), (PATCH_PX, PATCH_PX))
            assert np.abs(cell - read).mean() < 2


def test_what_cannot_be_done_for_one_image_is_said_and_the_exit_code_tells(
    inside: InsideQuPath, project: Path
) -> None:
    before = files(project.parent)
    run = inside.script("herohe_score.groovy", project, "regionClasses=Necrosis", image="ü.tif")
    assert run.returncode == 1
    for word in ("Classes present: ", "Tumor (9)", "unclassified (1)"):
        assert word in run.stdout
    assert files(project.parent) == before


def test_uninstalling_forgets_the_user_directory_that_was_made(inside: InsideQuPath, tmp_path: Path) -> None:
    with installed_qupath(inside.app.directory, tmp_path, inside.model) as fresh:
        directory = fresh.user_directory
        (directory / "logs").mkdir()
        done = fresh.bridge("qupath", "uninstall", "--qupath", fresh.app.directory)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not directory.exists()
        told = fresh.bridge("qupath", "status", "--qupath", fresh.app.directory)
        assert "no user directory yet" in told.stdout
        assert list(fresh.working_directory.iterdir()) == []


def workflow(project: Path) -> list[str]:
    return [step for rows in describe(project).values() for step in rows[0]["workflow"]]


def numbers(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What was found of an image, without what names the run that found it."""
    names = ("kind", "wkb", "class", "class colour")
    return sorted(
        (
            *(str(row.get(name)) for name in names),
            sorted((k, v) for k, v in row.get("measurements", row["metadata"]).items() if k != "HER2-HE run"),
        )
        for row in rows
    )


def property_of(project: Path, image: str, key: str) -> str:
    (entry,) = [i for i in start_qupath().open_project(project).images if str(i.image_name) == image]
    return str(entry.java_object.readImageData().getProperty(key))


def mark(project: Path, image: str) -> Any:
    return json.loads(property_of(project, image, "_HER2-HE"))
