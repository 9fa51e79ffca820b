"""Published models: from a folder, a server, or one of the hub's form, and used by their names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from helpers.hub_server import hub_server

from bridge.cli import cli
from herohe_model.errors import ModelFileError, OptionError
from herohe_model.files import sha256_of
from herohe_model.model.card import read_card
from herohe_model.model.checkpoint import save_model
from herohe_model.model.library import (
    MANIFEST,
    MODEL,
    FileDigest,
    Manifest,
    encode_manifest,
    kept_models,
    resolve_model,
)
from herohe_model.model.new_model import new_model
from herohe_model.publishing.obtain import CATALOGUE_VARIABLE, get_model


def publish_by_hand(folder: Path, seed: int = 0, readme: str = "A page.") -> Path:
    """The least that a published folder is: a model, a page, a manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    card, state = new_model("test_resnet", head="ordered", target="ihc+ish", patch_px=32, seed=seed)
    save_model(folder / MODEL, msgspec.structs.replace(card, name="A Reader, small"), state)
    (folder / "README.md").write_text(readme, encoding="utf-8")
    files = {
        name: FileDigest(str(sha256_of(folder / name)), (folder / name).stat().st_size)
        for name in (MODEL, "README.md")
    }
    (folder / MANIFEST).write_bytes(encode_manifest(Manifest(name="A Reader, small", files=files)))
    return folder


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    publish_by_hand(root / "lab/reader")
    return root


@pytest.fixture
def published(hub_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(hub_folder / "lab/reader", tmp_path / "stick"))


@pytest.fixture(autouse=True)
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEROHE_MODELS", str(tmp_path / "models"))
    monkeypatch.delenv(CATALOGUE_VARIABLE, raising=False)
    return tmp_path / "models"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["model", *(str(argument) for argument in arguments)])


def test_a_model_of_a_folder_is_kept_and_used_by_its_name(published: Path, library: Path) -> None:
    got = run("get", published)
    assert got.exit_code == 0, got.output
    shutil.rmtree(published)
    assert "a-reader-small" in run("list").output
    assert resolve_model("a-reader-small") == library / "a-reader-small" / MODEL
    shown = run("show", "a-reader-small")
    assert "A Reader, small" in shown.output
    assert [path.name for path in library.iterdir()] == ["a-reader-small"]


@pytest.mark.parametrize("name", [MODEL, "README.md"])
def test_a_changed_byte_is_refused_and_nothing_is_kept(published: Path, library: Path, name: str) -> None:
    data = bytearray((published / name).read_bytes())
    data[-1] ^= 1
    (published / name).write_bytes(data)
    with pytest.raises(ModelFileError, match="is not what its manifest says"):
        get_model(str(published))
    assert kept_models() == [] and list(library.iterdir()) == []


def test_a_model_that_changed_after_it_was_got_does_not_score(published: Path) -> None:
    file = get_model(str(published)).file
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    scored = CliRunner().invoke(cli, ["score", str(published), "--model", "a-reader-small"])
    assert isinstance(scored.exception, ModelFileError)
    assert "is not what its manifest says" in str(scored.exception)
    assert "is not what its manifest says" in run("list").output
    # Got again, it is whole again.
    get_model(str(published))
    assert read_card(resolve_model("a-reader-small"))[0].name == "A Reader, small"


def test_without_a_digest_nothing_is_taken(published: Path) -> None:
    with pytest.raises(ModelFileError, match=r"Nothing says what .* must be"):
        get_model(str(published / MODEL))
    sha256 = str(sha256_of(published / MODEL))
    with pytest.raises(ModelFileError, match="not the one that was meant"):
        get_model(str(published / MODEL), sha256="0" * 64)
    assert get_model(str(published / MODEL), sha256=sha256, name="by-file").name == "by-file"
    (published / MANIFEST).unlink()
    with pytest.raises(ModelFileError, match=r"has no manifest\.json"):
        get_model(str(published))


def test_a_manifest_may_name_no_file_elsewhere(published: Path, library: Path) -> None:
    text = (published / MANIFEST).read_text(encoding="utf-8")
    (published / MANIFEST).write_text(text.replace("README.md", "../README.md"), encoding="utf-8")
    with pytest.raises(ModelFileError, match="is no manifest of a model"):
        get_model(str(published))


def test_another_model_of_the_name_stays_until_it_is_told_to_go(published: Path, tmp_path: Path) -> None:
    before = get_model(str(published)).file.read_bytes()
    other = publish_by_hand(tmp_path / "other", seed=1)
    with pytest.raises(OptionError, match="--force"):
        get_model(str(other))
    assert resolve_model("a-reader-small").read_bytes() == before
    get_model(str(other), replace=True)
    assert resolve_model("a-reader-small").read_bytes() != before


def test_a_name_is_looked_up_in_the_users_catalogue(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelFileError, match="no catalogue"):
        get_model("ward-reader")
    entry = {"name": "ward-reader", "source": str(published), "sha256": sha256_of(published / MODEL)}
    catalogue = tmp_path / "catalogue.json"
    catalogue.write_bytes(msgspec.json.encode({"format": 1, "models": [entry]}))
    monkeypatch.setenv(CATALOGUE_VARIABLE, str(catalogue))
    assert get_model("ward-reader").name == "a-reader-small"
    catalogue.write_bytes(msgspec.json.encode({"format": 1, "models": [{**entry, "sha256": "1" * 64}]}))
    with pytest.raises(ModelFileError, match="not the one that was meant"):
        get_model("ward-reader")


def test_an_address_that_is_not_encrypted_wants_the_digest_by_another_way(hub_folder: Path) -> None:
    with hub_server(hub_folder) as hub:
        address = f"{hub.url}/lab/reader/resolve/main"
        with pytest.raises(ModelFileError, match="not encrypted"):
            get_model(address)
        sha256 = str(sha256_of(hub_folder / "lab/reader" / MODEL))
        assert get_model(address, sha256=sha256).file.read_bytes()
        with pytest.raises(ModelFileError, match="answered with 401"):
            get_model(f"{hub.url}/lab/none/resolve/main", sha256=sha256)


@pytest.fixture
def on_the_hub(hub_folder: Path, tmp_path: Path) -> Callable[..., str]:
    """``model get`` in a process of its own, as the hub's library reads its settings once."""

    def get(*arguments: str, **environment: str) -> str:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
        done = subprocess.run(
            [sys.executable, "-m", "bridge", "model", "get", *arguments],
            env={**clean, "HF_HOME": str(tmp_path / "cache"), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout + done.stderr

    return get


def test_a_model_comes_from_the_hub_and_offline_from_its_cache(
    hub_folder: Path, on_the_hub: Callable[..., str]
) -> None:
    with hub_server(hub_folder) as hub:
        assert "a-reader-small: " in on_the_hub("hf:lab/reader", HF_ENDPOINT=hub.url)
        asked = len(hub.asked)
        again = on_the_hub("hf:lab/reader", "--name", "again", HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1")
        assert "again: " in again
        refused = on_the_hub("hf:lab/other", HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1")
        assert "The files of lab/other could not be fetched: HF_HUB_OFFLINE is set" in refused
        assert len(hub.asked) == asked


def test_what_is_neither_a_file_nor_a_name_says_where_to_look() -> None:
    with pytest.raises(ModelFileError, match="herohe-bridge model list"):
        resolve_model("nobody")
    assert resolve_model("not/there.safetensors") == Path("not/there.safetensors")
