"""Bag models over the small encoders, whose weights this machine remembers, as after an extraction."""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch

from helpers.small_encoders import small, write_weights
from herohe_model.bag.card import with_golden
from herohe_model.bag.network import BagNetwork
from herohe_model.encoders.golden import make_record
from herohe_model.encoders.network import load_network
from herohe_model.encoders.weights import LoadedWeights, load_weights
from herohe_model.engines.remembered_encoders import remember_weights
from herohe_model.model.card import BagCard, ModelCard, Pooling
from herohe_model.model.checkpoint import join_members, save_model

PATCH_PX = 32


def small_weights(folder: Path, seed: int = 0) -> LoadedWeights:
    """Weights of the small encoder in a file, remembered."""
    loaded = load_weights(small(), write_weights(folder / f"encoder{seed}.safetensors", small(), seed))
    remember_weights(loaded)
    return loaded


def bag_model(
    path: Path,
    loaded: LoadedWeights,
    *,
    pooling: Pooling = "attention",
    members: int = 2,
    patch_px: int = PATCH_PX,
    mpp: float = 0.5,
) -> Path:
    """Write a bag model with a random head for the features of an encoder."""
    network = load_network(loaded.encoder, loaded.state, str(path))
    golden = make_record(loaded.encoder, network, loaded.sha256).golden[0]
    card = ModelCard(
        name="small bag",
        backbone="",
        head="ordered",
        target="ihc",
        patch_px=patch_px,
        grid=1,
        mpp=mpp,
        foreground_threshold=0.07,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        positive_step=">=2+",
        members=members,
        bag=BagCard(
            pooling=pooling,
            dimension=loaded.encoder.dimension,
            width=16,
            encoder=loaded.encoder.name,
            encoder_sha256=loaded.sha256,
            encoder_golden=golden,
        ),
    )
    states = []
    for member in range(members):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(member)
            states.append({key: 4 * value for key, value in BagNetwork(card).state_dict().items()})
    for state in states:
        state["scale"] = torch.ones_like(state["scale"])
    state = join_members(states)
    save_model(path, with_golden(msgspec.structs.replace(card), state), state)
    return path
