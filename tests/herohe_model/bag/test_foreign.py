"""Models that CLAM trained: what they say after they were imported is what they said there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from helpers.hub_server import hub_server
from torch import nn

from bridge.cli import cli
from herohe_model.errors import ModelFileError
from herohe_model.files import sha256_of
from herohe_model.model.bag_model import load_bag_model
from herohe_model.model.probabilities import slide_probabilities

DIMENSION = 12
BAG = np.random.default_rng(3).normal(size=(40, DIMENSION)).astype(np.float32)


class Gated(nn.Module):
    """Gated attention under the names that CLAM gives its layers."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.attention_a = nn.Sequential(nn.Linear(width, inner), nn.Tanh(), nn.Dropout(0.25))
        self.attention_b = nn.Sequential(nn.Linear(width, inner), nn.Sigmoid(), nn.Dropout(0.25))
        self.attention_c = nn.Linear(inner, 1)


class SingleBranch(nn.Module):
    """A single branch under CLAM's names, computed as its paper says."""

    def __init__(self, width: int = 10, inner: int = 7, *, seed: int = 0, dropout: bool = True) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            first = [nn.Linear(DIMENSION, width), nn.ReLU(), *([nn.Dropout(0.25)] if dropout else [])]
            self.attention_net = nn.Sequential(*first, Gated(width, inner))
            self.classifiers = nn.Linear(width, 2)
            self.instance_classifiers = nn.ModuleList(nn.Linear(width, 2) for _ in range(2))

    def logits(self, bag: torch.Tensor) -> torch.Tensor:
        gated = self.attention_net[-1]
        hidden = torch.relu(self.attention_net[0](bag))
        raw = torch.tanh(gated.attention_a[0](hidden)) * torch.sigmoid(gated.attention_b[0](hidden))
        weights = torch.softmax(gated.attention_c(raw)[:, 0], dim=0)
        return self.classifiers(weights @ hidden)

    def p_positive(self) -> float:
        with torch.inference_mode():
            return float(torch.softmax(self.logits(torch.from_numpy(BAG)), dim=0)[1])


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["model", "import", *(str(a) for a in arguments)])
    return result.exit_code, f"{result.output}{result.exception or ''}"


def imported(tmp_path: Path, *arguments: object) -> Path:
    output = tmp_path / "m.safetensors"
    code, said = run(*arguments, "--output", output, "--force")
    assert code == 0, said
    assert "It was neither trained nor judged here" in said
    return output


def p_of(path: Path) -> float:
    model = load_bag_model(path)
    score = model.score(BAG)
    assert np.allclose(score.contributions.sum(axis=0), score.logits.mean(axis=0), atol=1e-4)
    said = slide_probabilities(score.logits[None], model.card)
    assert said.steps == (">=2+/ISH+",)
    return float(said.slide[0])


@pytest.mark.parametrize("form", ["pickle", "safetensors", "old", "parallel"])
def test_a_model_of_each_form_says_what_it_said(tmp_path: Path, form: str) -> None:
    model = SingleBranch(dropout=form != "old")
    state = dict(model.state_dict())
    file = tmp_path / ("w.safetensors" if form == "safetensors" else "s_0_checkpoint.pt")
    if form == "safetensors":
        safetensors.torch.save_file(state, file)
    else:
        torch.save({f"module.{k}": v for k, v in state.items()} if form == "parallel" else state, file)
    path = imported(tmp_path, file, "--encoder", "kaiko-vits16", "--licence", "none seen")
    assert p_of(path) == pytest.approx(model.p_positive(), abs=1e-6)
    card = load_bag_model(path).card
    assert (card.knowledge, card.cohort, card.patch_px, card.mpp) == ("not recorded", "", 224, 0.5)
    assert "Licence: none seen" in card.note and card.bag is not None and card.bag.golden
    turned = imported(tmp_path, file, "--encoder", "kaiko-vits16", "--positive-class", 0)
    assert p_of(turned) == pytest.approx(1 - model.p_positive(), abs=1e-6)


def reader(folder: Path, *, encoders: tuple[str, ...] = ("vit_small_patch16_224.dino",) * 5) -> Path:
    """Heads with a manifest, in the form that foreign.json expects of cloudkites/her2-reader."""
    folder.mkdir(parents=True)
    heads = []
    for i, encoder in enumerate(encoders):
        name = f"head{i}.safetensors"
        safetensors.torch.save_file(dict(SingleBranch(seed=i).state_dict()), folder / name)
        heads.append({"file": name, "encoder": encoder, "sha256": sha256_of(folder / name)})
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({"license": "research only", "heads": heads}), encoding="utf-8")
    return manifest


SIZE = ("--patch-px", 224, "--mpp", 0.5)


