"""Regions learned in a project and proposed in it, against the real QuPath that paquo finds."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import shapely
from click.testing import CliRunner
from helpers.drawn_bags import DIMENSION, write_drawn
from helpers.qupath_projects import MadeProject
from helpers.small_slides import small_slide

from bridge.annotations.classes import chooses, derived_class, is_proposed, proposed_class, user_class
from bridge.annotations.regions import Annotation
from bridge.cli import cli
from bridge.projects.base import EntryContent
from bridge.projects.open import open_collection

SIDE = 64
GRID = 8
TUMOUR = (128, 128, 256, 256)
ORIGIN = "Tumor"


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, [str(a) for a in arguments])
    return result.exit_code, f"{result.output}{result.exception or ''}"


def write_features(path: Path, seed: int) -> None:
    """Write features of a slide: shifted where the tumour is, which lies elsewhere on each."""
    rng = np.random.default_rng(seed)
    corners = np.array([(x * SIDE, y * SIDE) for y in range(GRID) for x in range(GRID)])
    x, y, width, height = place(seed)
    inside = (
        (corners[:, 0] >= x)
        & (corners[:, 0] < x + width)
        & (corners[:, 1] >= y)
        & (corners[:, 1] < y + height)
    )
    features = rng.normal(size=(len(corners), DIMENSION)) + rng.normal(size=DIMENSION) * 0.3
    features[inside, :4] += 2.0
    write_drawn(path, features.astype(np.float32))
    with h5py.File(path, "r+") as file:
        file["coords"][...] = corners
        file["coords"].attrs["patch_size_level0"] = SIDE


def place(seed: int) -> tuple[int, int, int, int]:
    return 64 * (seed % 3), 64 * (seed % 4), 256, 256


def read(project: Path) -> dict[str, EntryContent]:
    opened = open_collection(project)
    try:
        return {entry.name: opened.read(entry) for entry in opened.entries()}
    finally:
        opened.close()


def proposals(content: EntryContent) -> list[Annotation]:
    return [a for a in content.annotations if is_proposed(a.class_name)]


def test_a_proposal_is_chosen_only_by_who_asks_for_proposals() -> None:
    assert proposed_class("Tumor") == "Tumor: proposed"
    assert chooses("Tumor: proposed", "Tumor: proposed") and not chooses("Tumor", "Tumor: proposed")
    scored = derived_class("Tumor: proposed", "2+")
    assert user_class(scored) == "Tumor: proposed" and is_proposed(scored)
    assert chooses("Tumor: proposed", scored) and not chooses("Tumor", scored)
    # A class of that very name is the user's own.
    assert chooses("proposed", "proposed") and not is_proposed("proposed")


@pytest.mark.qupath
def test_tumour_is_learned_proposed_scored_when_asked_for_and_cleared(tmp_path: Path) -> None:
    made = MadeProject(tmp_path / "project")
    features = tmp_path / "features"
    features.mkdir()
    for seed in range(8):
        slide = small_slide(tmp_path / f"s{seed}.tif", seed=seed)
        painter = made.add(slide, saved=seed != 7)
        write_features(features / f"s{seed}.h5", seed)
        if seed < 5:
            painter.annotate(painter.rectangle(*place(seed)), "Tumor: Invasive")
            painter.annotate(painter.rectangle(400, 400, 60, 60), "Necrosis")
        elif seed == 6:
            painter.annotate(painter.rectangle(5, 5, 40, 40), "Stroma", name="mine")
    project = made.save()
    files = ("--features", features)
    probe = tmp_path / "probe.safetensors"
    before = {p: p.read_bytes() for p in project.parent.rglob("*") if p.is_file()}
    code, said = run("regions", "learn", project, *files, "--region-class", "Tumor", "--output", probe)
    assert code == 0 and "s4.tif: Dice" in said and "s6.tif has no annotation of Tumor" in said, said
    assert {p: p.read_bytes() for p in before} == before

    propose = ("regions", "propose", project, *files, "--probe", probe, "--min-area", 0)
    code, said = run(*propose)
    assert code == 0 and "3 of 8 images have regions of the class Tumor: proposed" in said, said
    assert "s0.tif: has annotations of Tumor of its own" in said
    found = read(project)
    for seed in range(8):
        shown = proposals(found[f"s{seed}.tif"])
        if seed < 5:
            assert not shown
            continue
        whole = shapely.union_all([a.geometry for a in shown])
        x, y, width, height = place(seed)
        truth = shapely.box(x, y, x + width, y + height)
        assert 2 * whole.intersection(truth).area / (whole.area + truth.area) > 0.75
    assert [a.name for a in found["s6.tif"].annotations if a.class_name == "Stroma"] == ["mine"]
    # The same again gives the same, and nothing twice.
    code, said = run(*propose)
    again = read(project)
    assert code == 0
    for name, content in found.items():
        assert [(a.id, a.geometry.wkt) for a in proposals(again[name])] == [
            (a.id, a.geometry.wkt) for a in proposals(content)
        ]

    # Scored only when asked for; then as any region, and the class is derived from the proposal's.
    model = tmp_path / "m.safetensors"
    code, said = run("model", "new", model, *SMALL)
    assert code == 0, said
    code, said = run("score", project, "--model", model, "--region-class", "Tumor", *SCORE)
    assert code == 0 and "3 no_matching_annotation, 5 scored" in said, said
    code, said = run("score", project, "--model", model, "--region-class", "Tumor: proposed", *SCORE)
    assert code == 0 and "3 scored" in said, said
    assert proposals(read(project)["s6.tif"])

    # One that a user takes over is the user's, whatever is cleared.
    opened = made.qupath.open_project(project)
    image = next(i for i in opened.images if i.image_name == "s5.tif")
    taken = next(o for o in image.hierarchy.annotations if "proposed" in str(o.path_class.id))
    image.java_object.readImageData()
    data = image._image_data
    factory = made.qupath.java("qupath.lib.objects.classes.PathClass")
    for o in data.getHierarchy().getAnnotationObjects():
        if str(o.getID()) == str(taken.java_object.getID()):
            o.setPathClass(factory.fromString("Tumor"))
    image.java_object.saveImageData(data)
    code, said = run("clear", project)
    assert code == 0 and "proposed region" in said, said
    cleared = read(project)
    assert not any(proposals(content) for content in cleared.values())
    assert [a.class_name for a in cleared["s5.tif"].annotations] == ["Tumor"]
    assert [a.class_name for a in cleared["s6.tif"].annotations] == ["Stroma"]
    assert sorted(a.class_name for a in cleared["s0.tif"].annotations) == ["Necrosis", "Tumor: Invasive"]


SMALL: tuple[object, ...] = ("--backbone", "resnet10t", "--patch-px", 32, "--mpp", 0.5)
SCORE: tuple[object, ...] = ("--composites", 1, "--device", "cpu", "--engine", "torch")
