from __future__ import annotations

import pytest
import torch

from herohe_model.model.card import ModelCard
from herohe_model.model.cost import (
    Cost,
    has_attention,
    in_words,
    operations_per_s,
    scoring_cost,
    training_cost,
)
from herohe_model.model.network import OrdinalNetwork


def card(backbone: str, patch_px: int = 512) -> ModelCard:
    return ModelCard(
        name="c",
        backbone=backbone,
        head="ordered",
        target="ihc",
        patch_px=patch_px,
        mpp=0.25,
        foreground_threshold=0.07,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        positive_step=">=2+",
    )


def test_attention_over_a_composite_costs_what_its_square_says() -> None:
    """ViT-S/16: 25,600 tokens, 12 layers, width 384; a layer's two products with all pairs alone."""
    pairs = 12 * 2 * 2 * 25_600**2 * 384
    found = scoring_cost(card("vit_small_patch16_224"))
    assert pairs < found.operations < 1.2 * pairs
    assert found.operations > 25 * scoring_cost(card("resnet18")).operations


def test_a_step_holds_what_was_counted_on_its_tensors() -> None:
    """The figures of docs/training.md, which count the optimiser's and the device's own as well."""
    for backbone, fp32, checkpointed in (("resnet18", 2.9, 1.3), ("resnet50", 10.9, 2.5)):
        whole = training_cost(card(backbone), "fp32", composites=1, checkpointed=False)
        assert whole.bytes / 2**30 == pytest.approx(fp32, rel=0.05)
        less = training_cost(card(backbone), "bf16", composites=1, checkpointed=True)
        assert 0.6 * checkpointed < less.bytes / 2**30 <= 1.02 * checkpointed
        assert less.operations > whole.operations


def test_twice_the_composites_take_twice_the_activations() -> None:
    one, two = (training_cost(card("test_vit", 32), "fp32", composites=n, checkpointed=False) for n in (1, 2))
    assert two.operations == 2 * one.operations
    assert one.bytes < two.bytes < 2 * one.bytes


def test_convolutions_are_told_from_attention() -> None:
    with torch.device("meta"):
        assert has_attention(OrdinalNetwork(card("test_vit", 32)))
        assert not has_attention(OrdinalNetwork(card("test_resnet", 32)))


def test_this_machines_speed_is_measured_and_said() -> None:
    before = torch.get_num_threads()
    assert 1e8 < operations_per_s(torch.device("cpu"), "fp32", 1) < 1e14
    assert torch.get_num_threads() == before
    said = in_words(Cost(9 * 10**12, 3 * 2**29), 1e11)
    assert said == "at least 1.5 min and 1.5 GiB (9 TFLOP at 100 GFLOP/s)"