def test_the_heads_of_a_manifest_become_an_ensemble(tmp_path: Path) -> None:
    manifest = reader(tmp_path / "reader")
    path = imported(tmp_path, manifest.parent, *SIZE)
    card = load_bag_model(path).card
    assert card.members == 5 and card.bag is not None and card.bag.encoder == "vit_small_patch16_224.dino"
    assert "Licence: research only" in card.note
    with torch.inference_mode():
        logits = [SingleBranch(seed=i).logits(torch.from_numpy(BAG)) for i in range(5)]
    mean = float(torch.stack([z[1] - z[0] for z in logits]).mean())
    assert p_of(path) == pytest.approx(1 / (1 + np.exp(-mean)), abs=1e-6)


def test_a_manifest_from_the_hub_brings_its_heads(tmp_path: Path) -> None:
    reader(tmp_path / "hub/lab/reader", encoders=("hf-hub:1aurent/vit_small_patch16_256.tcga_brca_dino",) * 2)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
    with hub_server(tmp_path / "hub") as hub:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "bridge", "model", "import", "hf:lab/reader"),
                *("--output", str(tmp_path / "m.safetensors")),
            ],
            env={**clean, "HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": hub.url},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    bag = load_bag_model(tmp_path / "m.safetensors").card.bag
    assert bag is not None and bag.encoder == "tcga-brca-dino"


def test_a_manifest_of_several_encoders_or_a_changed_head_is_refused(tmp_path: Path) -> None:
    manifest = reader(tmp_path / "two", encoders=("one", "one", "other"))
    code, said = run(manifest, *SIZE, "--output", tmp_path / "m.safetensors")
    assert code == 1 and "has heads of one, other" in said and "--encoder" in said
    path = imported(tmp_path, manifest, *SIZE, "--encoder", "one")
    assert load_bag_model(path).card.members == 2
    (manifest.parent / "head1.safetensors").write_bytes(b"other")
    code, said = run(manifest, *SIZE, "--encoder", "one", "--output", tmp_path / "n.safetensors")
    assert code == 1 and "head1.safetensors is not what manifest.json says" in said


CHANGES = {
    "attention_net.3.attention_b.0.bias": None,
    "attention_net.0.bias": torch.zeros(11),
    "attention_net.3.attention_c.weight": torch.zeros(2, 7),
    "classifiers.weight": torch.zeros(2, 11),
    "transformer.weight": torch.zeros(3),
}


@pytest.mark.parametrize("key", CHANGES)
def test_a_key_or_a_shape_that_differs_is_named(tmp_path: Path, key: str) -> None:
    state = dict(SingleBranch().state_dict())
    if CHANGES[key] is None:
        del state[key]
    else:
        state[key] = CHANGES[key]
    torch.save(state, tmp_path / "w.pt")
    code, said = run(tmp_path / "w.pt", "--encoder", "kaiko-vits16", "--output", tmp_path / "m.safetensors")
    assert code == 1 and key in said and "w.pt" in said
    assert not (tmp_path / "m.safetensors").exists()


def test_three_classes_are_no_status_and_nothing_is_executed(tmp_path: Path) -> None:
    model = SingleBranch()
    state = {**model.state_dict(), "classifiers.weight": torch.ones(3, 10), "classifiers.bias": torch.ones(3)}
    torch.save(state, tmp_path / "three.pt")
    asked = ("--encoder", "kaiko-vits16", "--output", tmp_path / "m.safetensors")
    assert "has 3 classes, and a status has two" in run(tmp_path / "three.pt", *asked)[1]
    torch.save(model, tmp_path / "whole.pt")
    assert "which would have to be executed" in run(tmp_path / "whole.pt", *asked)[1]
    safetensors.torch.save_file({**state, "classifiers.bias": torch.ones(2)}, tmp_path / "odd.safetensors")
    assert "classifiers.weight is 3x10 instead of 2x10" in run(tmp_path / "odd.safetensors", *asked)[1]


def test_keys_of_another_tool_are_named_in_a_file(tmp_path: Path) -> None:
    model = SingleBranch()
    torch.save({f"net.{key}": value for key, value in model.state_dict().items()}, tmp_path / "w.pt")
    asked = (tmp_path / "w.pt", "--encoder", "kaiko-vits16")
    with pytest.raises(AssertionError, match=r"lacks net|lacks attention_net\.0\.bias"):
        imported(tmp_path, *asked)
    from herohe_model.bag import foreign

    shipped = json.loads((Path(foreign.__file__).parent / "foreign.json").read_bytes())
    (tmp_path / "forms.json").write_text(json.dumps({**shipped, "prefixes": ["net."]}), encoding="utf-8")
    path = imported(tmp_path, *asked, "--forms", tmp_path / "forms.json")
    assert p_of(path) == pytest.approx(model.p_positive(), abs=1e-6)


def test_an_imported_model_is_known_by_its_golden_logits(tmp_path: Path) -> None:
    torch.save(SingleBranch().state_dict(), tmp_path / "w.pt")
    path = imported(tmp_path, tmp_path / "w.pt", "--encoder", "kaiko-vits16")
    verified = CliRunner().invoke(cli, ["model", "verify", str(path)])
    assert verified.exit_code == 0 and "gives its golden logits" in verified.output
    data = bytearray(path.read_bytes())
    data[-1] ^= 0x40
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=r"computes other logits|not finite"):
        load_bag_model(path)
