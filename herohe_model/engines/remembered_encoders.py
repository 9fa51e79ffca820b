"""What encoders gave on this machine when it first used them, which versions to come must give, too."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec

from herohe_model.encoders.golden import EncoderRecord
from herohe_model.engines.cache import MeasurementCache
from herohe_model.files import WriteError

_KIND = "encoders"


def recall_record(record: EncoderRecord) -> EncoderRecord | None:
    """Return what the same weights, built and normalised alike, gave before; None when that is not known."""
    return MeasurementCache(_KIND).known(_facts(record), EncoderRecord)


def remember_record(record: EncoderRecord) -> None:
    """Remember what an encoder gives; where nothing can be kept, nothing is."""
    with suppress(OSError, WriteError):
        MeasurementCache(_KIND).remember(_facts(record), record)


def _facts(record: EncoderRecord) -> dict[str, Any]:
    facts: dict[str, Any] = msgspec.to_builtins(record)
    return {key: value for key, value in facts.items() if key not in ("encoder", "golden", "versions")}
