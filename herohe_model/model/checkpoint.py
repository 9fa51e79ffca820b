"""The model file: weights and their model card in one safetensors file.

The card is JSON under one metadata key. Loading trusts nothing: sizes are checked before memory is taken,
nothing is ever unpickled, and every refusal says which file and why. The same card and weights give the same
bytes, so that a file's SHA-256 names a model.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import safetensors.torch
import torch
from safetensors import SafetensorError

from herohe_model.errors import ModelFileError
from herohe_model.files import replacing
from herohe_model.model.card import (
    CARD_KEY,
    COPY_AGAIN,
    ModelCard,
    card_of,
    check_card,
    open_model_file,
    read_header,
)


def save_model(path: str | Path, card: ModelCard, state: Mapping[str, torch.Tensor]) -> str:
    """Write a model file, or leave what was there untouched.

    The file is written beside its place, read back, compared, and only then moved there.

    Parameters
    ----------
    state
        Weights on any device. Keys of an ensemble begin with ``member<k>.``, k from 0.

    Returns
    -------
    str
        SHA-256 of the file, hexadecimal.

    Raises
    ------
    ModelFileError
        If the card is out of range, a weight is not finite, or the file cannot be written.
    """
    path = Path(path)
    card = check_card(card)
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}
    _check_tensors(tensors, f"The state of {card.name}")
    # One metadata key: safetensors writes several in an order that changes from run to run.
    metadata = {CARD_KEY: msgspec.json.encode(card, order="deterministic").decode()}
    data = safetensors.torch.save(tensors, metadata)
    try:
        with replacing(path) as part:
            with part.open("xb") as file:
                file.write(data)
            read_card_, read, sha256 = load_model(part)
            same = read.keys() == tensors.keys()
            if not (same and read_card_ == card and all(torch.equal(read[k], tensors[k]) for k in tensors)):
                raise ModelFileError(f"{path} did not read back as it was written", "Check the disk")
    except OSError as error:
        raise ModelFileError(
            f"{path} cannot be written: {error.strerror or error}",
            "Check the folder, its rights and the disk",
        ) from error
    return sha256


def load_model(path: str | Path) -> tuple[ModelCard, dict[str, torch.Tensor], str]:
    """Read a model file into memory.

    Returns
    -------
    card, state, sha256
        Tensors on the CPU; the SHA-256 is of the very bytes that the tensors come from.

    Raises
    ------
    ModelFileError
        If the file is missing, damaged, pickled, too large, of another format version, no model of ours, or
        holds weights that are not finite numbers. Whether the weights fit the backbone is for
        :func:`herohe_model.model.network.load_networks` to say.
    """
    path = Path(path)
    metadata, state, sha256 = load_tensors(path)
    return card_of(metadata, path), state, sha256


def load_tensors(path: str | Path) -> tuple[dict[str, str], dict[str, torch.Tensor], str]:
    """Read any safetensors file with the checks of :func:`load_model`, save for those of the card.

    Returns
    -------
    metadata, state, sha256
        Tensors on the CPU; the SHA-256 is of the very bytes that the tensors come from.
    """
    path = Path(path)
    with open_model_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        metadata = read_header(file, size, path)
        file.seek(0)
        data = file.read(size)
    if len(data) != size:
        raise ModelFileError(f"{path} changed while it was read", "Try again when nothing writes to it")
    try:
        state = safetensors.torch.load(data)
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise ModelFileError(f"{path} is damaged: {error}", COPY_AGAIN) from error
    _check_tensors(state, str(path))
    return metadata, state, hashlib.sha256(data).hexdigest()


def member_states(card: ModelCard, state: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Split a state into one for each member, without the prefix ``member<k>.``."""
    if card.members == 1:
        return [dict(state)]
    prefixes = [f"member{k}." for k in range(card.members)]
    return [{key[len(p) :]: t for key, t in state.items() if key.startswith(p)} for p in prefixes]


def join_members(states: list[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Put the states of an ensemble's members into one; of a single network, return it as it is."""
    if len(states) == 1:
        return dict(states[0])
    return {f"member{k}.{key}": t for k, state in enumerate(states) for key, t in state.items()}


def _check_tensors(state: Mapping[str, torch.Tensor], what: str) -> None:
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelFileError(f"{what}: {name} holds numbers that are not finite", "Train the model again")
