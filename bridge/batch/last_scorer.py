"""What scored with a model on this machine the last time: it can be told without loading the model again."""

from __future__ import annotations

import platform
from contextlib import suppress
from typing import Any, Final

import msgspec

from bridge.versions import package_versions
from herohe_model.engines.cache import MeasurementCache
from herohe_model.files import WriteError
from herohe_model.model.compute import Compute
from herohe_model.model.score import Embeds, ScorerInfo, ScoringModel

_KIND: Final = "scorers"


class _LastScorer(msgspec.Struct, frozen=True):
    device: str
    precision: str
    engine: str
    embeds: Embeds | None = None


def last_scorer(model: ScoringModel, compute: Compute) -> ScorerInfo | None:
    """Return what scored with this model, as it was wished for, the last time; None when nothing is known."""
    known = MeasurementCache(_KIND).known(_facts(model, compute), _LastScorer)
    if known is None:
        return None
    return ScorerInfo(model.card, model.sha256, known.device, known.precision, known.engine, known.embeds)


def remember_scorer(info: ScorerInfo, compute: Compute) -> None:
    """Remember what scores now, for :func:`last_scorer`; where nothing can be kept, nothing is."""
    with suppress(OSError, WriteError):
        MeasurementCache(_KIND).remember(
            _facts(info.model, compute), _LastScorer(info.device, info.precision, info.engine, info.embeds)
        )


def _facts(model: ScoringModel, compute: Compute) -> dict[str, Any]:
    return {
        "model": model.sha256,
        "compute": msgspec.to_builtins(compute),
        "machine": platform.node(),
        "versions": dict(package_versions()),
    }
