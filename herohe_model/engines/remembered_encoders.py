"""What encoders gave on this machine when it first used them, and where their weights were."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from herohe_model.encoders.golden import EncoderRecord
from herohe_model.encoders.table import Encoder
from herohe_model.encoders.weights import LoadedWeights
from herohe_model.engines.cache import MeasurementCache
from herohe_model.files import WriteError

_KIND = "encoders"
_WEIGHTS = "encoder-weights"


class KnownWeights(msgspec.Struct, frozen=True):
    """An encoder, complete, whose weights were used on this machine, and their file."""

    encoder: Encoder
    path: str


def recall_record(record: EncoderRecord) -> EncoderRecord | None:
    """Return what the same weights, built and normalised alike, gave before; None when that is not known."""
    return MeasurementCache(_KIND).known(_facts(record), EncoderRecord)


def remember_record(record: EncoderRecord) -> None:
    """Remember what an encoder gives; where nothing can be kept, nothing is."""
    with suppress(OSError, WriteError):
        MeasurementCache(_KIND).remember(_facts(record), record)


def remember_weights(loaded: LoadedWeights) -> None:
    """Remember where weights are, by their digest; where nothing can be kept, nothing is."""
    with suppress(OSError, WriteError):
        known = KnownWeights(loaded.encoder, str(Path(loaded.path).absolute()))
        MeasurementCache(_WEIGHTS).remember({"sha256": loaded.sha256}, known)


def recall_weights(sha256: str) -> KnownWeights | None:
    """Return where the weights of a SHA-256 were the last time; None when that is not known."""
    return MeasurementCache(_WEIGHTS).known({"sha256": sha256}, KnownWeights)


def _facts(record: EncoderRecord) -> dict[str, Any]:
    facts: dict[str, Any] = msgspec.to_builtins(record)
    return {key: value for key, value in facts.items() if key not in ("encoder", "golden", "versions")}
