from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from herohe_model.engines import trials
from herohe_model.engines.cache import MeasurementCache
from herohe_model.engines.choice import (
    WORTH_MEASURING,
    Choice,
    EngineName,
    choose_engine,
    engine_label,
    operations,
)
from herohe_model.engines.openvino_engine import openvino_precisions
from herohe_model.engines.scorer import Scorer
from herohe_model.engines.trials import SMALL_MACHINE, check_composites
from herohe_model.errors import DeviceError, OptionError
from herohe_model.grades import bit_probabilities, grade_of, ihc_probabilities
from herohe_model.model.card import ModelCard
from herohe_model.model.compute import Compute, engine_name
from herohe_model.model.network import load_networks
from herohe_model.model.new_model import new_model

PATCH_PX = 32
CPU = torch.device("cpu")
HAS_BF16 = "bf16" in openvino_precisions()


def opinionated(
    backbone: str = "test_resnet", *, factor: float = 5, patch_px: int = PATCH_PX
) -> tuple[ModelCard, dict[str, torch.Tensor]]:
    """A model with a random head that does not say one half to everything."""
    card, state = new_model(backbone, head="free", target="ihc+ish", patch_px=patch_px)
    return card, {**state, "head.weight": state["head.weight"] * factor}


def choose(
    memory: Path,
    asked: Compute | None = None,
    *,
    machine_bytes: int = 2**40,
    model: tuple[ModelCard, dict[str, torch.Tensor]] | None = None,
    threads: int = 1,
) -> Choice:
    """Choose for a network that is far too small to be worth it, as if it were not."""
    card, state = model or opinionated()
    return choose_engine(
        card,
        load_networks(card, state),
        CPU,
        asked or Compute(),
        threads=threads,
        model_sha256="ab" * 32,
        memory=MeasurementCache("engines", memory),
        worth_measuring=0,
        machine_bytes=machine_bytes,
    )


def grades(card: ModelCard, q: NDArray[np.float64]) -> list[str]:
    return [grade_of(ihc_probabilities(each, card.steps)) for each in q]


def test_what_is_chosen_agrees_with_pytorch_in_fp32(tmp_path: Path) -> None:
    card, state = opinionated()
    choice = choose(tmp_path)
    tried = {(t.engine, t.precision) for t in choice.trials}
    assert {("torch", "fp32"), ("openvino", "fp32")} <= tried
    assert (choice.engine, choice.precision) == (choice.trials[0].engine, choice.trials[0].precision)
    assert not choice.trials[0].refused
    pictures = check_composites(card.side_px)
    found = []
    for engine, precision in (("torch", "fp32"), (choice.engine, choice.precision)):
        with Scorer(card, state, Compute("cpu", precision, engine), threads=1) as scorer:
            logits = np.array([score.logits for score in scorer.score(pictures)])
        found.append(bit_probabilities(logits))
    assert np.abs(found[0] - found[1]).max() <= 0.01
    assert grades(card, found[0]) == grades(card, found[1])


def test_the_choice_is_remembered_and_obeyed(tmp_path: Path) -> None:
    first = choose(tmp_path)
    (file,) = (tmp_path / "engines").glob("*.json")
    assert choose(tmp_path) == first
    # Nothing would be measured like this.
    file.write_bytes(
        file.read_bytes().replace(b'"trials":[', b'"trials":[{"engine":"torch","precision":"fp32"},', 1)
    )
    again = choose(tmp_path)
    assert (again.engine, again.precision) == ("torch", "fp32")
    assert again.trials[1:] == first.trials


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-20],
        lambda data: b"\xff" + data,
        lambda data: data.replace(b'"format":1', b'"format":2'),
        lambda data: data.replace(b'"threads":1', b'"threads":7'),
        lambda data: data.replace(b'"engine":"torch"', b'"engine":"abacus"'),
    ],
    ids=["empty", "cut off", "no text", "another format", "of something else", "an unknown engine"],
)
def test_a_damaged_file_is_measured_again(tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    asked = Compute(engine="torch") if HAS_BF16 else Compute()
    first = choose(tmp_path, asked)
    (file,) = (tmp_path / "engines").glob("*.json")
    file.write_bytes(damage(file.read_bytes()))
    broken = file.read_bytes()
    assert {t.engine for t in choose(tmp_path, asked).trials} == {t.engine for t in first.trials}
    assert file.read_bytes() != broken
    assert not list((tmp_path / "engines").glob("*.part"))


def test_what_the_choice_depends_on_is_remembered_apart(tmp_path: Path) -> None:
    asked = Compute(engine="torch") if HAS_BF16 else Compute()
    choose(tmp_path, asked)
    choose(tmp_path, asked, threads=2)
    choose(tmp_path, Compute(precision="fp32"))
    assert len(list((tmp_path / "engines").glob("*.json"))) == 3


def test_where_nothing_can_be_remembered_the_first_sound_engine_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    choice = choose(tmp_path / "file")
    assert choice.engine == "openvino"
    assert choice.precision == ("bf16" if HAS_BF16 else "fp32")
    assert caplog.text.count("HEROHE_CACHE_DIR") == 1


def test_a_small_network_is_left_to_pytorch_without_measuring(tmp_path: Path) -> None:
    card, state = opinionated()
    assert 0 < operations(card.backbone, card.side_px) < WORTH_MEASURING
    assert operations("resnet18", 2560) > WORTH_MEASURING
    choice = choose_engine(
        card,
        load_networks(card, state),
        CPU,
        Compute(),
        threads=1,
        model_sha256="",
        memory=MeasurementCache("engines", tmp_path),
    )
    assert choice == Choice("torch", "fp32")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("engine", "precision"),
    [("torch", "bf16"), ("torch", "fp32"), ("openvino", "fp32")],
)
def test_what_is_named_is_taken_without_measuring(tmp_path: Path, engine: str, precision: str) -> None:
    choice = choose(tmp_path, Compute("auto", precision, engine))
    assert (choice.engine, choice.precision, choice.trials) == (engine, precision, ())
    assert not list(tmp_path.iterdir())


