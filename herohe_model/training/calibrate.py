"""Calibration and calls, chosen on what an ensemble says of cases that none of its networks has seen.

With nested folds every case has as many such networks as the shipped ensemble has members: the one of the
fold that holds it out, and those trained without this fold and another one. Their mean logit is to the case
what the shipped mean is to a new slide, so a line fitted on it (Platt 1999) holds for what is shipped; one
fitted on single networks would be too flat for their mean, in which their errors cancel out.

What is said of all this is cross-fitted: each fold's cases get the line and the thresholds of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from herohe_model.dataset.cases import Case, target_arrays
from herohe_model.errors import OptionError
from herohe_model.evaluation.decisions import call_rates
from herohe_model.grades import Target
from herohe_model.model.calibration import CallRule, Floats, Platt, sigmoid, slide_logit
from herohe_model.training.options import CallOptions

FEWEST: Final = 5
"""Cases that must reach a step, and that must not, before it is calibrated."""

_STEPS: Final = 100
_TINY: Final = 1e-9
_DECIMALS: Final = 6


@dataclass(frozen=True)
class UnseenLogits:
    """What networks say of cases that none of them has seen.

    Attributes
    ----------
    logits
        Of each case, shape (composites, members, bits), highest step first.
    folds
        The number of the fold that holds a case out, shape (cases,).
    """

    cases: tuple[Case, ...]
    logits: tuple[Floats, ...]
    folds: NDArray[np.int64]
    target: Target

    @property
    def positive_bit(self) -> int:
        """Index of the step that is read as HER2-positive."""
        return self.target.steps.index(self.target.default_positive_step)


def learned_steps(cases: Sequence[Case], target: Target, *, fewest: int = 1) -> tuple[str, ...]:
    """Return the steps that at least so many cases are known to reach, and as many not to reach."""
    bits, known = target_arrays(cases, target)
    reached, missed = (bits * known).sum(axis=0), ((1 - bits) * known).sum(axis=0)
    enough = np.minimum(reached, missed) >= fewest
    return tuple(step for step, yes in zip(target.steps, enough.tolist(), strict=True) if yes)


def fit_line(logits: ArrayLike, truth: ArrayLike) -> tuple[float, float]:
    """Return slope and intercept of Platt's line; the slope is never negative.

    Parameters
    ----------
    logits, truth
        Shape (cases,); `truth` holds both answers.

    Notes
    -----
    Targets are Platt's, (n+ + 1) / (n+ + 2) and 1 / (n- + 2), so that separable cases have a finite line.
    """
    z, reached = np.asarray(logits, dtype=np.float64), np.asarray(truth, dtype=np.bool_)
    yes, no = int(reached.sum()), int((~reached).sum())
    targets = np.where(reached, (yes + 1) / (yes + 2), 1 / (no + 2))
    found = _logistic(np.stack([z, np.ones_like(z)], axis=1), targets)
    if found is not None and found[0] > 0:
        return float(found[0]), float(found[1])
    # The best line that does not fall is level.
    share = float(targets.mean())
    return 0.0, float(np.log(share / (1 - share)))


def calibration_slope(truth: ArrayLike, p: ArrayLike) -> tuple[float, float] | None:
    """Return calibration slope and intercept of probabilities; 1 and 0 are ideal.

    The intercept is that of a line with the slope 1: calibration in the large. None where they are not
    defined, as when all cases are told apart.

    Notes
    -----
    Cox 1958, *Two further applications of a model for binary regression*; Van Calster et al. 2016, *A
    calibration hierarchy for risk models was defined*.
    """
    q = np.clip(np.asarray(p, dtype=np.float64), _TINY, 1 - _TINY)
    z, y = np.log(q / (1 - q)), np.asarray(truth, dtype=np.float64)
    if not 0 < y.sum() < len(y) or z[y == 1].min() > z[y == 0].max() or z[y == 1].max() < z[y == 0].min():
        return None
    line = _logistic(np.stack([z, np.ones_like(z)], axis=1), y)
    level = _logistic(np.ones((len(z), 1)), y, offset=z)
    return None if line is None or level is None else (float(line[0]), float(level[0]))


def _logistic(columns: Floats, targets: Floats, offset: Floats | None = None) -> Floats | None:
    """Fit a logistic regression by Newton's method; None where it does not converge."""
    beta = np.zeros(columns.shape[1])
    base = np.zeros(len(columns)) if offset is None else offset

    def loss(b: Floats) -> float:
        z = base + columns @ b
        return float((np.logaddexp(0.0, z) - targets * z).sum())

    for _ in range(_STEPS):
        p = sigmoid(base + columns @ beta)
        gradient = columns.T @ (p - targets)
        hessian = (columns * (p * (1 - p))[:, None]).T @ columns
        try:
            step = np.linalg.solve(hessian, gradient)
        except np.linalg.LinAlgError:
            return None
        now = loss(beta)
        while np.abs(step).max() > _TINY and not loss(beta - step) <= now:
            step = step / 2
        beta = beta - step
        if not np.isfinite(beta).all() or np.abs(beta).max() > 1000.0:
            return None
        if np.abs(step).max() < 1e-8:
            return beta
    return None


