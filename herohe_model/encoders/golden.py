"""Golden features: what an encoder gave for drawn pictures, and whether it still does.

Weights, normalisation, the version of timm and how it was told to build the network all go into them, so
features of another encoder are told by their numbers, whatever a file calls itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import timm
import torch
from numpy.typing import NDArray

from herohe_model.encoders.network import EncoderNetwork
from herohe_model.encoders.table import MAX_BYTES, Colour, Encoder, Value
from herohe_model.errors import ModelFileError, os_problem
from herohe_model.files import write_atomically

APART: Final = 1e-3
"""How far features in float32 may lie apart, of their length, where machines and versions compute alike."""

RECORD_NAME: Final = "encoder.json"
"""Of the record in a folder of features."""

_PICTURES: Final = 2
_CELLS: Final = 14
_DIGITS: Final = 7


class EncoderRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What made features, and the features that it gave for the drawn pictures.

    Attributes
    ----------
    weights_sha256
        Of the file of weights.
    golden
        (pictures, dimension), computed by PyTorch in float32, to seven digits.
    versions
        Of timm and torch that computed them.
    """

    encoder: str
    source: str
    weights_sha256: str
    architecture: str
    arguments: dict[str, Value]
    input_px: int
    mean: Colour
    std: Colour
    pool: str
    golden: tuple[tuple[float, ...], ...]
    versions: dict[str, str]

    @property
    def dimension(self) -> int:
        """Numbers of a feature."""
        return len(self.golden[0]) if self.golden else 0


def golden_pictures(side: int) -> NDArray[np.uint8]:
    """Draw the pictures: (2, side, side, 3), uint8 R, G, B, the same on every machine.

    Squares in the colours of H&E, some with a texture as fine as a pixel.
    """
    bits = np.random.PCG64(12)
    # Of whole numbers alone: nothing depends on how a library rounds.
    coarse = (bits.random_raw(_PICTURES * _CELLS**2) >> np.uint64(60)).reshape(_PICTURES, _CELLS, _CELLS)
    fine = (bits.random_raw(side * side) >> np.uint64(59)).reshape(side, side).astype(np.int64)
    at = np.arange(side) * _CELLS // side
    palette = np.array([(236, 214, 228), (214, 142, 186), (178, 110, 168), (110, 70, 140)], dtype=np.int64)
    shade = coarse[:, at][:, :, at].astype(np.int64)
    pictures = palette[shade % 4] + np.where(shade >= 8, fine - 16, 0)[..., None]
    drawn: NDArray[np.uint8] = np.clip(pictures, 0, 255).astype(np.uint8)
    return drawn


def golden_features(network: EncoderNetwork, side: int) -> NDArray[np.float32]:
    """Compute the features (2, dimension) of the drawn pictures, on the CPU by PyTorch in float32."""
    with torch.inference_mode():
        found: NDArray[np.float32] = network(torch.from_numpy(golden_pictures(side))).numpy()
    return found


def make_record(encoder: Encoder, network: EncoderNetwork, weights_sha256: str) -> EncoderRecord:
    """Record what an encoder gives.

    Raises
    ------
    ModelFileError
        If that are no finite numbers, or not as many as its row says.
    """
    golden = golden_features(network, encoder.input_px)
    if golden.shape[1] != encoder.dimension or not bool(np.isfinite(golden).all()):
        raise ModelFileError(
            f"{encoder.name} gave {golden.shape[1]} numbers for a patch, its row says {encoder.dimension}"
            if golden.shape[1] != encoder.dimension
            else f"{encoder.name} gave no finite numbers",
            "Check its row and its weights",
        )
    if encoder.mean is None or encoder.std is None:
        raise ValueError(f"{encoder.name} is not complete")
    return EncoderRecord(
        encoder=encoder.name,
        source=encoder.source,
        weights_sha256=weights_sha256,
        architecture=encoder.architecture,
        arguments=dict(encoder.arguments),
        input_px=encoder.input_px,
        mean=encoder.mean,
        std=encoder.std,
        pool=encoder.pool,
        golden=tuple(tuple(float(f"{v:.{_DIGITS}g}") for v in row) for row in golden.tolist()),
        versions={"timm": timm.__version__, "torch": str(torch.__version__)},
    )


def apart(found: NDArray[np.floating], golden: NDArray[np.floating]) -> float:
    """Return how far features lie apart: the largest distance of a picture's, of the golden ones' length."""
    length = np.linalg.norm(golden, axis=1)
    return float((np.linalg.norm(found - golden, axis=1) / np.maximum(length, 1e-12)).max())


def check_record(now: EncoderRecord, before: EncoderRecord, what: str) -> None:
    """Check that an encoder gives what it gave, whatever it is called.

    Parameters
    ----------
    what
        Where `before` comes from, such as a folder of features; begins the message.

    Raises
    ------
    ModelFileError
        If it does not, with what differs: weights, normalisation, how it is built, or timm itself.
    """
    one, other = np.array(now.golden), np.array(before.golden)
    if one.shape == other.shape and apart(one, other) <= APART:
        return
    if one.shape != other.shape:
        far = f"{now.dimension} numbers a patch instead of {before.dimension}"
    else:
        far = f"features that are {apart(one, other):.2g} of their length away"
    raise ModelFileError(
        f"{what} was made by {before.encoder}, and {now.encoder} gives {far}: {_why(now, before)}",
        "Use the encoder, the weights and the versions that it was made with, or extract the features anew",
    )


def _why(now: EncoderRecord, before: EncoderRecord) -> str:
    """Say what differs, what explains most first."""
    if (now.architecture, now.arguments, now.pool) != (before.architecture, before.arguments, before.pool):
        return f"the network is built otherwise ({now.architecture}, was {before.architecture})"
    if (now.mean, now.std) != (before.mean, before.std):
        return (
            f"it normalises by mean {now.mean} and std {now.std}, and did by {before.mean} and {before.std}"
        )
    if now.input_px != before.input_px:
        return f"it sees {now.input_px} px, and saw {before.input_px}"
    if now.weights_sha256 != before.weights_sha256:
        return (
            f"the weights are another file (SHA-256 {now.weights_sha256[:12]}, was "
            f"{before.weights_sha256[:12]})"
        )
    if now.versions != before.versions:
        said = ", ".join(f"{name} {version}" for name, version in sorted(now.versions.items()))
        was = ", ".join(f"{name} {version}" for name, version in sorted(before.versions.items()))
        return f"the same weights compute something else with {said} than with {was}"
    return "the same weights compute something else on this machine"


def record_path(where: Path) -> Path:
    """Return the record's file of a folder of features, or the file itself."""
    return where / RECORD_NAME if where.is_dir() else where


def read_record(path: Path) -> EncoderRecord:
    """Read a record.

    Raises
    ------
    ModelFileError
        If it cannot be read, or is none.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ModelFileError(f"{path} is too large for what an encoder gave", "Name an encoder.json")
        return msgspec.json.decode(path.read_bytes(), type=EncoderRecord)
    except OSError as error:
        raise ModelFileError(os_problem(error), "Name a folder that holds an encoder.json") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is no record of an encoder: {error}", "Name another") from error


def write_record(path: Path, record: EncoderRecord) -> None:
    """Write a record, the same bytes for the same one. Raises WriteError if that fails."""
    write_atomically(path, msgspec.json.format(msgspec.json.encode(record), indent=1))
