"""Scores as they travel, and as the rest of the program knows them."""

from __future__ import annotations

import numpy as np

from herohe_model.scorer import CompositeScore


def score_from(logits: bytes, contributions: bytes, cells: int, bits: int) -> CompositeScore:
    """Return the score of one composite from its two frames."""
    return CompositeScore(
        np.frombuffer(logits, "<f4", bits).astype(np.float32),
        np.frombuffer(contributions, "<f4", cells * bits).reshape(cells, bits).astype(np.float32),
    )