@dataclass(frozen=True)
class Calibrated:
    """A calibration, and what it makes of the cases that it was fitted on, each by the lines of other folds.

    Attributes
    ----------
    steps
        Those that are calibrated, highest first.
    lines
        Of all cases together: what is shipped.
    held_out
        Cross-fitted probabilities, shape (cases, steps), not put into order.
    """

    steps: tuple[str, ...]
    lines: dict[str, Platt]
    held_out: Floats


def calibrate(unseen: UnseenLogits) -> Calibrated:
    """Fit a line for each step that enough cases are known to reach and not to reach.

    Raises
    ------
    OptionError
        If the step that is read as HER2-positive is none of these.
    """
    steps = learned_steps(unseen.cases, unseen.target, fewest=FEWEST)
    positive = unseen.target.default_positive_step
    if positive not in steps:
        raise OptionError(
            f"Fewer than {FEWEST} cases are known to be HER2-positive, or HER2-negative",
            "A calibration needs more of both",
        )
    bits, known = target_arrays(unseen.cases, unseen.target)
    means = np.array([z.mean(axis=(0, 1)) for z in unseen.logits])
    lines: dict[str, Platt] = {}
    held_out = np.empty((len(unseen.cases), len(steps)))
    for column, step in enumerate(steps):
        k = unseen.target.steps.index(step)
        reached, sure, z = bits[:, k] == 1, known[:, k], means[:, k]
        held_out[:, column] = _cross_fitted(z, reached, sure, unseen.folds)
        slope, intercept = fit_line(z[sure], reached[sure])
        said = calibration_slope(reached[sure], held_out[sure, column])
        lines[step] = Platt(
            slope=round(slope, _DECIMALS),
            intercept=round(intercept, _DECIMALS),
            cases=int(sure.sum()),
            reached=int(reached[sure].sum()),
            held_out_slope=None if said is None else round(said[0], _DECIMALS),
            held_out_intercept=None if said is None else round(said[1], _DECIMALS),
        )
    return Calibrated(steps, lines, held_out)


def _cross_fitted(
    z: Floats, reached: NDArray[np.bool_], known: NDArray[np.bool_], folds: NDArray[np.int64]
) -> Floats:
    """Return probabilities of each fold's cases by the line of the others."""
    p = np.empty(len(z))
    for fold in np.unique(folds).tolist():
        others = known & (folds != fold)
        # Where the others know one answer alone, all cases must do.
        used = others if len(np.unique(reached[others])) == 2 else known
        slope, intercept = fit_line(z[used], reached[used])
        p[folds == fold] = sigmoid(slope * z[folds == fold] + intercept)
    return p


@dataclass(frozen=True)
class Spread:
    """P(positive) of cases with the logit moved down and up by the margin; shape (cases,) each."""

    low: Floats
    high: Floats

    def take(self, which: NDArray[np.bool_]) -> Spread:
        """Return some of them."""
        return Spread(self.low[which], self.high[which])


def spread_of(unseen: UnseenLogits, line: Platt, margin: float) -> Spread:
    """Return the ends of each case's spread, as scoring has them."""
    found = [slide_logit(z[..., unseen.positive_bit]) for z in unseen.logits]
    value, error = np.array([f.value for f in found]), np.array([f.error for f in found])

    def p(z: Floats) -> Floats:
        return np.round(sigmoid(line.slope * z + line.intercept), _DECIMALS)

    return Spread(p(value - margin * error), p(value + margin * error))


