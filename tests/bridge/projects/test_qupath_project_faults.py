"""What may go wrong with a QuPath project, against the real QuPath: nothing of the user's is ever lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
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
from helpers.sampled_results import sampled_result

from bridge.commands.clear import command as clear
from bridge.projects.base import Entry
from bridge.projects.open import open_collection
from bridge.projects.qupath_project import QuPathProject
from bridge.scoring.options import WriteOptions
from herohe_model.errors import (
    EntryChangedError,
    EntryDamagedError,
    ProjectError,
    QuPathNotFoundError,
    WriteBackError,
)
from herohe_model.synthetic.slides import write_tiff

pytestmark = pytest.mark.qupath

DATA = Path("data", "1", "data.qpdata")
TESTS = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides with annotations of every kind."""
    home = tmp_path_factory.mktemp("home")
    made = MadeProject(home / "project")
    for name in ("a.tif", "b.tif"):
        write_tiff(home / name, np.full((1024, 1024, 3), 150, dtype=np.uint8), mpp=0.5)
        draw_every_kind(made.add(home / name))
    return made.save()


@pytest.fixture
def project(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original.parent, tmp_path / "project")
    return tmp_path / "project" / "project.qpproj"


def first(project: QuPathProject) -> Entry:
    return project.entries()[0]


def test_data_that_cannot_be_read_to_their_end_are_refused_and_untouched(project: Path) -> None:
    whole = (project.parent / DATA).read_bytes()
    damages: dict[str, Callable[[], bytes]] = {
        "empty": lambda: b"",
        "garbage": lambda: b"this is no data file" * 100,
        "half": lambda: whole[: len(whole) // 2],
        # QuPath reads this one: all objects are there. The properties after them are not.
        "without its end": lambda: whole[:-40],
    }
    for name, damage in damages.items():
        (project.parent / DATA).write_bytes(damage())
        before = files(project.parent)
        opened = QuPathProject(project)
        with pytest.raises(EntryDamagedError, match=r"a\.tif"):
            opened.read(first(opened))
        with pytest.raises(EntryDamagedError):
            opened.written_objects(first(opened))
        with pytest.raises(EntryDamagedError):
            opened.clear(first(opened))
        assert opened.read(opened.entries()[1]).annotations, name
        opened.close()
        assert files(project.parent) == before, name


def test_an_interrupted_save_of_qupaths_is_refused(project: Path) -> None:
    data = project.parent / DATA
    data.rename(data.with_name("data.qpdata.bkp"))
    before = files(project.parent)
    opened = QuPathProject(project)
    with pytest.raises(EntryDamagedError, match=r"data\.qpdata\.bkp"):
        opened.read(first(opened))
    assert files(project.parent) == before


def test_an_image_that_was_saved_empty_is_not_damaged(project: Path) -> None:
    image = images(project)[0].java_object
    data = image.readImageData()
    data.getHierarchy().clearAll()
    image.saveImageData(data)
    opened = QuPathProject(project)
    content = opened.read(first(opened))
    assert content.annotations == ()
    opened.write(content.entry, sampled_result(content, region_classes=()), WriteOptions())
    assert opened.written_objects(content.entry).whole_image == 1


def test_data_saved_by_somebody_else_meanwhile_are_not_written_over(project: Path) -> None:
    opened = QuPathProject(project)
    content = opened.read(first(opened))
    image = images(project)[0].java_object
    data = image.readImageData()
    data.getHierarchy().getAnnotationObjects().iterator().next().setName("renamed meanwhile")
    image.saveImageData(data)
    before = files(project.parent)
    with pytest.raises(EntryChangedError, match=r"a\.tif.*Close the project in QuPath"):
        opened.write(content.entry, sampled_result(content), WriteOptions())
    opened.close()
    assert files(project.parent) == before


def test_data_deleted_meanwhile_are_not_made_again(project: Path) -> None:
    opened = QuPathProject(project)
    content = opened.read(first(opened))
    (project.parent / DATA).unlink()
    with pytest.raises(EntryChangedError):
        opened.write(content.entry, sampled_result(content), WriteOptions())
    assert not (project.parent / DATA).exists()


def test_a_project_file_that_is_none_is_named(project: Path) -> None:
    for text in ("", "{", "[]", '{"images": 3}', '{"version": "0.6.0", "images": [{"entryID": "x"}]}'):
        project.write_text(text)
        with pytest.raises(ProjectError, match=r"project\.qpproj"):
            open_collection(project)


def test_clear_goes_on_after_a_damaged_image_and_says_so(project: Path) -> None:
    opened = QuPathProject(project)
    for entry in opened.entries():
        content = opened.read(entry)
        opened.write(entry, sampled_result(content), WriteOptions())
    opened.close()
    (project.parent / DATA).write_bytes(b"garbage")
    before = files(project.parent)
    dry = CliRunner().invoke(clear, [str(project), "--dry-run"])
    assert dry.exit_code == 1
    assert files(project.parent) == before
    done = CliRunner().invoke(clear, [str(project)])
    assert done.exit_code == 1
    assert "a.tif: The data of a.tif cannot be read" in done.output
    assert "1 of 2 images cleared." in done.output
    assert (project.parent / DATA).read_bytes() == b"garbage"
    assert ours(describe(project)["b.tif"]) == []


def child(code: str, project: Path, **environment: str) -> subprocess.Popen[str]:
    """Run code that has a project opened as `opened`, and its first entry read as `content`, elsewhere."""
    start = (
        "import sys\n"
        f"sys.path.insert(0, {str(TESTS)!r})\n"
        "from pathlib import Path\n"
        "from bridge.scoring.options import WriteOptions\n"
        "from bridge.projects.qupath_project import QuPathProject\n"
        "from helpers.sampled_results import sampled_result\n"
        f"opened = QuPathProject(Path({str(project)!r}))\n"
        "content = opened.read(opened.entries()[0])\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", start + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are POSIX's")
def test_a_full_disk_leaves_the_data_as_they_were(project: Path) -> None:
    before = files(project.parent)
    limit = (project.parent / DATA).stat().st_size + 1000
    code = (
        "import resource\n"
        "from herohe_model.errors import WriteBackError\n"
        "result = sampled_result(content, patch=16)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "try:\n"
        "    opened.write(content.entry, result, WriteOptions())\n"
        "except WriteBackError as error:\n"
        "    print(error)\n"
    )
    process = child(code, project)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "a.tif" in out
    assert "as it was" in out
    after = files(project.parent)
    assert {name: after[name] for name in before} == before
    assert all("backups" in name for name in after.keys() - before.keys())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_process_killed_while_it_writes_leaves_a_whole_entry(project: Path, seed: int) -> None:
    code = (
        "results = [sampled_result(content, grade=grade) for grade in ('1+', '3+')]\n"
        "while True:\n"
        "    for result in results:\n"
        "        opened.write(content.entry, result, WriteOptions())\n"
        "        print('written', flush=True)\n"
    )
    process = child(code, project)
    assert process.stdout is not None
    assert process.stderr is not None
    chance = random.Random(seed)
    for _ in range(chance.randint(1, 3)):
        assert process.stdout.readline() == "written\n", process.stderr.read()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=chance.uniform(0.0, 0.5))
    process.kill()
    process.communicate()

    opened = QuPathProject(project)
    content = opened.read(first(opened))
    grades = {
        a.class_name.rpartition("HER2-HE ")[2] for a in content.annotations if "HER2-HE" in a.class_name
    }
    assert len(grades) == 1
    result = sampled_result(content, grade="2+")
    opened.write(content.entry, result, WriteOptions())
    opened.close()
    assert result.provenance is not None
    assert QuPathProject(project).read(content.entry).written_run == result.provenance.run
    assert not list(project.parent.glob("data/*/*.herohe-*"))
    done = QuPathProject(project)
    done.clear(content.entry)
    done.close()
    mine = [row for row in describe(project)["a.tif"] if "id" in row]
    assert len(mine) == len([row for row in describe(project)["b.tif"] if "id" in row])


def test_java_prints_nothing_into_our_output(project: Path) -> None:
    process = child("print('only this')", project)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out, err) == (0, "only this\n", "")


