from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from bridge.commands.model import command
from herohe_model.engines.scorer import Scorer
from herohe_model.errors import ModelFileError, OptionError
from herohe_model.model.checkpoint import load_model, save_model
from herohe_model.model.compute import Compute
from herohe_model.model.new_model import new_model
from herohe_model.publishing.golden import noise_composite
from herohe_model.training.options import TrainOptions


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.safetensors"
    result = run("new", path, "--backbone", "test_resnet", "--patch-px", "32", "--name", "trial")
    assert result.exit_code == 0, result.output
    return path


def test_new_writes_what_was_asked_and_says_that_it_knows_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    asked = ["--head", "ordered", "--target", "ihc+ish", "--patch-px", "64", "--mpp", "0.5", "--seed", "3"]
    result = run("new", path, "--backbone", "test_efficientnet", *asked)
    assert result.exit_code == 0, result.output
    assert "Its weights are random" in result.output
    card, _, sha256 = load_model(path)
    assert sha256 in result.output
    assert (card.backbone, card.head, card.target) == ("test_efficientnet", "ordered", "ihc+ish")
    assert (card.patch_px, card.mpp, card.grid) == (64, 0.5, 5)
    assert card.name == "test_efficientnet ihc+ish seed 3"


def test_new_gives_the_same_file_for_the_same_options(tmp_path: Path, model: Path) -> None:
    again = tmp_path / "again.safetensors"
    run("new", again, "--backbone", "test_resnet", "--patch-px", "32", "--name", "trial")
    assert again.read_bytes() == model.read_bytes()
    run(
        "new",
        again,
        "--backbone",
        "test_resnet",
        "--patch-px",
        "32",
        "--name",
        "trial",
        "--seed",
        "1",
        "--force",
    )
    assert again.read_bytes() != model.read_bytes()


def test_new_replaces_a_file_only_when_told_to(model: Path) -> None:
    before = model.read_bytes()
    options = ["--backbone", "test_resnet", "--patch-px", "32", "--seed", "9"]
    refused = run("new", model, *options)
    assert isinstance(refused.exception, OptionError)
    assert "--force" in str(refused.exception)
    assert model.read_bytes() == before
    assert run("new", model, *options, "--force").exit_code == 0
    assert model.read_bytes() != before


def test_new_refuses_a_backbone_that_timm_does_not_have(tmp_path: Path) -> None:
    result = run("new", tmp_path / "m.safetensors", "--backbone", "resnet1")
    assert isinstance(result.exception, OptionError)
    assert "has no backbone 'resnet1'" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_show_prints_every_field_of_the_card(model: Path) -> None:
    card, state, sha256 = load_model(model)
    lines = run("show", model).output.splitlines()
    shown = {name.strip(): value.strip() for name, value in (line.split("  ", 1) for line in lines)}
    assert shown["sha256"] == sha256
    assert shown["name"] == "trial"
    assert shown["steps"] == "3+, >=2+/ISH+, >=2+, >=1+"
    assert shown["trained on"] == "nothing"
    assert {field.replace("_", " ") for field in card.__struct_fields__} <= shown.keys()
    learned = sum(t.numel() for key, t in state.items() if "running" not in key and "num_batches" not in key)
    assert int(shown["parameters"]) == learned


def test_show_prints_json_for_machines(model: Path) -> None:
    shown = json.loads(run("show", model, "--json").output)
    assert shown["sha256"] == load_model(model)[2]
    assert shown["card"]["backbone"] == "test_resnet"
    assert shown["card"]["patch_px"] == 32


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_verify_accepts_a_model_that_scores_as_it_must(model: Path, precision: str) -> None:
    result = run("verify", model, "--device", "cpu", "--precision", precision)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("OK: ")
    assert f"on cpu in {precision}" in result.output


@pytest.mark.parametrize("action", ["show", "verify"])
def test_a_damaged_file_is_named(model: Path, action: str) -> None:
    model.write_bytes(model.read_bytes()[:-10])
    result = run(action, model)
    assert isinstance(result.exception, ModelFileError)
    assert f"{model} is truncated" in str(result.exception)


def changed(path: Path, factor: float) -> Path:
    """A model whose head is so many times larger."""
    card, state = new_model("test_resnet", head="free", target="ihc", patch_px=32)
    save_model(path, card, {**state, "head.weight": state["head.weight"] * factor})
    return path


def test_verify_refuses_a_model_that_overflows(tmp_path: Path) -> None:
    card, state = new_model("test_resnet", head="free", target="ihc", patch_px=32)
    path = tmp_path / "m.safetensors"
    save_model(path, card, {**state, "head.weight": torch.full_like(state["head.weight"], 3e38)})
    result = run("verify", path, "--device", "cpu")
    assert isinstance(result.exception, ModelFileError)
    assert "no finite score" in str(result.exception)


def test_verify_refuses_contributions_that_float32_cannot_add_up(tmp_path: Path) -> None:
    result = run("verify", changed(tmp_path / "m.safetensors", 1e8), "--device", "cpu", "--precision", "fp32")
    assert isinstance(result.exception, ModelFileError)
    assert "contributions miss the logits by" in str(result.exception)


def test_verify_says_when_bf16_is_not_good_enough(tmp_path: Path) -> None:
    path = changed(tmp_path / "m.safetensors", 300.0)
    card, state, _ = load_model(path)
    with Scorer(card, state, Compute("cpu", "fp32")) as scorer:
        logits = scorer.score([noise_composite(card.side_px)])[0].logits
    # Logits of 0 are where a small error shows most in the probability.
    save_model(path, card, {**state, "head.bias": state["head.bias"] - torch.from_numpy(logits)})
    assert run("verify", path, "--device", "cpu", "--precision", "fp32").exit_code == 0
    result = run("verify", path, "--device", "cpu", "--precision", "bf16")
    assert isinstance(result.exception, ModelFileError)
    assert "use --precision fp32" in str(result.exception)


def test_the_command_line_ends_with_1_for_a_bad_model(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"PK\x03\x04 and more")
    done = subprocess.run(
        [sys.executable, "-m", "bridge", "model", "verify", str(tmp_path / "m.safetensors")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "is a pickled PyTorch file" in done.stderr
    assert "Traceback" not in done.stderr


def test_new_models_are_as_training_makes_them_by_default() -> None:
    group = command.commands["new"]
    defaults = {p.name: p.default for p in group.params}
    trained = TrainOptions()
    for name in ("head", "target", "patch_px", "mpp", "seed"):
        assert defaults[name] == getattr(trained, name)
