"""The extension in QuPath's window, on a display of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.qupath_process import InsideQuPath, installed_qupath
from helpers.qupath_projects import MadeProject
from helpers.small_slides import MPP, immunostained_picture, small_model, tissue_picture
from numpy.typing import NDArray

from bridge.qupath.jvm import start_qupath
from herohe_model.synthetic.slides import write_tiff

pytestmark = [
    pytest.mark.qupath,
    pytest.mark.skipif(shutil.which("Xvfb") is None, reason="there is no Xvfb for a window"),
]

DRIVER = Path(__file__).with_name("window.groovy")


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InsideQuPath]:
    model = small_model(tmp_path_factory.mktemp("model") / "small.safetensors")
    home = tmp_path_factory.mktemp("home")
    with installed_qupath(start_qupath().directory, home, model) as inside:
        yield inside


def scored_project(inside: InsideQuPath, folder: Path, third: str, picture: NDArray[np.uint8]) -> Path:
    """A project of two slides of tissue, the first of them scored, and another, with a region on each."""
    write_tiff(folder / "first.tif", tissue_picture(928, seed=1), mpp=MPP)
    write_tiff(folder / "second.tif", tissue_picture(928, seed=2), mpp=MPP)
    write_tiff(folder / third, picture, mpp=MPP)
    made = MadeProject(folder / "project")
    made.list_classes("Tumor")
    for name in ("first.tif", "second.tif", third):
        painter = made.add(folder / name)
        painter.annotate(painter.rectangle(64, 64, 400, 400), "Tumor", name=f"of {name}")
    path = made.save()
    types = made.qupath.java("qupath.lib.images.ImageData").ImageType
    for image in made.qupath.open_project(path).images:
        data = image.java_object.readImageData()
        data.setImageType(types.UNSET if image.image_name == "brown.tif" else types.BRIGHTFIELD_H_E)
        image.java_object.saveImageData(data)
    scored = inside.script("herohe_score.groovy", path, image="first.tif")
    assert scored.returncode == 0, scored.stdout + scored.stderr
    return path


def test_the_menu_and_the_panel_do_what_they_say(inside: InsideQuPath, tmp_path: Path) -> None:
    glass = np.full((512, 512, 3), 245, dtype=np.uint8)
    project = scored_project(inside, tmp_path, "glass.tif", glass)
    seen = seen_in_window(inside, project, tmp_path / "seen.json", tour="work")
    assert "problem" not in seen, seen
    assert seen["menu"] == [
        *("Score annotations...", "Explain", "Show result", "Clear"),
        *("Score project...", "Report", "Model and server..."),
    ]

    reopened = "\n".join(seen["reopened"])
    assert "of first.tif" in reopened and "RANDOM MODEL" in reopened and "small 0" in reopened
    assert 0.1 < seen["covered"] < 0.25, "the heat map lies over the region, and only there"
    assert seen["selected"] == 0 and not seen["mapper"] and not seen["touched"]
    assert not any(word.startswith("P(positive)") for word in seen["second"]), "it follows the image"
    assert seen["unchanged"], "preferences, the project and its data are as before"

    assert "Copy as script" in seen["dialog"] and "Classes to score" in seen["dialog"]
    assert "of second.tif" in seen["scored"] and seen["pictures"] >= 8
    assert "of second.tif" not in seen["cleared"]
    assert seen["elsewhere"] == [], "QuPath's panes hear of changes to an open image in the window's thread"
    outcomes = {row[0]: row[1] for row in seen["project"]}
    assert outcomes == {"first.tif": "scored", "second.tif": "scored", "glass.tif": "insufficient tissue"}
    assert seen["report"]


def test_who_changes_his_mind_finds_everything_as_it_was(inside: InsideQuPath, tmp_path: Path) -> None:
    project = scored_project(inside, tmp_path, "brown.tif", immunostained_picture(512))
    before = kept(project)
    seen = seen_in_window(inside, project, tmp_path / "seen.json", tour="change of mind")
    assert "problem" not in seen, seen
    assert seen["cleared"], "answering No after Clear changed the project"
    assert "brown" in seen["refused"]
    assert not any(word.startswith("P(positive)") for word in seen["cancelled"])
    assert "of first.tif" in "\n".join(seen["kept"])
    assert seen["unchanged"], "answering No after scoring changed the project"
    assert 0.1 < seen["alone"] < 0.25, "an image without a project is explained, too"
    assert kept(project) == before


def kept(project: Path) -> dict[str, Any]:
    """What a project's folder holds; its own file without names that QuPath draws anew at each saving."""
    held: dict[str, Any] = {
        str(path): path.read_bytes()
        for path in project.parent.rglob("*")
        if path.is_file() and path.suffix not in (".qpproj", ".backup")
    }
    held["project"] = json.loads(project.read_text(encoding="utf-8"))
    for image in held["project"]["images"]:
        del image["randomizedName"]
    return held


def seen_in_window(inside: InsideQuPath, project: Path, seen: Path, *, tour: str) -> dict[str, Any]:
    with display() as number:
        driven = f"-Dqupath.startup.script={DRIVER} -Dherohe.seen={seen} '-Dherohe.tour={tour}'"
        java = f"{inside.environment['JAVA_TOOL_OPTIONS']} {driven}"
        done = subprocess.run(
            [str(inside.app.launcher), "-q", "-p", str(project), "-i", "first.tif"],
            cwd=inside.working_directory,
            env={**inside.environment, "DISPLAY": number, "JAVA_TOOL_OPTIONS": java, "BROWSER": "true"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=900,
            check=False,
        )
    assert seen.is_file(), done.stdout + done.stderr
    assert "UncaughtExceptionHandler" not in done.stdout, done.stdout
    found: dict[str, Any] = json.loads(seen.read_text(encoding="utf-8"))
    return found


@contextmanager
def display() -> Iterator[str]:
    """A display that Xvfb chooses the number of."""
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1280x1024x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, pass_fds=(write,), stderr=subprocess.DEVNULL) as server:
        os.close(write)
        try:
            with os.fdopen(read) as told:
                yield f":{told.readline().strip()}"
        finally:
            server.terminate()
