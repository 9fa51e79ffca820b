"""What `herohe-bridge qupath` puts where, and that it takes out exactly that."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from helpers.java_client import GSON
from helpers.qupath_projects import files
from helpers.small_slides import small_model

from bridge.commands.qupath import command
from bridge.install.installed_files import (
    InstallError,
    install,
    read_record,
    states,
    uninstall,
)
from bridge.install.jars import JARS, Jar, JarError, find_jars
from bridge.install.scripts import SCRIPTS, shared_classes
from bridge.transport.curve import KeyPair, write_pair
from herohe_model.errors import HeroheError, OptionError


@pytest.fixture(scope="session")
def jars() -> list[str]:
    """Options that name JeroMQ's jars."""
    try:
        found = find_jars()
    except JarError as error:
        pytest.skip(f"JeroMQ cannot be had: {error}")
    return [part for path in found.values() for part in ("--jar", str(path))]


@pytest.fixture
def user_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A QuPath user directory in use, with other people's things in it."""
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("HEROHE_RUNTIME_DIR", str(runtime))
    user = tmp_path / "QuPath v0.6 ü"
    (user / "extensions").mkdir(parents=True)
    (user / "scripts").mkdir()
    (user / "extensions" / "other.jar").write_bytes(b"another extension")
    (user / "scripts" / "mine.groovy").write_text("println 1")
    return user


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_uninstalling_leaves_everything_as_it_was(user_directory: Path, jars: list[str]) -> None:
    before = files(user_directory)
    run("install", "--user-directory", user_directory, *jars)
    after = files(user_directory)
    assert {name: after[name] for name in before} == before
    added = set(after) - set(before)
    assert {f"scripts/HER2-HE/{name}" for name in SCRIPTS} <= added
    assert {f"extensions/{jar.name}" for jar in JARS} <= added
    assert {f"herohe-bridge/{name}" for name in shared_classes()} <= added
    (user_directory / "herohe-bridge" / "server.log").write_text("made by a script")
    run("uninstall", "--user-directory", user_directory)
    assert files(user_directory) == before
    assert not (user_directory / "herohe-bridge").exists()
    assert not (user_directory / "scripts" / "HER2-HE").exists()


def test_installing_twice_changes_nothing(user_directory: Path, jars: list[str]) -> None:
    run("install", "--user-directory", user_directory, *jars)
    once = files(user_directory)
    run("install", "--user-directory", user_directory, *jars)
    assert files(user_directory) == once


def test_a_restart_is_asked_for_only_where_something_new_is_to_be_loaded(
    user_directory: Path, jars: list[str], tmp_path: Path
) -> None:
    same = "QuPath need not be started again"
    assert same not in run("install", "--user-directory", user_directory, *jars).output
    model = small_model(tmp_path / "model.safetensors")
    again = run("install", "--user-directory", user_directory, "--model", model, *jars)
    assert same in again.output, "settings are read each time"
    (user_directory / "extensions" / JARS[0].name).unlink()
    assert same not in run("install", "--user-directory", user_directory, *jars).output


def test_the_scripts_are_told_where_herohe_bridge_and_the_model_are(
    user_directory: Path, jars: list[str], tmp_path: Path
) -> None:
    model = small_model(tmp_path / "model.safetensors")
    run("install", "--user-directory", user_directory, "--model", model, "--idle-timeout", "60", *jars)
    run("install", "--user-directory", user_directory, *jars)
    settings = json.loads((user_directory / "herohe-bridge" / "settings.json").read_text())
    assert settings["command"] == [sys.executable, "-m", "bridge"]
    assert settings["model"] == str(model)
    assert settings["idle_timeout_s"] == 60
    assert settings["runtime_directory"] == str(tmp_path / "runtime")


def test_a_file_that_is_no_model_is_refused_before_anything_is_written(
    user_directory: Path, jars: list[str], tmp_path: Path
) -> None:
    before = files(user_directory)
    (tmp_path / "no model").write_bytes(b"x")
    with pytest.raises(HeroheError, match="no model"):
        run("install", "--user-directory", user_directory, "--model", tmp_path / "no model", *jars)
    assert files(user_directory) == before


def test_a_remote_server_is_kept_with_its_keys_until_it_is_forgotten(
    user_directory: Path, jars: list[str], tmp_path: Path
) -> None:
    server, _ = write_pair(tmp_path / "keys", "server", KeyPair.new())
    _, client = write_pair(tmp_path / "keys", "client", KeyPair.new())
    where = ("install", "--user-directory", user_directory, *jars)
    run(*where, "--server", "tcp://10.0.0.1:5555", "--server-key", server, "--client-key", client)
    run(*where)
    path = user_directory / "herohe-bridge" / "settings.json"
    remote = json.loads(path.read_text())["remote"]
    assert remote["endpoint"] == "tcp://10.0.0.1:5555"
    assert remote["client_key_file"] == str(client)
    assert "secret-key" not in path.read_text()
    assert "tcp://10.0.0.1:5555" in run("status", "--user-directory", user_directory).output
    run(*where, "--local")
    assert json.loads(path.read_text())["remote"] is None


def test_a_key_without_a_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--server"):
        run("install", "--user-directory", tmp_path, "--server-key", tmp_path / "server.key")


