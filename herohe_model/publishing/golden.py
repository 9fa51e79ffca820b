"""Golden logits: what a model gave for a drawn picture when it was published, and whether it still does."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from herohe_model.errors import ModelFileError, os_problem

GOLDEN: Final = "golden.json"
"""Beside a published model."""

_APART: Final = 1e-3
"""Of the largest logit, or of 1 where that is larger."""
_MAX_BYTES: Final = 1 << 20


class GoldenLogits(msgspec.Struct, frozen=True, kw_only=True):
    """What a model gives, by PyTorch in float32 on a CPU.

    Attributes
    ----------
    of
        What was scored.
    logits
        Highest step first.
    versions
        Of the libraries that computed them.
    """

    of: str
    model_sha256: str
    logits: tuple[float, ...]
    versions: dict[str, str]


def noise_composite(side_px: int) -> NDArray[np.uint8]:
    """Make the composite that models are verified with: (side_px, side_px, 3), uint8, always the same."""
    return np.random.default_rng(0).integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)


def golden_logits(path: Path) -> GoldenLogits:
    """Compute what a model gives; of a bag model, take what its card says and check it.

    Raises
    ------
    ModelFileError
        If it cannot be loaded, or a bag model gives something else than its card says.
    """
    from herohe_model.engines.scorer import Scorer
    from herohe_model.model.bag_model import load_bag_model
    from herohe_model.model.checkpoint import load_model
    from herohe_model.model.compute import Compute
    from herohe_model.model.new_model import library_versions

    card, state, sha256 = load_model(path)
    if card.bag is not None:
        load_bag_model(path)
        logits, of = card.bag.golden, "64 drawn patches of features; also in the model's card"
    else:
        of = f"a composite of noise, {card.side_px} px"
        compute = Compute("cpu", "fp32", "torch")
        with Scorer(card, state, compute, model_sha256=sha256, what=str(path)) as scorer:
            found = scorer.score([noise_composite(card.side_px)])[0].logits
        logits = tuple(float(f"{z:.7g}") for z in found.tolist())
    return GoldenLogits(of=of, model_sha256=sha256, logits=logits, versions=library_versions())


def check_golden(path: Path) -> bool:
    """Check a model against the golden logits beside it.

    Returns
    -------
    bool
        False where there are none.

    Raises
    ------
    ModelFileError
        If it gives others, or they are those of another model.
    """
    golden = path.with_name(GOLDEN)
    if not golden.is_file():
        return False
    try:
        with golden.open("rb") as file:
            said = msgspec.json.decode(file.read(_MAX_BYTES), type=GoldenLogits)
    except OSError as error:
        raise ModelFileError(os_problem(error), "Check its permissions") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{golden} holds no golden logits: {error}", "Get the model again") from error
    now = golden_logits(path)
    one, other = np.array(now.logits), np.array(said.logits)
    apart = float(np.abs(one - other).max()) if one.shape == other.shape else np.inf
    if now.model_sha256 != said.model_sha256 or apart > _APART * max(1.0, float(np.abs(other).max())):
        raise ModelFileError(
            f"{path} gives {one.round(4).tolist()} here for {said.of}, and gave {other.round(4).tolist()} "
            f"where it was published",
            f"It was published with {said.versions}, and here are {now.versions}: use those",
        )
    return True
