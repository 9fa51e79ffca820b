"""Learning curves as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from herohe_model.errors import OptionError
from herohe_model.files import write_atomically
from herohe_model.training.run_folder import CURVES_NAME, log_series

_SMOOTHED_OVER: Final = 0.05
_SIZE_INCH: Final = (8.0, 6.0)
_DPI: Final = 100


def draw_curves(records: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Draw ``curves.png``: the loss of training and of held-out slides, and the learning rate.

    Parameters
    ----------
    records
        Lines of the run's log.

    Raises
    ------
    OptionError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OptionError(
            "Training draws its curves with matplotlib, which is not installed",
            'Install it with: pip install "herohe-bridge[train]"',
        ) from error
    steps, losses = log_series(records, "step", "loss")
    if not steps:
        return
    # A figure of its own: pyplot would keep it, and wants a display.
    figure = Figure(figsize=_SIZE_INCH, dpi=_DPI, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot(steps, losses, color="0.8", linewidth=0.8)
    above.plot(steps, _smoothed(losses), color="tab:blue", label="training, smoothed")
    seen, held_out = log_series(records, "validation", "loss")
    if seen:
        above.plot(seen, held_out, "o-", color="tab:orange", markersize=3, label="held-out slides")
    above.set_ylabel("mean cross entropy a bit")
    above.legend(frameon=False)
    below.plot(*log_series(records, "step", "lr"), color="0.4")
    below.set_ylabel("learning rate")
    below.set_xlabel("optimiser step")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(bottom=0)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    write_atomically(folder / CURVES_NAME, data.getvalue())


def _smoothed(values: Sequence[float]) -> list[float]:
    """Return a running mean over a share of the run."""
    width = max(1, round(_SMOOTHED_OVER * len(values)))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    means: list[float] = ((sums[ends] - sums[starts]) / (ends - starts)).tolist()
    return means
