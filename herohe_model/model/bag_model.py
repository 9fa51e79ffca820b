"""A bag model's own part: a region's patches, as an encoder sees them, pooled into ordinal logits.

Computed by NumPy alone, on every way to a result: a bag is little work beside what made its features, and
whoever asks needs no PyTorch. The formula, and the network that is trained, are in
:mod:`herohe_model.bag.network`.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from herohe_model.errors import ModelFileError
from herohe_model.model.card import (
    COPY_AGAIN,
    BagCard,
    ModelCard,
    card_of,
    open_model_file,
    read_header,
)
from herohe_model.model.score import BagScore, mean_distance

MAX_BYTES: Final = 64 << 20
"""Of a bag model's file; twenty members of the widest layer have half of it."""

_GOLDEN_PATCHES: Final = 64
_GOLDEN_TOLERANCE: Final = 1e-3
_BLOCK: Final = 16_384
"""Patches that go through the layer at once, so that memory does not grow by their features again."""
_OTHER_FILE: Final = "Use a file made by herohe-bridge train --features"

_Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class BagModel:
    """A loaded bag model.

    Attributes
    ----------
    members
        Weights of each network of the ensemble, by the names of :class:`herohe_model.bag.network.BagNetwork`.
    sha256
        Of the model file, hexadecimal; "" for one that was never a file.
    data
        The file's bytes; b"" for one that was never a file.
    """

    card: ModelCard
    members: tuple[_Weights, ...]
    sha256: str
    data: bytes = b""

    def score(self, features: NDArray[np.float32]) -> BagScore:
        """Score one bag whole.

        Parameters
        ----------
        features
            Shape (n, dimension), float32, n at least 1.
        """
        passes = [_pass(self.card, weights, features) for weights in self.members]
        return BagScore(
            np.stack([p.logits[0] for p in passes]),
            _mean([p.contributions for p in passes]),
            _mean([p.attention for p in passes]),
            float(np.mean([mean_distance(features, w["centre"], w["scale"]) for w in self.members])),
        )


def bag_of(card: ModelCard) -> BagCard:
    """Return what a card says of its bags.

    Raises
    ------
    ModelFileError
        If it is the card of a model that sees composites.
    """
    if card.bag is None:
        raise ModelFileError(
            f"{card.name} scores composites of pixels, not features of patches",
            "Score with it without --features",
        )
    return card.bag


def load_bag_model(path: Path) -> BagModel:
    """Load a bag model, and check that this machine computes with it what the one did that made it.

    Raises
    ------
    ModelFileError
        If the file is missing, damaged or too large, is no bag model, its weights do not fit its card, or its
        golden logits come out otherwise.
    """
    with open_model_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        # Of a composite's model, whose weights are large, nothing but the card is read.
        bag_of(card_of(read_header(file, size, path), path))
        if size > MAX_BYTES:
            raise ModelFileError(f"{path} has {size} bytes; a bag model has up to {MAX_BYTES}", _OTHER_FILE)
        file.seek(0)
        data = file.read(size)
    return bag_model_of(data, str(path))


def bag_model_of(data: bytes, what: str) -> BagModel:
    """Make a bag model of its file's bytes; errors as of :func:`load_bag_model`.

    Parameters
    ----------
    what
        Where they come from; begins messages.
    """
    card = card_of(read_header(io.BytesIO(data), len(data), Path(what)), Path(what))
    try:
        weights = safetensors.numpy.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{what} is damaged: {error}", COPY_AGAIN) from error
    model = BagModel(card, split_members(card, weights, what), hashlib.sha256(data).hexdigest(), data)
    golden = bag_of(card).golden
    if golden:
        found = golden_logits(model)
        if len(golden) != len(found) or not np.allclose(found, golden, rtol=0, atol=_GOLDEN_TOLERANCE):
            raise ModelFileError(
                f"{what} computes other logits here than where it was made: {found.round(4).tolist()} "
                f"instead of {[round(z, 4) for z in golden]}",
                f"It was made with {card.versions or 'versions it does not name'}: use those",
            )
    return model


def split_members(card: ModelCard, weights: _Weights, what: str) -> tuple[_Weights, ...]:
    """Split weights into those of each member, and check that they fit the card.

    Raises
    ------
    ModelFileError
        If one is missing, too many, of another shape or type, or not finite.
    """
    shapes = _shapes(card)
    prefixes = [""] if card.members == 1 else [f"member{k}." for k in range(card.members)]
    expected = {prefix + key: shape for prefix in prefixes for key, shape in shapes.items()}
    wrong = sorted(
        key
        for key in expected.keys() | weights.keys()
        if key not in weights
        or weights[key].shape != expected.get(key)
        or weights[key].dtype != np.float32
        or not bool(np.isfinite(weights[key]).all())
    )
    if wrong:
        raise ModelFileError(
            f"{what} does not fit its card: {len(wrong)} weights differ, such as {wrong[0]}", _OTHER_FILE
        )
    return tuple({key: weights[prefix + key] for key in shapes} for prefix in prefixes)


