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
from helpers.small_slides import MPP, small_model, tissue_picture

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


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two slides of tissue and one of bare glass, with a region on each."""
    write_tiff(tmp_path / "first.tif", tissue_picture(928, seed=1), mpp=MPP)
    write_tiff(tmp_path / "second.tif", tissue_picture(928, seed=2), mpp=MPP)
    write_tiff(tmp_path / "glass.tif", np.full((512, 512, 3), 245, dtype=np.uint8), mpp=MPP)
    made = MadeProject(tmp_path / "project")
    made.list_classes("Tumor")
    for name in ("first.tif", "second.tif", "glass.tif"):
        painter = made.add(tmp_path / name)
        painter.annotate(painter.rectangle(64, 64, 400, 400), "Tumor", name=f"of {name}")
    path = made.save()
    stained = made.qupath.java("qupath.lib.images.ImageData").ImageType.BRIGHTFIELD_H_E
    for image in made.qupath.open_project(path).images:
        data = image.java_object.readImageData()
        data.setImageType(stained)
        image.java_object.saveImageData(data)
    return path


def test_the_menu_and_the_panel_do_what_they_say(inside: InsideQuPath, project: Path, tmp_path: Path) -> None:
    scored = inside.script("herohe_score.groovy", project, image="first.tif")
    assert scored.returncode == 0, scored.stdout + scored.stderr
    seen = seen_in_window(inside, project, tmp_path / "seen.json")
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
    outcomes = {row[0]: row[1] for row in seen["project"]}
    assert outcomes == {"first.tif": "scored", "second.tif": "scored", "glass.tif": "insufficient tissue"}


def seen_in_window(inside: InsideQuPath, project: Path, seen: Path) -> dict[str, Any]:
    with display() as number:
        driven = f"-Dqupath.startup.script={DRIVER} -Dherohe.seen={seen}"
        java = f"{inside.environment['JAVA_TOOL_OPTIONS']} {driven}"
        done = subprocess.run(
            [str(inside.app.launcher), "-q", "-p", str(project), "-i", "first.tif"],
            cwd=inside.working_directory,
            env={**inside.environment, "DISPLAY": number, "JAVA_TOOL_OPTIONS": java},
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
