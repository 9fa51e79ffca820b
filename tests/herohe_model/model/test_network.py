from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from herohe_model.errors import ModelFileError, OptionError
from herohe_model.model.card import Head, ModelCard, TargetName
from herohe_model.model.checkpoint import join_members
from herohe_model.model.network import (
    OrderedHead,
    OrdinalNetwork,
    load_networks,
    plan_backbone,
)
from herohe_model.model.new_model import new_model
from herohe_model.model.score import share_out

# Small members of the team's five families, then other shapes of output: ConvNeXt, windows and tokens.
FAMILIES = [
    ("resnet10t", 32),
    ("resnext26ts", 32),
    ("resnest14d", 32),
    ("test_efficientnet", 32),
    ("densenet121", 32),
    ("test_convnext", 32),
    ("swin_tiny_patch4_window7_224", 32),
    ("test_vit", 32),
]
HEADS: list[Head] = ["free", "ordered"]
TARGETS: list[TargetName] = ["ihc", "ihc+ish"]


@pytest.fixture(params=FAMILIES, ids=[name for name, _ in FAMILIES], scope="module")
def family(request: pytest.FixtureRequest) -> Iterator[OrdinalNetwork]:
    name, patch_px = request.param
    card, state = new_model(name, head="free", target="ihc", patch_px=patch_px)
    yield load_networks(card, state)[0]


def noise(card_side: int, count: int = 1, seed: int = 0) -> torch.Tensor:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, card_side, card_side, 3), dtype=np.uint8)
    return torch.from_numpy(pixels)


def test_contributions_of_every_family_add_up_to_the_logits(family: OrdinalNetwork) -> None:
    pixels = noise(160)
    with torch.inference_mode():
        linear, expected = family.linear_map(pixels)[0], family(pixels)[0]
    score = share_out(linear.numpy(), family.head.biases().numpy(), 5)
    logits, contributions = score.logits, score.contributions
    assert linear.shape == (3, *family.plan.cells)
    assert contributions.shape == (25, 3)
    assert np.abs(contributions.sum(axis=0, dtype=np.float64) - logits).max() < 1e-4
    np.testing.assert_allclose(logits, expected.numpy(), rtol=0, atol=1e-4)


def place_of_change(network: OrdinalNetwork, row: int, column: int, px: int) -> tuple[int, ...]:
    """Where on the map the features change most when the square (row, column) of px x px pixels does."""
    before = noise(160)
    after = before.clone()
    after[:, row * px : (row + 1) * px, column * px : (column + 1) * px] = noise(px, seed=1)
    with torch.inference_mode():
        change = (network.features(after) - network.features(before)).float().square().sum(dim=1)[0]
    return tuple(int(i) for i in np.unravel_index(int(change.argmax()), change.shape))


def test_what_changes_in_a_patch_shows_at_its_place_on_the_map(family: OrdinalNetwork) -> None:
    place = place_of_change(family, 1, 3, 32)
    patch = [cell * 5 // cells for cell, cells in zip(place, family.plan.cells, strict=True)]
    # Receptive fields are wide and these maps small: a neighbour may change more, the mirrored patch not.
    assert max(abs(patch[0] - 1), abs(patch[1] - 3)) <= 1


def test_tokens_keep_their_place_after_the_prefix_is_dropped() -> None:
    card, state = new_model("test_vit", head="free", target="ihc", patch_px=32)
    network = load_networks(card, state)[0]
    assert network.plan.layout == "tokens"
    assert network.plan.prefix_tokens == 1
    for cell in ((0, 0), (2, 7), (9, 9)):
        assert place_of_change(network, *cell, 16) == cell


def test_floats_of_training_and_bytes_of_scoring_are_normalised_alike(family: OrdinalNetwork) -> None:
    pixels = noise(160)
    with torch.inference_mode():
        assert torch.equal(family(pixels), family(pixels.float()))


def test_normalisation_is_the_cards() -> None:
    card, _ = new_model("test_resnet", head="free", target="ihc", patch_px=32)
    network = OrdinalNetwork(card)
    seen = []
    network.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network.eval()(noise(160))
    expected = (noise(160).float() / 255 - torch.tensor(card.mean)) / torch.tensor(card.std)
    torch.testing.assert_close(seen[0], expected.permute(0, 3, 1, 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_the_ordered_head_is_monotone_whatever_its_weights(target: TargetName) -> None:
    bits = 3 if target == "ihc" else 4
    torch.manual_seed(0)
    for scale in (0.01, 1.0, 30.0):
        head = OrderedHead(16, bits)
        with torch.no_grad():
            for weight in head.parameters():
                weight.normal_(std=scale)
            features = torch.randn(50, 16, 3, 3) * scale
            logits = head.linear(features).mean(dim=(2, 3)) + head.biases()
        assert logits.shape == (50, bits)
        assert (logits.diff(dim=1) >= 0).all()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("target", TARGETS)
def test_a_network_has_a_logit_for_each_step(head: Head, target: TargetName) -> None:
    card, state = new_model("test_resnet", head=head, target=target, patch_px=32)
    with torch.inference_mode():
        logits = load_networks(card, state)[0](noise(160, count=2))
    assert logits.shape == (2, len(card.steps))


def test_the_head_works_in_float32_within_autocast() -> None:
    card, state = new_model("test_resnet", head="free", target="ihc", patch_px=32)
    network = load_networks(card, state)[0]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert network.features(noise(160)).dtype == torch.bfloat16
        assert network.linear_map(noise(160)).dtype == torch.float32
        assert network(noise(160)).dtype == torch.float32


@pytest.mark.parametrize("head", HEADS)
def test_every_weight_learns(head: Head) -> None:
    card, _ = new_model("test_resnet", head=head, target="ihc", patch_px=32)
    network = OrdinalNetwork(card)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        network(noise(160, count=2)), torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    )
    loss.backward()
    assert [key for key, weight in network.named_parameters() if weight.grad is None] == []


def test_checkpointing_gradients_changes_no_gradient() -> None:
    card, _ = new_model("resnet10t", head="free", target="ihc", patch_px=32)
    network = OrdinalNetwork(card).eval()
    gradients = []
    for enable in (False, True):
        network.checkpoint_gradients(enable)
        network.zero_grad()
        network(noise(160)).sum().backward()
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_a_backbone_without_checkpointing_says_so() -> None:
    card, _ = new_model("dla46_c", head="free", target="ihc", patch_px=32)
    with pytest.raises(OptionError, match="DLA has no gradient checkpointing"):
        OrdinalNetwork(card).checkpoint_gradients()


@pytest.mark.parametrize(
    "name", ["no_such_net", "resnet18.no_such_tag", "hf-hub:timm/resnet18.a1_in1k", "local-dir:x", "../x", ""]
)
def test_only_timms_own_architectures_are_built(name: str) -> None:
    with pytest.raises(OptionError, match="has no backbone"):
        plan_backbone(name, 160)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("hiera_tiny_224", "gives no spatial map"),  # its tokens are not row-major
        ("efficientformer_l1", "does not take composites of 160 x 160 px"),
        ("crossvit_9_240", "does not take composites of 160 x 160 px"),  # it has no map without pooling
    ],
)
def test_a_backbone_without_a_spatial_map_is_refused(name: str, reason: str) -> None:
    with pytest.raises(OptionError, match=f"{name} {reason}"):
        plan_backbone(name, 160)


