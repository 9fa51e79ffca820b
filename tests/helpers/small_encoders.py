"""Encoders built as those of the table, but small, with random weights."""

from __future__ import annotations

from pathlib import Path

import msgspec
import safetensors.torch
import torch

from herohe_model.encoders.network import EncoderNetwork, create_encoder_backbone
from herohe_model.encoders.table import Encoder, find_encoder, known_encoders

_GRID = 2
"""Tokens along a side."""


def small(name: str = "kaiko-vits16", *, dimension: int = 48) -> Encoder:
    """An encoder of the table with two narrow blocks and few tokens, complete."""
    row = find_encoder(name)
    architecture = row.architecture or "vit_small_patch16_224"
    cell = int(row.arguments.get("patch_size", 14 if "patch14" in architecture else 16))
    cell = 8 if "patch8" in architecture else cell
    side = cell * _GRID
    arguments = {**row.arguments, "embed_dim": dimension, "depth": 2, "num_heads": 3}
    arguments["img_size"] = 2 * side if row.arguments.get("img_size") == 518 else side
    return msgspec.structs.replace(
        row,
        architecture=architecture,
        arguments=arguments,
        input_px=side,
        mean=row.mean or (0.7, 0.6, 0.7),
        std=row.std or (0.2, 0.25, 0.2),
        dimension=2 * dimension if row.pool == "token+mean" else dimension,
    )


def random_state(encoder: Encoder, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights that are far from what timm begins with, where much is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = create_encoder_backbone(encoder).state_dict()
    return {key: value + 0.1 * torch.randn(value.shape, generator=generator) for key, value in state.items()}


def write_weights(path: Path, encoder: Encoder, seed: int = 0) -> Path:
    """Write random weights as safetensors, or pickled as the hub's ``.bin``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = random_state(encoder, seed)
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path


def write_table(path: Path, *encoders: Encoder) -> Path:
    """Write a user's table."""
    path.write_bytes(msgspec.json.encode({"format": 1, "encoders": encoders}))
    return path


def names() -> list[str]:
    """All encoders of the table."""
    return list(known_encoders())


def random_network(encoder: Encoder, seed: int = 0) -> EncoderNetwork:
    """An encoder's network with the weights of :func:`random_state`."""
    backbone = create_encoder_backbone(encoder)
    backbone.load_state_dict(random_state(encoder, seed))
    return EncoderNetwork(encoder, backbone).eval().requires_grad_(False)
