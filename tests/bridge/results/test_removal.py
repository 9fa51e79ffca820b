from __future__ import annotations

from pathlib import Path

import pytest
from helpers.example_results import made_result

from bridge.results.files import write_csv, write_json
from bridge.results.manifest import MANIFEST_NAME, Manifest, ManifestError
from bridge.results.removal import remove_results, result_files


def a_run(folder: Path) -> Path:
    folder.mkdir()
    write_csv(folder / "results.csv", [made_result()])
    write_json(folder / "results.json", [made_result()])
    Manifest(folder / MANIFEST_NAME).close()
    return folder


def test_the_files_of_a_run_are_removed_and_its_folder(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "out")
    (folder / "geojson").mkdir()
    assert {path.name for path in remove_results(folder)} == {"results.csv", "results.json", MANIFEST_NAME}
    assert not folder.exists()


def test_what_is_not_ours_stays_whatever_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    for name in ("results.csv", "results.json", MANIFEST_NAME, "notes.txt"):
        (folder / name).write_text("mine, of results")
    assert remove_results(folder) == () and len(list(folder.iterdir())) == 4


def test_links_are_not_followed_and_not_removed(tmp_path: Path) -> None:
    theirs = a_run(tmp_path / "theirs")
    folder = tmp_path / "out"
    folder.mkdir()
    for path in list(theirs.iterdir()):
        (folder / path.name).symlink_to(path)
    (tmp_path / "link").symlink_to(theirs)
    assert remove_results(folder) == () and remove_results(tmp_path / "link") == ()
    assert len(list(folder.iterdir())) == len(list(theirs.iterdir())) == 3


def test_a_folder_that_a_run_uses_keeps_its_files(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "out")
    with Manifest(folder / MANIFEST_NAME), pytest.raises(ManifestError, match="Another run uses"):
        remove_results(folder)
    assert len(result_files(folder)) >= 3
