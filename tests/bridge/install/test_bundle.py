"""A bundle carries an installation to a machine without a network; here pip has none either."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from helpers.small_encoders import small, write_weights

from bridge import __version__
from bridge.cli import cli
from herohe_model.errors import HeroheError
from herohe_model.model.checkpoint import save_model
from herohe_model.model.new_model import new_model

pytest.importorskip("pip", reason="environments of uv have none")


def wheel(folder: Path, name: str, version: str, *needs: str) -> Path:
    """A wheel with a module of one line."""
    folder.mkdir(parents=True, exist_ok=True)
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    extras = "".join(f"Provides-Extra: {extra}\n" for extra in ("cluster", "export", "train"))
    required = "".join(f"Requires-Dist: {need}\n" for need in needs)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"version = {version!r}\n")
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{extras}{required}"
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel of the project that needs another, which pip finds in a folder and nowhere else."""
    wheel(tmp_path / "index", "neededhere", "1.0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("HEROHE_MODELS", str(tmp_path / "models"))
    return wheel(tmp_path / "dist", "herohe_bridge", __version__, "neededhere")


def bundle(to: Path, *arguments: object) -> Result:
    asked = ["bundle", "--to", to, "--without-qupath", *arguments]
    return CliRunner().invoke(cli, [str(argument) for argument in asked])


def test_what_is_carried_installs_without_a_network(source: Path, tmp_path: Path) -> None:
    card, state = new_model("test_resnet", head="ordered", target="ihc+ish", patch_px=32, name="Ward reader")
    save_model(tmp_path / "m.safetensors", card, state)
    done = bundle(tmp_path / "stick", "--source", source, "--model", tmp_path / "m.safetensors")
    assert done.exit_code == 0, f"{done.output}{done.exception}"
    for line in (tmp_path / "stick/SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((tmp_path / "stick" / name).read_bytes()).hexdigest() == digest
    text = (tmp_path / "stick/INSTALL.md").read_text(encoding="utf-8")
    assert "--no-index --find-links wheels 'herohe-bridge[cluster,export,train]'" in text
    command = next(line for line in text.splitlines() if line.startswith("herohe-bridge model get "))
    got = CliRunner().invoke(cli, ["model", "get", str(tmp_path / "stick" / command.split()[-1])])
    assert got.exit_code == 0 and "ward-reader" in got.output
    target = tmp_path / "site"
    wheels = tmp_path / "stick/wheels"
    installed = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--no-index", "--find-links", str(wheels)),
            *("--target", str(target), "herohe-bridge"),
        ],
        env={"PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert installed.returncode == 0, installed.stderr
    assert (target / "neededhere.py").is_file() and (target / "herohe_bridge.py").is_file()


def test_an_encoder_comes_along_with_its_config_and_its_licence(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = write_weights(tmp_path / "cached/model.safetensors", small())
    (tmp_path / "cached/config.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(
        "herohe_model.encoders.weights.find_weights", lambda _: _found(weights) if weights.is_file() else None
    )
    done = bundle(tmp_path / "stick", "--source", source, "--encoder", "kaiko-vits16")
    assert done.exit_code == 0, f"{done.output}{done.exception}"
    carried = tmp_path / "stick/encoders/kaiko-vits16"
    assert (carried / "model.safetensors").read_bytes() == weights.read_bytes()
    assert (carried / "config.json").is_file()
    assert "come under kaiko non-commercial" in done.output
    assert "encoder verify kaiko-vits16 --weights encoders/kaiko-vits16" in (
        tmp_path / "stick/INSTALL.md"
    ).read_text(encoding="utf-8")
    weights.unlink()
    refused = bundle(tmp_path / "other", "--source", source, "--encoder", "kaiko-vits16")
    assert "encoder fetch kaiko-vits16" in str(refused.exception)


def _found(weights: Path) -> object:
    from herohe_model.encoders.weights import WeightsFile

    return WeightsFile(weights, weights.with_name("config.json"))


def test_a_bundle_that_lacks_something_is_not_made(source: Path, tmp_path: Path) -> None:
    (tmp_path / "index/neededhere-1.0-py3-none-any.whl").unlink()
    refused = bundle(tmp_path / "stick", "--source", source)
    assert isinstance(refused.exception, HeroheError) and "neededhere" in str(refused.exception)
    assert not (tmp_path / "stick").exists() and not list(tmp_path.glob(".stick*"))