def test_a_script_that_its_user_changed_is_set_aside_and_never_deleted(
    user_directory: Path, jars: list[str]
) -> None:
    run("install", "--user-directory", user_directory, *jars)
    script = user_directory / "scripts" / "HER2-HE" / "herohe_score.groovy"
    script.write_text("mine now")
    again = run("install", "--user-directory", user_directory, *jars)
    aside = script.with_name("herohe_score (changed 1).groovy")
    assert aside.read_text() == "mine now" and aside.name in again.output
    script.write_text("mine once more")
    assert "changed" in run("status", "--user-directory", user_directory).output
    gone = run("uninstall", "--user-directory", user_directory)
    assert script.read_text() == "mine once more" and str(script) in gone.output
    assert aside.read_text() == "mine now"


def test_a_jar_that_was_there_before_stays(user_directory: Path, jars: list[str]) -> None:
    jeromq = find_jars()[JARS[0].name].read_bytes()
    place = user_directory / "extensions" / JARS[0].name
    place.write_bytes(jeromq)
    run("install", "--user-directory", user_directory, *jars)
    run("uninstall", "--user-directory", user_directory)
    assert place.read_bytes() == jeromq


def test_a_project_gets_the_scripts_into_its_own_menu_only(
    user_directory: Path, jars: list[str], tmp_path: Path
) -> None:
    project = tmp_path / "project"
    (project / "scripts").mkdir(parents=True)
    (project / "project.qpproj").write_text("{}")
    before = files(project)
    run("install", "--user-directory", user_directory, "--project", project / "project.qpproj", *jars)
    assert {path.name for path in (project / "scripts").iterdir()} == set(SCRIPTS)
    assert not (user_directory / "scripts" / "HER2-HE").exists()
    assert (user_directory / "extensions" / JARS[0].name).exists()
    run("uninstall", "--project", project)
    assert files(project) == before
    assert (project / "scripts").is_dir()


def test_a_project_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"\.qpproj"):
        run("uninstall", "--project", tmp_path)


def test_nothing_installed_is_said(user_directory: Path) -> None:
    assert "nothing" in run("status", "--user-directory", user_directory).output
    assert "Nothing" in run("uninstall", "--user-directory", user_directory).output


def test_files_of_an_older_version_go_when_a_newer_one_has_them_no_more(tmp_path: Path) -> None:
    install(tmp_path, "ours/record.json", {"ours/old": b"1", "ours/both": b"1"}, version="1")
    install(tmp_path, "ours/record.json", {"ours/both": b"2"}, version="2")
    assert sorted(files(tmp_path)) == ["ours/both", "ours/record.json"]
    record = read_record(tmp_path / "ours" / "record.json")
    assert record is not None and record.version == "2"
    assert states(tmp_path, record) == {"ours/both": "there"}


def test_an_installation_that_was_cut_short_can_be_taken_out(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two").mkdir()
    with pytest.raises(InstallError, match="two"):
        install(tmp_path, "ours/record.json", {"a/one": b"1", "b/two": b"2"}, version="1")
    (tmp_path / "b" / "two").rmdir()
    uninstall(tmp_path, "ours/record.json")
    assert files(tmp_path) == {} and not (tmp_path / "a").exists()


def test_a_damaged_record_stops_instead_of_guessing(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(InstallError, match=r"record\.json"):
        uninstall(tmp_path, "record.json")


@pytest.mark.parametrize(
    "name",
    ["../mine", "a/../../mine", "/etc/mine", "C:/mine", "C:mine", "\\\\host\\share\\mine", "..\\mine", ""],
)
def test_a_record_of_files_elsewhere_deletes_nothing(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (tmp_path / "mine").write_bytes(b"mine")
    sha256 = hashlib.sha256(b"mine").hexdigest()
    for record in ({"files": {name: sha256}}, {"files": {}, "folders": [name]}):
        (folder / "record.json").write_text(json.dumps({"format": 1, "version": "1", **record}))
        with pytest.raises(InstallError, match="no path below its folder"):
            uninstall(folder, "record.json")
    assert (tmp_path / "mine").exists()


def test_a_link_that_leads_away_is_not_followed_to_delete(tmp_path: Path) -> None:
    folder, other = tmp_path / "project", tmp_path / "other"
    (other / "empty").mkdir(parents=True)
    folder.mkdir()
    (other / "mine").write_bytes(b"mine")
    (folder / "scripts").symlink_to(other, target_is_directory=True)
    files_ = {"scripts/mine": hashlib.sha256(b"mine").hexdigest()}
    record = {"format": 1, "version": "1", "files": files_, "folders": ["scripts/empty"]}
    (folder / "record.json").write_text(json.dumps(record))
    remarks = uninstall(folder, "record.json").remarks
    assert "a link leads to it" in remarks[0]
    assert (other / "mine").exists()
    assert (other / "empty").exists()


def test_a_jar_with_another_checksum_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / JARS[0].name
    wrong.write_bytes(b"not JeroMQ")
    with pytest.raises(JarError, match=JARS[0].name):
        find_jars([wrong])
    with pytest.raises(JarError, match="no file"):
        find_jars([tmp_path / "nowhere.jar"])


def test_a_download_that_is_not_what_was_tested_is_refused(jars: list[str]) -> None:
    changed = Jar(GSON.group, GSON.artifact, GSON.version, "0" * 64)
    with pytest.raises(JarError, match="checksum differs"):
        find_jars(wanted=[changed])


def test_without_network_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2_REPO", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(JarError, match="--jar"):
        find_jars()


def test_shared_classes_import_no_class_that_is_not_there() -> None:
    sources = shared_classes()
    for name in ("HeroheClient.groovy", "HeroheServer.groovy"):
        assert "qupath." not in sources[name], "what talks to the server must be testable without QuPath"
    assert all(f"class {name.removesuffix('.groovy')}" in text for name, text in sources.items())
