from __future__ import annotations

import sqlite3
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from helpers.example_results import made_result

from bridge.results.manifest import Manifest, ManifestError, work_key
from bridge.results.schema import Outcome


def test_a_kept_result_is_found_by_its_key_only(tmp_path: Path) -> None:
    with Manifest(tmp_path / "m.sqlite") as manifest:
        manifest.keep(work_key({"seed": 1}), made_result())
        assert manifest.find(work_key({"seed": 1})) == made_result()
        assert manifest.find(work_key({"seed": 2})) is None


def test_the_key_does_not_depend_on_the_order_of_the_facts() -> None:
    assert work_key({"a": 1, "b": [2]}) == work_key({"b": [2], "a": 1})


def test_results_outlive_the_process(tmp_path: Path) -> None:
    with Manifest(tmp_path / "m.sqlite") as manifest:
        manifest.keep("k", made_result())
    with Manifest(tmp_path / "m.sqlite") as manifest:
        assert manifest.find("k") == made_result()


def test_reports_come_in_the_collections_order(tmp_path: Path) -> None:
    with Manifest(tmp_path / "m.sqlite") as manifest:
        manifest.report((1, made_result("b")))
        manifest.report((0, made_result("a")))
        assert [r.entry for r in manifest.reported()] == ["a", "b"]


def test_of_reports_made_in_one_go_all_are_kept_or_none(tmp_path: Path) -> None:
    with Manifest(tmp_path / "m.sqlite") as manifest:
        manifest.report((0, made_result("a")))
        with pytest.raises(OverflowError):
            manifest.report((1, made_result("b")), (2**70, made_result("c")))
    with Manifest(tmp_path / "m.sqlite") as manifest:
        assert [r.entry for r in manifest.reported()] == ["a"]
        manifest.report((1, made_result("b")), (2, made_result("c")))
    with Manifest(tmp_path / "m.sqlite") as manifest:
        assert [r.entry for r in manifest.reported()] == ["a", "b", "c"]


def test_a_new_run_reports_anew_and_forgets_results_only_on_restart(tmp_path: Path) -> None:
    with Manifest(tmp_path / "m.sqlite") as manifest:
        manifest.keep("k", made_result())
        manifest.report((0, made_result()))
        manifest.begin_run(restart=False)
        assert list(manifest.reported()) == [] and manifest.find("k") is not None
        manifest.begin_run(restart=True)
        assert manifest.find("k") is None


def test_two_runs_cannot_share_an_output_folder(tmp_path: Path) -> None:
    code = """
import sys
import zlib
from pathlib import Path
from bridge.results.manifest import Manifest
Manifest(Path(sys.argv[1]))
"""
    with Manifest(tmp_path / "m.sqlite") as manifest:
        manifest.keep("k", made_result())
        other = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "m.sqlite")],
            capture_output=True,
            text=True,
            check=False,
        )
    assert other.returncode != 0
    assert f"ManifestError: Another run uses {tmp_path}. Wait until it has ended" in other.stderr


def test_a_damaged_row_is_scored_again_and_stops_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "m.sqlite"
    with Manifest(path) as manifest:
        manifest.keep("bad", made_result())
        manifest.keep("good", made_result())
        manifest.report((0, made_result("a")), (1, made_result("b")))
    db = sqlite3.connect(path)
    with db:
        db.execute("UPDATE results SET result = x'00' WHERE key = 'bad'")
        db.execute("UPDATE latest SET result = ? WHERE entry = 'a'", (zlib.compress(b'{"entry": 7}'),))
    db.close()
    with Manifest(path) as manifest:
        assert manifest.find("bad") is None
        assert manifest.find("good") == made_result()
        damaged, sound = manifest.reported()
        assert (damaged.entry, damaged.outcome) == ("a", Outcome.FAILED)
        assert "damaged" in damaged.message
        assert sound.entry == "b"


def test_a_link_in_the_place_of_the_manifest_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "m.sqlite").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ManifestError, match="is a link"):
        Manifest(tmp_path / "m.sqlite")
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_that_is_no_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.sqlite").write_text("not a database, and long enough to be looked at" * 20)
    with pytest.raises(ManifestError, match=r"m\.sqlite"):
        Manifest(tmp_path / "m.sqlite")


def test_a_manifest_of_another_format_is_refused(tmp_path: Path) -> None:
    Manifest(tmp_path / "m.sqlite").close()
    db = sqlite3.connect(tmp_path / "m.sqlite")
    with db:
        db.execute("UPDATE format SET version = 99")
    db.close()
    with pytest.raises(ManifestError, match="99"):
        Manifest(tmp_path / "m.sqlite")
