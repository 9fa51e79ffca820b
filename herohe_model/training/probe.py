"""A linear probe fitted on patches inside and outside of what was drawn, and judged on held-out slides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from herohe_model.dataset.cases import Case, case_id
from herohe_model.errors import CancelledError, OptionError
from herohe_model.features.probe import HeldOut, Probe, ProbeCard, smoothed

FEWEST_SLIDES: Final = 3
_FOLDS: Final = 5
_PENALTY: Final = 1e-3
"""Of the squared weights, beside the mean loss; the features have a standard deviation of 1."""
_MOST_PATCHES: Final = 4000
"""Of a slide that are fitted on, drawn once; all are judged."""
_STEPS: Final = 200
_THRESHOLDS: Final = np.linspace(0.05, 0.95, 37)
UM2_A_MM2: Final = 1e6


@dataclass(frozen=True)
class DrawnSlide:
    """A slide that somebody drew on, patch by patch.

    Attributes
    ----------
    name
        As it is shown; slides of one patient are held out together, see
        :attr:`herohe_model.dataset.cases.Case.owner`.
    features
        (n, dimension), float16 or float32.
    corners, size
        Upper left corners of the patches, (n, 2), int64, and their side; level-0 px.
    inside
        Share of each patch that lies in what was drawn, (n,), 0 to 1.
    drawn_px
        Area of what was drawn, level-0 px squared.
    mpp
        µm per level-0 px.
    """

    name: str
    features: NDArray[np.floating]
    corners: NDArray[np.int64]
    size: int
    inside: NDArray[np.float64]
    drawn_px: float
    mpp: float

    @property
    def owner(self) -> str:
        """Whose slide it is."""
        return Case("", case_id(self.name)).owner


def learn_probe(
    slides: Sequence[DrawnSlide],
    card: ProbeCard,
    *,
    seed: int = 0,
    begin: Callable[[int], None] = lambda fits: None,
    progress: Callable[[int], None] = lambda done: None,
    stop: Callable[[], bool] = lambda: False,
) -> Probe:
    """Fit a probe on all slides, and say in its card how those without each slide told it.

    Parameters
    ----------
    slides
        Of three patients and more.
    card
        Of the features; threshold and agreement are filled in.
    begin, progress
        Told how many fits there are, and how many are done.

    Raises
    ------
    OptionError
        If there are too few patients, or no patch lies outside or inside of what was drawn.
    CancelledError
        When `stop` said so.
    """
    owners = sorted({slide.owner for slide in slides})
    if len(owners) < FEWEST_SLIDES:
        raise OptionError(
            f"Slides of {len(owners)} patients have such annotations and features; it takes {FEWEST_SLIDES}",
            "Draw on more slides, everything of the class on each",
        )
    order = np.argsort(np.random.PCG64(seed).random_raw(len(owners)), kind="stable").tolist()
    fold_of = {owners[k]: place % _FOLDS for place, k in enumerate(order)}
    fold = np.array([fold_of[slide.owner] for slide in slides])
    begin(len(set(fold.tolist())) + 1)
    # Probabilities of each slide by a probe that knows none of its patient's.
    unseen: list[NDArray[np.float64]] = [np.empty(0)] * len(slides)
    for done, k in enumerate(sorted(set(fold.tolist()))):
        probe = _fit([slides[i] for i in np.flatnonzero(fold != k).tolist()], card, seed, stop)
        for i in np.flatnonzero(fold == k).tolist():
            unseen[i] = smoothed(slides[i].corners, slides[i].size, probe.probabilities(slides[i].features))
        progress(done + 1)
    found = []
    for i, slide in enumerate(slides):
        # The threshold that judges a slide is chosen without those of its fold.
        others = [j for j in range(len(slides)) if fold[j] != fold[i]]
        at = _best_threshold([slides[j] for j in others], [unseen[j] for j in others])
        chosen = unseen[i] >= at
        found.append(
            HeldOut(
                slide.name,
                round(_dice(slide, chosen), 4),
                round(_dice(slide, np.ones(len(chosen), dtype=np.bool_)), 4),
                round(slide.drawn_px * slide.mpp**2 / UM2_A_MM2, 4),
                round(float(chosen.sum()) * (slide.size * slide.mpp) ** 2 / UM2_A_MM2, 4),
            )
        )
    whole = _fit(slides, card, seed, stop)
    progress(len(set(fold.tolist())) + 1)
    whole.card = msgspec.structs.replace(
        card, threshold=_best_threshold(slides, unseen), held_out=tuple(found)
    )
    return whole


def _fit(slides: Sequence[DrawnSlide], card: ProbeCard, seed: int, stop: Callable[[], bool]) -> Probe:
    """Fit by L-BFGS, each slide counting alike, and on each its patches inside as much as those outside."""
    rows, truth, weights = [], [], []
    for number, slide in enumerate(slides):
        picked = np.arange(len(slide.inside))
        if len(picked) > _MOST_PATCHES:
            draws = np.random.default_rng([seed, number])
            picked = np.sort(draws.choice(len(picked), _MOST_PATCHES, replace=False, shuffle=False))
        # What an outline cuts in two teaches neither.
        picked = picked[(slide.inside[picked] > 0.75) | (slide.inside[picked] < 0.25)]
        yes = slide.inside[picked] > 0.5
        share = np.where(yes, 0.5 / max(1, yes.sum()), 0.5 / max(1, (~yes).sum()))
        rows.append(slide.features[picked].astype(np.float32))
        truth.append(yes)
        weights.append(share / len(slides))
    x, y, w = np.concatenate(rows), np.concatenate(truth), np.concatenate(weights)
    if not y.any() or y.all():
        raise OptionError(
            f"No patch lies {'inside' if not y.any() else 'outside'} of what was drawn",
            "A probe learns from both: take features of all tissue, and draw all that is of the class",
        )
    centre = x.mean(axis=0, dtype=np.float64)
    scale = np.maximum(x.std(axis=0, dtype=np.float64), 1e-6)
    standard = torch.from_numpy(((x - centre) / scale).astype(np.float32))
    target, share = torch.from_numpy(y.astype(np.float32)), torch.from_numpy(w.astype(np.float32))
    line = torch.zeros(x.shape[1] + 1, requires_grad=True)
    optimiser = torch.optim.LBFGS([line], max_iter=_STEPS, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        if stop():
            raise CancelledError("Learning regions was stopped")
        optimiser.zero_grad()
        z = standard @ line[:-1] + line[-1]
        each = torch.nn.functional.binary_cross_entropy_with_logits(z, target, reduction="none")
        total = (each * share).sum() + _PENALTY * line[:-1].square().sum()
        total.backward()  # type: ignore[no-untyped-call]  # torch's own is not typed
        return total

    optimiser.step(loss)  # type: ignore[no-untyped-call]  # torch's own is not typed
    fitted = line.detach().numpy().astype(np.float64)
    return Probe(card, centre, scale, fitted[:-1], float(fitted[-1]))


def _best_threshold(slides: Sequence[DrawnSlide], p: Sequence[NDArray[np.float64]]) -> float:
    """Return the threshold with the greatest mean Dice over slides."""
    means = [
        np.mean([_dice(slide, mine >= at) for slide, mine in zip(slides, p, strict=True)])
        for at in _THRESHOLDS
    ]
    return round(float(_THRESHOLDS[int(np.argmax(np.round(means, 9)))]), 4)


def _dice(slide: DrawnSlide, chosen: NDArray[np.bool_]) -> float:
    """Return the Dice coefficient of areas; patches do not overlap."""
    area = float(slide.size) ** 2
    both = 2 * float(slide.inside[chosen].sum()) * area
    whole = float(chosen.sum()) * area + slide.drawn_px
    return both / whole if whole else 0.0