def choose_call(unseen: UnseenLogits, line: Platt, options: CallOptions) -> CallRule:
    """Choose both thresholds of the call, and say what they do to cases of other folds.

    Parameters
    ----------
    line
        Of P(positive), fitted on all cases.

    Notes
    -----
    The threshold of a sensitivity leaves so many of n positive cases out that a new one is among the left-out
    with a chance of at most 1 - sensitivity: (m + 1) / (n + 1) for m of them (Vovk et al. 2005, *Algorithmic
    Learning in a Random World*: conformal prediction, a class at a time); likewise for the specificity. With
    too few cases for that, nothing is called. The spread moves a logit before it is compared, here as in
    scoring, so the rates are those of the moved logits. Where both thresholds would cross, they meet halfway.
    """
    statuses = np.array([-1 if c.positive is None else int(c.positive) for c in unseen.cases])
    known = statuses >= 0
    truth, folds = statuses[known] == 1, unseen.folds[known]
    spread = spread_of(unseen, line, options.margin).take(known)
    below, above, words = _thresholds(spread, truth, options)
    called = np.empty(len(truth), dtype=object)
    for fold in np.unique(folds).tolist():
        mine = folds == fold
        if len(np.unique(truth[~mine])) == 2:
            own_below, own_from, _ = _thresholds(spread.take(~mine), truth[~mine], options)
        else:
            own_below, own_from = below, above
        rule = CallRule(
            positive_above=own_from, negative_below=own_below, positive_chosen="", negative_chosen=""
        )
        ends = zip(spread.low[mine].tolist(), spread.high[mine].tolist(), strict=True)
        called[mine] = [rule.call(low, high) for low, high in ends]
    return CallRule(
        positive_above=above,
        negative_below=below,
        margin=options.margin,
        positive_chosen=words[1],
        negative_chosen=words[0],
        prevalence=options.prevalence,
        out_of_fold=call_rates(truth, called, options.prevalence),
    )


def _thresholds(
    spread: Spread, truth: NDArray[np.bool_], options: CallOptions
) -> tuple[float, float, tuple[str, str]]:
    """Return negative_below, positive_above, and how each was chosen."""
    below = _rule_out(spread.high[truth], spread.high[~truth], options.sensitivity, options.npv, options)
    # Ruling in is ruling out with both classes, and the scale, turned round.
    turned = _rule_out(
        1 - spread.low[~truth], 1 - spread.low[truth], options.specificity, options.ppv, options, turned=True
    )
    above = round(1 - turned, _DECIMALS)
    if below > above:
        below = above = round((below + above) / 2, _DECIMALS)
    counts = f"{len(truth)} cases that no network had seen, {int(truth.sum())} of them positive"
    out = f"sensitivity of at least {options.sensitivity:g}"
    if options.npv is not None:
        out = f"NPV of at least {options.npv:g} at a prevalence of {options.prevalence:g}"
    into = f"specificity of at least {options.specificity:g}"
    if options.ppv is not None:
        into = f"PPV of at least {options.ppv:g} at a prevalence of {options.prevalence:g}"
    how = f"with the logit {options.margin:g} standard errors of members and composites"
    return (
        below,
        above,
        (
            f"likely negative below {below:g}: {out}, {how} higher, on {counts}",
            f"likely positive above {above:g}: {into}, {how} lower, on {counts}",
        ),
    )


def _rule_out(
    wanted: Floats,
    others: Floats,
    sensitivity: float,
    predictive: float | None,
    options: CallOptions,
    *,
    turned: bool = False,
) -> float:
    """Return the greatest threshold below which few enough of `wanted` lie; 0 where none will do."""
    wanted = np.sort(wanted)
    missed = (np.arange(len(wanted)) + 1) / (len(wanted) + 1)
    if predictive is None or options.prevalence is None:
        allowed = missed <= 1 - sensitivity + _TINY
    else:
        at = 1 - options.prevalence if turned else options.prevalence
        cleared = np.array([(others < t).mean() for t in wanted.tolist()])
        gained = (1 - at) * cleared
        allowed = gained >= predictive * (gained + at * missed) - _TINY
        allowed &= cleared > 0
    return float(wanted[np.flatnonzero(allowed)[-1]]) if allowed.any() else 0.0
