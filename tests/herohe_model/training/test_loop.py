"""The training loop: it learns, goes on bit for bit, and refuses what it cannot."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from helpers.small_training import (
    MACHINE,
    NO_AUGMENTATION,
    OPTIONS,
    break_tiles,
    tiny_options,
    tiny_set,
)
from helpers.step_memory import peak_of_tensors

from herohe_model.errors import CancelledError, HeroheError, OptionError
from herohe_model.model.card import read_card
from herohe_model.model.checkpoint import load_model
from herohe_model.training.loop import learning_rate, train_network
from herohe_model.training.options import TrainOptions, check_options
from herohe_model.training.processes import Processes
from herohe_model.training.run_folder import RunFolder
from herohe_model.training.step import TrainingSet, ordinal_loss

ALONE = Processes(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    return tiny_set(tmp_path_factory.mktemp("slides"), held_out=True)


def train(
    data: TrainingSet, options: TrainOptions, folder: Path, stop: Callable[[], bool] | None = None
) -> Path:
    return train_network(
        data,
        options,
        folder,
        slides_sha256="slides",
        processes=ALONE,
        resources=MACHINE,
        stop=stop,
        name="tiny",
    )


def after(calls: int) -> Callable[[], bool]:
    """Say stop from the given call on."""
    left = [calls]

    def stop() -> bool:
        left[0] -= 1
        return left[0] < 0

    return stop


def losses_of(folder: Path) -> list[float]:
    return [r["loss"] for r in RunFolder(folder).read_log() if r["event"] == "step"]


def weights_of(model: Path) -> dict[str, torch.Tensor]:
    return load_model(model)[1]


def test_a_run_leaves_options_log_curves_checkpoints_and_a_model(data: TrainingSet, tmp_path: Path) -> None:
    options = tiny_options(validate_every=5)
    model = train(data, options, tmp_path)
    folder = RunFolder(tmp_path)
    records = folder.read_log()
    assert [r["step"] for r in records if r["event"] == "step"] == list(range(1, 11))
    assert {r["epoch"] for r in records if r["event"] == "validation"} == {5.0, 10.0}
    assert records[-1]["bits_right"] > 0.5
    curves = (tmp_path / "curves.html").read_text(encoding="utf-8")
    assert curves.count('<polyline class="curve model"') == 2 and "Research use only" in curves
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "step-00000009.safetensors",
        "step-00000010.safetensors",
    ]
    card, _ = read_card(model)
    assert (card.name, card.backbone, card.target, card.patch_px) == ("tiny", "test_resnet", "ihc", 16)


def test_the_loss_falls(data: TrainingSet, tmp_path: Path) -> None:
    train(data, tiny_options(epochs=40, micro_batch=4, augment=NO_AUGMENTATION), tmp_path)
    losses = losses_of(tmp_path)
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


@pytest.fixture(scope="module")
def whole_run(data: TrainingSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(data, OPTIONS, tmp_path_factory.mktemp("whole")).parent


@pytest.mark.parametrize("calls", [1, 4, 5, 17, 26])
def test_a_run_stopped_anywhere_goes_on_to_the_same_weights(
    data: TrainingSet, whole_run: Path, tmp_path: Path, calls: int
) -> None:
    whole = weights_of(whole_run / "model.safetensors")
    with pytest.raises(CancelledError, match="same command"):
        train(data, OPTIONS, tmp_path, after(calls))
    stopped = weights_of(train(data, OPTIONS, tmp_path))
    assert all(torch.equal(whole[key], stopped[key]) for key in whole)
    assert losses_of(tmp_path) == losses_of(whole_run)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    data: TrainingSet, whole_run: Path, tmp_path: Path
) -> None:
    whole = weights_of(whole_run / "model.safetensors")
    with pytest.raises(CancelledError):
        train(data, OPTIONS, tmp_path, after(26))
    newest = sorted((tmp_path / "checkpoints").iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    again = weights_of(train(data, OPTIONS, tmp_path))
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_damaged_tiles_end_no_training_and_are_named_in_its_log(tmp_path: Path) -> None:
    data = tiny_set(tmp_path / "slides")
    break_tiles(data.slides[2].path, [5])
    options = tiny_options(epochs=3)
    with pytest.raises(CancelledError):
        train(data, options, tmp_path / "stopped", after(4))
    for folder in ("stopped", "whole"):
        train(data, options, tmp_path / folder)
        damage = [r for r in RunFolder(tmp_path / folder).read_log() if r["event"] == "damage"]
        assert damage and all("3.tif" in r["problem"] for r in damage)
    assert losses_of(tmp_path / "stopped") == losses_of(tmp_path / "whole")


def test_a_finished_run_is_not_trained_again(data: TrainingSet, whole_run: Path) -> None:
    model = whole_run / "model.safetensors"
    before = model.stat().st_mtime_ns
    assert train(data, OPTIONS, whole_run, stop=lambda: True) == model
    assert model.stat().st_mtime_ns == before


def test_a_run_does_not_go_on_with_other_options_or_slides(data: TrainingSet, whole_run: Path) -> None:
    with pytest.raises(OptionError, match=r"lr was 0\.002, is 0\.1"):
        train(data, tiny_options(lr=0.1), whole_run)
    with pytest.raises(OptionError, match="slides, their truth or their regions"):
        train_network(data, OPTIONS, whole_run, slides_sha256="others", processes=ALONE, resources=MACHINE)


def test_a_loss_that_is_no_number_ends_the_run(data: TrainingSet, tmp_path: Path) -> None:
    with pytest.raises(HeroheError, match="--lr"):
        train(data, tiny_options(lr=10.0, warmup=0.0, grad_clip=1e30, weight_decay=1e30), tmp_path)


@pytest.mark.parametrize(
    ("head", "target", "balance"),
    [("free", "ihc+ish", "levels"), ("ordered", "ihc", "bits"), ("ordered", "ihc+ish", "none")],
)
def test_every_head_target_and_balance_trains(
    data: TrainingSet, tmp_path: Path, head: str, target: str, balance: str
) -> None:
    options = tiny_options(head=head, target=target, balance=balance, epochs=2)
    card, _ = read_card(train(data, options, tmp_path))
    assert (card.head, card.target) == (head, target)
    assert len(card.steps) == (3 if target == "ihc" else 4)


def test_checkpointed_gradients_and_smaller_passes_give_the_same_losses(
    data: TrainingSet, tmp_path: Path
) -> None:
    # Without batch normalisation, how a step is divided does not matter.
    options = tiny_options(backbone="test_vit", patch_px=32, epochs=3, micro_batch=4, min_patches=1)
    bigger = tiny_set(tmp_path / "slides", options=options)
    variants = {
        "whole": options,
        "parts": msgspec.structs.replace(options, micro_batch=1),
        "again": msgspec.structs.replace(options, checkpoint_gradients=True),
    }
    losses = {}
    for name, variant in variants.items():
        train(bigger, variant, tmp_path / name)
        losses[name] = losses_of(tmp_path / name)
    assert losses["parts"] == pytest.approx(losses["whole"], abs=1e-4)
    assert losses["again"] == pytest.approx(losses["whole"], abs=1e-4)


def test_a_composite_of_2560_px_trains_in_bf16_within_16_gb() -> None:
    # Counted without filling them; the device's kernels want workspace beside the tensors.
    kept = peak_of_tensors("resnet18", 512, bf16=True, checkpointed=False)
    checkpointed = peak_of_tensors("resnet18", 512, bf16=True, checkpointed=True)
    assert 0.5 < checkpointed < 0.8 * kept
    assert kept < 4


def test_bf16_trains(data: TrainingSet, tmp_path: Path) -> None:
    train(data, tiny_options(precision="bf16", epochs=3), tmp_path)
    losses = losses_of(tmp_path)
    assert all(map(math.isfinite, losses))


def test_unknown_bits_weigh_nothing() -> None:
    logits = torch.tensor([[3.0, -2.0, 0.5]], requires_grad=True)
    ordinal_loss(logits, torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.0, 0.5, 0.5]])).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0] == 0
    assert (logits.grad[0, 1:] != 0).all()


def test_the_learning_rate_rises_in_a_line_and_falls_to_a_hundredth() -> None:
    options = tiny_options(lr=1.0, warmup=0.1)
    rates = [learning_rate(step, 100, options) for step in range(100)]
    assert rates[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert all(a >= b for a, b in pairwise(rates[9:]))
    assert rates[-1] == pytest.approx(0.01, abs=1e-3)


def test_options_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(OptionError, match="--batch"):
        check_options(tiny_options(batch=6, micro_batch=4))
    with pytest.raises(OptionError, match="--batch"):
        check_options(tiny_options(batch=4, micro_batch=2), processes=4)
    with pytest.raises(OptionError, match="frozen"):
        check_options(tiny_options(batch_norm="frozen"))
    with pytest.raises(OptionError, match="patch_px"):
        check_options(tiny_options(patch_px=3))
    with pytest.raises(OptionError, match=r"resnest14d.*--micro-batch 2"):
        check_options(tiny_options(backbone="resnest14d", micro_batch=1))
    check_options(tiny_options(backbone="resnest14d", micro_batch=2))
    check_options(tiny_options(backbone="resnest14d", micro_batch=1, pretrained=True))
