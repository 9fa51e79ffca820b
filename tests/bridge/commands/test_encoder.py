"""``encoder list|show|fetch|verify``, as a user calls them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from helpers.hub_server import hub_server
from helpers.small_encoders import random_network, small, write_table, write_weights

from bridge.cli import cli
from herohe_model.encoders.golden import make_record, write_record
from herohe_model.errors import ModelFileError


def run(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-m", "bridge", "encoder", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={
            **clean,
            "HF_HOME": str(tmp_path / "cache"),
            "HEROHE_CACHE_DIR": str(tmp_path / "own"),
            "PYTHONUTF8": "1",
            **environment,
        },
        check=False,
    )


def test_the_list_says_licence_gate_and_what_is_here(tmp_path: Path) -> None:
    done = run(tmp_path, "list")
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert done.returncode == 0
    assert "GPL-3.0" in lines["tcga-brca-dino"] and "to be fetched, 87 MB" in lines["tcga-brca-dino"]
    assert "on request" in lines["uni_v1"] and "not allowed" in lines["uni_v1"]


def test_show_says_how_an_encoder_is_built_and_where_each_fact_comes_from(tmp_path: Path) -> None:
    said = run(tmp_path, "show", "virchow2").stdout
    assert "reg_tokens=4" in said and "2560 numbers (token+mean)" in said and "from where: build" in said
    unknown = run(tmp_path, "show", "nothing")
    assert unknown.returncode == 2 and "No encoder 'nothing' is known" in unknown.stderr


def test_fetched_weights_are_here(tmp_path: Path) -> None:
    encoder = small("kaiko-vits16")
    own = {"HEROHE_ENCODER_TABLE": str(write_table(tmp_path / "table.json", encoder))}
    write_weights(tmp_path / "hub" / encoder.source / "model.safetensors", encoder)
    with hub_server(tmp_path / "hub") as hub:
        done = run(tmp_path, "fetch", encoder.name, HF_ENDPOINT=hub.url, NO_PROXY="*", **own)
    assert done.returncode == 0 and "SHA-256" in done.stdout and encoder.licence in done.stdout
    listed = run(tmp_path, "list", **own).stdout
    assert [line.split()[0] for line in listed.splitlines() if " here " in line] == [encoder.name]


@pytest.fixture
def verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Verify kaiko-vits16, small, and return what is said."""
    monkeypatch.setenv("HEROHE_CACHE_DIR", str(tmp_path / "own"))
    table = write_table(tmp_path / "table.json", small("kaiko-vits16"))

    def call(*arguments: object) -> str:
        line = ["encoder", "verify", "kaiko-vits16", "--encoder-table", str(table), *map(str, arguments)]
        return CliRunner().invoke(cli, line, catch_exceptions=False).output

    return call


def test_an_encoder_is_verified_against_features_and_what_the_machine_remembers(
    tmp_path: Path, verify: Callable[..., str]
) -> None:
    encoder = small("kaiko-vits16")
    weights = write_weights(tmp_path / "w.safetensors", encoder)
    record = make_record(encoder, random_network(encoder), "a" * 64)
    write_record(tmp_path / "features" / "encoder.json", record)
    assert "remembered from now on" in verify("--weights", weights)
    assert "as in what this machine remembers" in verify("--weights", weights)
    assert "features and what this" in verify("--weights", weights, "--against", tmp_path / "features")
    other = write_weights(tmp_path / "other.safetensors", encoder, seed=1)
    with pytest.raises(ModelFileError, match="the weights are another file"):
        verify("--weights", other, "--against", tmp_path / "features")


def test_a_machine_on_which_timm_computes_something_else_now_is_told(
    tmp_path: Path, verify: Callable[..., str]
) -> None:
    weights = write_weights(tmp_path / "w.safetensors", small("kaiko-vits16"))
    verify("--weights", weights)
    remembered = next((tmp_path / "own" / "encoders").glob("*.json"))
    content = msgspec.json.decode(remembered.read_bytes())
    content["found"]["golden"][0][0] += 100.0
    content["found"]["versions"]["timm"] = "0.9.16"
    remembered.write_bytes(msgspec.json.encode(content))
    with pytest.raises(ModelFileError, match=r"something else with timm 1\..* than with timm 0\.9\.16"):
        verify("--weights", weights)


def test_weights_that_are_not_here_are_asked_for(tmp_path: Path) -> None:
    done = run(tmp_path, "verify", "uni_v1")
    assert done.returncode == 1 and "herohe-bridge encoder fetch uni_v1" in done.stderr
