"""The weights of an encoder: found on this machine, fetched when that is asked for, and read.

They come from a file that the user names, or from the cache of the Hugging Face hub, which other tools fill,
too. Of a pickle, tensors alone are taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import huggingface_hub

from herohe_model.encoders.table import Encoder, TimmConfig, completed, read_config
from herohe_model.errors import ModelFileError, os_problem
from herohe_model.files import sha256_of
from herohe_model.model.card import MAX_FILE_BYTES
from herohe_model.model.pickled import read_pickled

if TYPE_CHECKING:
    import torch

NAMES: Final = ("model.safetensors", "pytorch_model.bin")
"""What timm calls weights in a repository, the better form first."""
CONFIG: Final = "config.json"

_WRAPPED: Final = ("state_dict", "model")
"""Keys under which a training run keeps its weights beside other things."""


@dataclass(frozen=True)
class WeightsFile:
    """Where an encoder's weights lie.

    Attributes
    ----------
    path
        A safetensors file, or a pickled dictionary of tensors.
    config
        timm's ``config.json`` beside it; None where there is none.
    """

    path: Path
    config: Path | None


@dataclass(frozen=True)
class LoadedWeights:
    """Weights in memory.

    Attributes
    ----------
    encoder
        The row, completed from the configuration beside the weights.
    state
        Tensors on the CPU by timm's names.
    sha256
        Of the file.
    """

    encoder: Encoder
    path: Path
    state: Mapping[str, torch.Tensor]
    sha256: str


def find_weights(encoder: Encoder, named: Path | None = None) -> WeightsFile | None:
    """Find an encoder's weights on this machine; nothing is fetched.

    Parameters
    ----------
    named
        A file, or a folder that holds one as timm calls it; None for the cache of the Hugging Face hub.

    Returns
    -------
    WeightsFile or None
        None where the cache holds none.

    Raises
    ------
    ModelFileError
        If `named` is not there.
    """
    if named is not None:
        found = next((named / name for name in NAMES if (named / name).is_file()), named)
        if not found.is_file():
            raise ModelFileError(
                f"{named} holds no weights of {encoder.name}", f"Name a file, or a folder with {NAMES[0]}"
            )
        config = found.with_name(CONFIG)
        return WeightsFile(found, config if config.is_file() else None)
    if not encoder.source:
        return None
    paths = (_cached(encoder.source, name) for name in NAMES)
    path = next((path for path in paths if path is not None), None)
    return None if path is None else WeightsFile(path, _cached(encoder.source, CONFIG))


def load_weights(encoder: Encoder, named: Path | None = None) -> LoadedWeights:
    """Read an encoder's weights, and complete its row from what lies beside them.

    Raises
    ------
    ModelFileError
        If there are none on this machine, they are damaged or others than the row wants, or the row lacks a
        fact that nothing says.
    """
    found = find_weights(encoder, named)
    if found is None:
        remedy = (
            f"Run: herohe-bridge encoder fetch {encoder.name}; or name a file with --weights"
            if encoder.source
            else "Name their file with --weights"
        )
        raise ModelFileError(f"The weights of {encoder.name} are not on this machine", remedy)
    whole = completed(encoder, _config(found))
    sha256 = weights_sha256(found)
    if encoder.sha256 and sha256 != encoder.sha256:
        raise ModelFileError(
            f"{found.path} is another file than the table names for {encoder.name}: its SHA-256 begins with "
            f"{sha256[:12]}, not {encoder.sha256[:12]}",
            "Take the file that the table means, or change its row",
        )
    return LoadedWeights(whole, found.path, read_state(found.path), sha256)


def weights_sha256(found: WeightsFile) -> str:
    """Return the SHA-256 of weights, hexadecimal.

    Raises
    ------
    ModelFileError
        If they cannot be read.
    """
    try:
        sha256 = sha256_of(found.path)
    except OSError as error:
        raise ModelFileError(os_problem(error), "Check its permissions") from error
    if sha256 is None:
        raise ModelFileError(f"{found.path} is not there any more", "Fetch it again")
    return sha256


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read tensors by name from a safetensors file, or from a pickle without executing anything.

    Raises
    ------
    ModelFileError
        If it is missing, damaged, too large, or holds anything but tensors.
    """
    if _is_safetensors(path):
        from herohe_model.model.checkpoint import load_tensors

        return load_tensors(path)[1]
    import torch

    held = read_pickled(path, max_bytes=MAX_FILE_BYTES, kind=ModelFileError, remedy=_OTHER_FILE)
    for key in _WRAPPED:
        if isinstance(held, dict) and isinstance(held.get(key), dict):
            held = held[key]
    if not isinstance(held, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in held.items()
    ):
        raise ModelFileError(f"{path} holds no weights by name", _OTHER_FILE)
    return held


_OTHER_FILE: Final = "Use a safetensors file, or what its source gives out for timm"


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as a safetensors file does; one that begins as neither is a damaged pickle."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise ModelFileError(os_problem(error), "Check the path") from error
    return path.suffix == ".safetensors" or start[8:] == b"{"


def _config(found: WeightsFile) -> TimmConfig | None:
    return None if found.config is None else read_config(found.config)


def _cached(source: str, name: str) -> Path | None:
    try:
        path = huggingface_hub.try_to_load_from_cache(source, name)
    except (OSError, ValueError) as error:
        raise ModelFileError(f"The cache of the Hugging Face hub cannot be read: {error}") from error
    return Path(path) if isinstance(path, str) else None