def golden_logits(model: BagModel) -> NDArray[np.float64]:
    """Return the logits of features that are drawn alike everywhere, shape (bits,)."""
    spec, first = bag_of(model.card), model.members[0]
    # Of NumPy's generators, PCG64's raw numbers are the same in every version; and what the network expects.
    raw = np.random.PCG64(0).random_raw(_GOLDEN_PATCHES * spec.dimension).astype(np.float64) / 2.0**64
    drawn = (raw.reshape(_GOLDEN_PATCHES, spec.dimension) - 0.5) * np.sqrt(12.0)
    features = drawn * first["scale"].astype(np.float64) + first["centre"]
    return np.asarray(model.score(features.astype(np.float32)).logits.mean(axis=0), dtype=np.float64)


def _shapes(card: ModelCard) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight of a member, in the order of the network's."""
    spec, bits = bag_of(card), len(card.steps)
    inner = spec.attention_width or max(1, spec.width // 2)
    shapes: dict[str, tuple[int, ...]] = {
        "centre": (spec.dimension,),
        "scale": (spec.dimension,),
        "layer.weight": (spec.width, spec.dimension),
        "layer.bias": (spec.width,),
    }
    if spec.pooling == "attention":
        for name in ("value", "gate"):
            shapes |= {f"{name}.weight": (inner, spec.width), f"{name}.bias": (inner,)}
        shapes |= {"weigh.weight": (1, inner), "weigh.bias": (1,)}
    if card.head == "free":
        return shapes | {"head.weight": (bits, spec.width), "head.bias": (bits,)}
    return shapes | {"head.direction": (spec.width,), "head.base": (1,), "head.gaps": (bits - 1,)}


def _pass(card: ModelCard, weights: _Weights, features: NDArray[np.float32]) -> BagScore:
    """Compute one bag by one member, as BagNetwork does in evaluation."""
    parts = [_hidden(weights, features[at : at + _BLOCK]) for at in range(0, len(features), _BLOCK)]
    hidden = np.concatenate(parts)
    attention = _attention(weights, hidden)
    if card.head == "free":
        linear, biases = _linear(hidden, weights["head.weight"]), weights["head.bias"]
    else:
        # One column and its repetitions: a higher step is never likelier, not even by rounding.
        one = _linear(hidden, weights["head.direction"][None])
        linear = np.repeat(one, len(card.steps), axis=1)
        gaps = np.logaddexp(np.float32(0), weights["head.gaps"])
        biases = np.cumsum(np.concatenate([weights["head.base"], gaps]), dtype=np.float32)
    told = attention[:, None].astype(np.float64) * linear
    logits = told.sum(axis=0) + biases
    shares = told + biases.astype(np.float64) / len(features)
    return BagScore(logits.astype(np.float32)[None], shares.astype(np.float32), attention)


def _hidden(weights: _Weights, features: NDArray[np.float32]) -> NDArray[np.float32]:
    standard = (features - weights["centre"]) / weights["scale"]
    layer = _linear(standard, weights["layer.weight"]) + weights["layer.bias"]
    return np.asarray(np.maximum(layer, np.float32(0)), dtype=np.float32)


def _attention(weights: _Weights, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
    if "weigh.weight" not in weights:
        return np.full(len(hidden), 1 / len(hidden), dtype=np.float32)
    value = np.tanh(_linear(hidden, weights["value.weight"]) + weights["value.bias"])
    # The logistic function, by one that does not overflow.
    gate = (np.tanh((_linear(hidden, weights["gate.weight"]) + weights["gate.bias"]) / 2) + 1) / 2
    weighed = (_linear(value * gate, weights["weigh.weight"])[:, 0] + weights["weigh.bias"]).astype(
        np.float64
    )
    powers = np.exp(weighed - weighed.max())
    return np.asarray(powers / powers.sum(), dtype=np.float32)


def _linear(rows: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Multiply rows (n, in) by a weight (out, in)."""
    product: NDArray[np.float32] = rows @ weight.T
    return product


def _mean(arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.asarray(np.mean(arrays, axis=0, dtype=np.float64), dtype=np.float32)