def test_a_patch_size_that_does_not_divide_the_composite_still_gives_a_map() -> None:
    plan = plan_backbone("vit_small_patch14_dinov2", 320)
    assert plan.cells == (22, 22)
    assert plan.prefix_tokens == 1


def small(**changes: object) -> tuple[ModelCard, dict[str, torch.Tensor]]:
    card, state = new_model("test_resnet", head="free", target="ihc", patch_px=32)
    fields = {name: getattr(card, name) for name in card.__struct_fields__}
    return ModelCard(**{**fields, **changes}), state


@pytest.mark.parametrize(
    "changes", [{"head": "ordered"}, {"target": "ihc+ish", "positive_step": "3+"}], ids=["kind", "bits"]
)
def test_a_head_that_is_not_the_cards_is_refused(changes: dict[str, object]) -> None:
    card, state = small(**changes)
    with pytest.raises(ModelFileError, match=r"m\.safetensors has a head that is not the"):
        load_networks(card, state, "m.safetensors")


def test_weights_of_another_backbone_are_refused() -> None:
    card, state = small(backbone="test_efficientnet")
    with pytest.raises(
        ModelFileError, match=r"does not fit the backbone test_efficientnet: .* absent instead"
    ):
        load_networks(card, state, "m.safetensors")


def test_missing_and_additional_weights_are_refused() -> None:
    card, state = small()
    without = {key: tensor for key, tensor in state.items() if key != "backbone.conv1.0.weight"}
    with pytest.raises(ModelFileError, match=r"1 weights differ, such as .*, absent instead of"):
        load_networks(card, without)
    with pytest.raises(ModelFileError, match=r"such as backbone\.spare, 2x3 instead of absent"):
        load_networks(card, {**state, "backbone.spare": torch.zeros(2, 3)})


def test_a_backbone_that_this_timm_lacks_is_the_files_fault() -> None:
    card, state = small(backbone="no_such_net")
    with pytest.raises(ModelFileError, match=r"m\.safetensors cannot be used: timm .* has no backbone"):
        load_networks(card, state, "m.safetensors")


def test_an_ensemble_needs_all_its_members_and_nothing_else() -> None:
    card, state = small(members=2)
    both = join_members([state, state])
    assert len(load_networks(card, both)) == 2
    with pytest.raises(ModelFileError, match="does not fit"):
        load_networks(card, {key: t for key, t in both.items() if key.startswith("member0.")})
    with pytest.raises(ModelFileError, match="belong to none of its members"):
        load_networks(card, {**both, "member2.head.bias": torch.zeros(3)})


def test_loading_and_making_models_draw_nothing_from_the_callers_random_numbers() -> None:
    torch.manual_seed(7)
    expected = torch.rand(4)
    torch.manual_seed(7)
    load_networks(*small())
    assert torch.equal(torch.rand(4), expected)
