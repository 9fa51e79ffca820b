"""Learning curves as a page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from markupsafe import Markup

from herohe_model.files import write_atomically
from herohe_model.pages.page import write_page
from herohe_model.pages.svg import Chart, ticks
from herohe_model.printable import printable_name
from herohe_model.training.run_folder import CURVES_NAME, log_series

_SMOOTHED_OVER: Final = 0.05
_DRAWN: Final = 800
"""Points of a line, at most: more than the picture is wide."""


def draw_curves(records: Sequence[Mapping[str, Any]], folder: Path, title: str = "") -> None:
    """Draw ``curves.html``: the loss of training and of held-out slides, and the learning rate.

    Parameters
    ----------
    records
        Lines of the run's log; without a step in them, nothing is drawn.
    title
        What is trained; "" for the folder's name.

    Raises
    ------
    WriteError
        If the page cannot be written.
    """
    steps, losses = log_series(records, "step", "loss")
    if not steps:
        return
    seen, held_out = log_series(records, "validation", "loss")
    smoothed = _smoothed(losses)
    loss = _chart("Loss by optimiser step", "mean cross entropy a bit", steps, [*smoothed, *held_out])
    loss.line(_thinned(steps, losses), "curve faint")
    loss.line(_thinned(steps, smoothed), "curve model", note="training, smoothed")
    if seen:
        loss.line(_thinned(seen, held_out), "curve second", note="held-out slides")
    for step, value in zip(seen, held_out, strict=True):
        loss.dot(step, value, "spot second", radius=3, note=f"held-out slides, step {step}: {value:.4f}")
    rates = log_series(records, "step", "lr")
    rate = _chart("Learning rate by optimiser step", "learning rate", steps, rates[1], height=180)
    rate.line(_thinned(*rates), "curve model")
    context = {
        "title": printable_name(title or folder.resolve().name),
        "step": steps[-1],
        "loss": Markup(loss.svg()),
        "rate": Markup(rate.svg()),
        "last": smoothed[-1],
        "held_out": held_out[-1] if seen else None,
    }
    page = io.StringIO()
    write_page(page, "curves.html", context, package="herohe_model.pages", styles=("charts.css",))
    write_atomically(folder / CURVES_NAME, page.getvalue().encode())


def _chart(title: str, y: str, steps: Sequence[int], values: Sequence[float], height: int = 340) -> Chart:
    """Return an empty chart over the steps, from zero to the largest of the values."""
    top = 1.05 * max(values, default=0.0) or 1.0
    right = max(steps[-1], 1)
    chart = Chart(title, x=(0, right), y=(0, top), width=900, height=height, margins=(74, 12, 16, 46))
    chart.x_axis("optimiser step", [(tick, f"{tick:g}") for tick in ticks(0, right, 8)])
    chart.y_axis(y, [(tick, f"{tick:g}") for tick in ticks(0, top)])
    return chart


def _thinned(steps: Sequence[int], values: Sequence[float]) -> list[tuple[float, float]]:
    """Return points evenly chosen of a long series, the last one among them."""
    every = -(-len(steps) // _DRAWN) or 1
    points = list(zip(steps, values, strict=True))
    return [*points[:-1:every], *points[-1:]]


def _smoothed(values: Sequence[float]) -> list[float]:
    """Return a running mean over a share of the run."""
    width = max(1, round(_SMOOTHED_OVER * len(values)))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    means: list[float] = ((sums[ends] - sums[starts]) / (ends - starts)).tolist()
    return means
