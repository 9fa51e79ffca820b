"""An evaluation as one HTML page that needs nothing else: no script, no network, light, dark and print."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from herohe_model.errors import OptionError
from herohe_model.evaluation import Abstention, Evaluation, Number
from herohe_model.evaluation_plots import plots
from herohe_model.grades import GRADES

_KEPT: Final = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
_WORST: Final = 12


def page(evaluation: Evaluation) -> str:
    """Return the page; the same evaluation gives the same bytes.

    Raises
    ------
    OptionError
        If Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ModuleNotFoundError as error:
        raise OptionError(
            "The page of an evaluation needs Jinja2, which is not installed",
            "Install it with: pip install 'herohe-bridge[train]'",
        ) from error
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "percent": _percent}
    source = files("herohe_model").joinpath("evaluation_page.html.j2").read_text(encoding="utf-8")
    wrong = [
        line
        for line in evaluation.lines
        if line.positive is not None and line.positive != line.called_positive
    ]
    return environment.from_string(source).render(
        e=evaluation,
        plots={name: Markup(svg) for name, svg in plots(evaluation).items()},
        grades=GRADES,
        kept=_kept(evaluation),
        wrong=sorted(wrong, key=lambda line: (-line.sureness, line.case))[:_WORST],
        wrong_count=len(wrong),
        row_sums=[sum(row) for row in evaluation.grade_confusion],
    )


def _kept(evaluation: Evaluation) -> list[Abstention]:
    """Return what is left after abstaining on about a tenth, two tenths... of the cases."""
    chosen: list[Abstention] = []
    for share in _KEPT:
        found = [a for a in evaluation.abstention if a.share <= share + 1e-9]
        if found and found[0] not in chosen:
            chosen.append(found[0])
    return chosen


def _number(value: Number, decimals: int = 3) -> str:
    return "–" if value is None else f"{value:.{decimals}f}"


def _percent(value: Number) -> str:
    return "–" if value is None else f"{100 * value:.0f}%"
