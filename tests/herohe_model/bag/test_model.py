"""A bag model: exact shares, attention that sums to one, golden logits that stand guard."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from helpers.drawn_bags import DIMENSION, drawn_bag, write_drawn

from herohe_model.bag.card import check_features, new_bag_card, with_golden
from herohe_model.bag.network import BagNetwork
from herohe_model.errors import HeroheError, ModelFileError, OptionError
from herohe_model.features.read import read_facts
from herohe_model.features.schema import FeatureFileError
from herohe_model.model.bag_model import load_bag_model
from herohe_model.model.card import Head, ModelCard, Pooling
from herohe_model.model.checkpoint import join_members, load_model, member_states, save_model


def facts_of(tmp_path: Path, **settings: object):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    return read_facts(write_drawn(tmp_path / "slide.h5", drawn_bag(2, rng), **settings))  # type: ignore[arg-type]


def made(tmp_path: Path, pooling: Pooling, head: Head, members: int = 1) -> tuple[ModelCard, Path]:
    card = new_bag_card(
        "small",
        facts_of(tmp_path),
        pooling=pooling,
        head=head,
        target="ihc+ish",
        positive_step=">=2+/ISH+",
        width=16,
    )
    states = []
    for seed in range(members):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = BagNetwork(card)
        network.standardise(torch.full((DIMENSION,), 0.1), torch.full((DIMENSION,), 1.5))
        states.append(network.state_dict())
    card = msgspec.structs.replace(card, members=members)
    card = with_golden(card, join_members(states))
    save_model(tmp_path / "model.safetensors", card, join_members(states))
    return card, tmp_path / "model.safetensors"


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("head", ["free", "ordered"])
@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_shares_add_up_to_the_logits(tmp_path: Path, pooling: Pooling, head: Head, members: int) -> None:
    _, file = made(tmp_path, pooling, head, members)
    model = load_bag_model(file)
    bag = drawn_bag(3, np.random.default_rng(1), patches=500)
    score = model.score(bag)
    assert score.logits.shape == (members, 4) and score.contributions.shape == (500, 4)
    np.testing.assert_allclose(score.contributions.sum(axis=0), score.logits.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(score.attention.sum(), 1.0, atol=1e-5)
    if pooling == "mean":
        np.testing.assert_allclose(score.attention, 1 / 500, rtol=1e-5)
    else:
        assert score.attention.std() > 0


@pytest.mark.parametrize("head", ["free", "ordered"])
@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_what_scores_is_what_was_trained(tmp_path: Path, pooling: Pooling, head: Head) -> None:
    card, file = made(tmp_path, pooling, head, 2)
    bag = 3 * drawn_bag(3, np.random.default_rng(1), patches=40_000)
    score = load_bag_model(file).score(bag)
    states = member_states(card, load_model(file)[1])
    for state, logits in zip(states, score.logits, strict=True):
        network = BagNetwork(card)
        network.load_state_dict(state)
        with torch.inference_mode():
            trained = network.eval()(torch.from_numpy(bag))
        np.testing.assert_allclose(trained.logits.numpy(), logits, atol=2e-5)


def test_the_order_of_patches_does_not_matter_and_their_number_does_not_to_a_mean(tmp_path: Path) -> None:
    _, file = made(tmp_path, "mean", "free")
    model = load_bag_model(file)
    bag = drawn_bag(1, np.random.default_rng(2))
    once = model.score(bag).logits
    np.testing.assert_allclose(model.score(bag[::-1].copy()).logits, once, atol=1e-5)
    np.testing.assert_allclose(model.score(np.concatenate([bag, bag])).logits, once, atol=1e-5)


def test_what_computes_other_logits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, file = made(tmp_path, "attention", "ordered")
    load_bag_model(file)
    monkeypatch.setattr(np, "maximum", lambda layer, _: layer)
    with pytest.raises(ModelFileError, match="computes other logits here"):
        load_bag_model(file)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"encoder": "other"}, "they are of other, not of small"),
        ({"magnification": 40}, "read at 0.25 µm/px, not at 0.5"),
    ],
)
def test_features_of_another_kind_are_refused_by_name(
    tmp_path: Path, settings: dict[str, object], why: str
) -> None:
    _, file = made(tmp_path, "mean", "free")
    with pytest.raises(FeatureFileError, match=why):
        check_features(load_bag_model(file).card, facts_of(tmp_path, **settings))


def test_a_file_that_names_no_encoder_makes_no_model(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, encoder="None")
    with pytest.raises(OptionError, match="does not say its encoder"):
        new_bag_card("x", facts, pooling="mean", head="free", target="ihc", positive_step=">=2+", width=4)


def test_a_model_of_composites_is_no_bag_model(tmp_path: Path) -> None:
    from helpers.small_slides import small_model

    with pytest.raises(HeroheError, match="scores composites of pixels"):
        load_bag_model(small_model(tmp_path / "composite.safetensors"))