def test_a_named_precision_leaves_the_engine_open(tmp_path: Path) -> None:
    choice = choose(tmp_path, Compute(precision="fp32"))
    assert choice.precision == "fp32"
    assert {t.precision for t in choice.trials} == {"fp32"}
    assert len(choice.trials) == 2


def test_a_precision_that_moves_probabilities_is_not_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A trial that takes longer than another, as any may on a busy machine, is not compared with it.
    to_the_end = trials._run
    monkeypatch.setattr(trials, "_run", lambda *given: to_the_end(*given[:2], float("inf")))
    card, state = opinionated(factor=300)
    with Scorer(card, state, Compute("cpu", "fp32", "torch")) as scorer:
        logits = scorer.score(check_composites(card.side_px)[:1])[0].logits
    # Logits near 0 are where a small error shows most in the probability.
    bias = torch.linspace(-1.5, 1.5, 4) - torch.from_numpy(logits)
    state = {**state, "head.bias": state["head.bias"] + bias}
    choice = choose(tmp_path, model=(card, state))
    assert choice.precision == "fp32"
    if HAS_BF16:
        refused = {(t.engine, t.precision): t.refused for t in choice.trials if t.refused}
        assert "PyTorch in float32" in refused["openvino", "bf16"]


def test_a_network_that_openvino_cannot_take_is_left_to_pytorch(tmp_path: Path) -> None:
    choice = choose(tmp_path, model=opinionated("test_vit"))
    assert choice.engine == "torch"
    assert any("OpenVINO cannot take this network" in t.refused for t in choice.trials)


def test_without_openvino_pytorch_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # This is how Python itself marks a module that cannot be imported.
    monkeypatch.setitem(sys.modules, "openvino", None)
    choice = choose(tmp_path)
    assert choice.engine == "torch"
    assert any("OpenVINO cannot be imported" in t.refused for t in choice.trials)
    with pytest.raises(DeviceError, match=r"cannot be used for test_resnet.*cannot be imported"):
        choose(tmp_path, Compute(engine="openvino"))
    with pytest.raises(DeviceError, match="pip install openvino"):
        Scorer(*opinionated(), Compute("cpu", "fp32", "openvino"))


def test_openvino_computes_on_the_cpu_alone(tmp_path: Path) -> None:
    card, state = opinionated()
    with pytest.raises(OptionError, match="OpenVINO computes on the CPU, not on mps"):
        choose_engine(
            card,
            load_networks(card, state),
            torch.device("mps"),
            Compute(engine="openvino"),
            threads=1,
            model_sha256="",
            memory=MeasurementCache("engines", tmp_path),
        )


def test_a_small_machine_leaves_openvino_out(tmp_path: Path) -> None:
    choice = choose(tmp_path, Compute(precision="fp32"), machine_bytes=SMALL_MACHINE - 1)
    assert [trial.engine for trial in choice.trials] == ["torch"]
    plenty = choose(tmp_path, Compute(precision="fp32"), machine_bytes=SMALL_MACHINE)
    assert {trial.engine for trial in plenty.trials} == {"torch", "openvino"}


def test_a_name_of_no_engine_is_refused() -> None:
    with pytest.raises(OptionError, match="'tensorflow' is no engine"):
        Compute(engine="tensorflow")


def test_engines_are_named_with_their_versions() -> None:
    assert engine_label("torch").startswith("torch 2.")
    assert engine_label("openvino").startswith("openvino 20")


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_an_engines_name_is_told_from_its_label(engine: EngineName) -> None:
    assert engine_name(engine_label(engine)) == engine


def test_check_composites_look_like_stained_tissue_of_every_size() -> None:
    for side in (16, 160, 1000):
        pictures = check_composites(side)
        assert len(pictures) == 2
        assert all(p.shape == (side, side, 3) and p.dtype == np.uint8 for p in pictures)
        assert not np.array_equal(*pictures)
    assert all(p.std() > 5 for p in check_composites(160))


def test_openvino_is_imported_only_when_used_and_reports_to_nobody() -> None:
    program = """
import sys, threading
import herohe_model.engines.scorer
assert "openvino" not in sys.modules
from herohe_model.engines.openvino_engine import openvino_version
print(openvino_version())
assert sys.modules["openvino_telemetry"] is None
assert threading.active_count() == 1, threading.enumerate()
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