def test_no_qupath_is_an_error_that_says_what_to_do(project: Path, tmp_path: Path) -> None:
    process = child("", project, PAQUO_QUPATH_DIR=str(tmp_path / "nowhere"))
    _, err = process.communicate(timeout=300)
    assert QuPathNotFoundError.__name__ in err
    assert "paquo get_qupath" in err
    assert "herohe-bridge doctor" in err


def test_writing_back_checks_what_it_wrote(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that loses an object is caught before its file takes the place of the old one."""
    from bridge.qupath.image_data import ImageData

    opened = QuPathProject(project)
    content = opened.read(first(opened))
    before = files(project.parent)
    apply = ImageData.apply

    def lose(self: ImageData, *arguments: Any, **options: Any) -> set[str]:
        used = apply(self, *arguments, **options)
        root = self._root
        root.removeChildObject(next(iter(root.getChildObjects())))
        return used

    monkeypatch.setattr(ImageData, "apply", lose)
    with pytest.raises(WriteBackError, match="would have changed objects of yours"):
        opened.write(content.entry, sampled_result(content), WriteOptions())
    after = files(project.parent)
    assert {name: after[name] for name in before} == before


def test_a_wrong_project_file_never_takes_the_old_ones_place(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = QuPathProject(project)
    content = opened.read(first(opened))
    before = json.loads(project.read_bytes())
    monkeypatch.setattr(
        "bridge.qupath.project_file.write_new", lambda text, path: path.write_bytes(text[: len(text) // 2])
    )
    with pytest.raises(WriteBackError, match="QuPath could not read"):
        opened.write(content.entry, sampled_result(content), WriteOptions())
    assert json.loads(project.read_bytes()) == before
