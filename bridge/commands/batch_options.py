"""Options that say what is done with each slide, of the commands that take many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from bridge.commands.option_groups import option_group

if TYPE_CHECKING:
    from bridge.batch.options import BatchOptions
    from bridge.scoring.options import Tiles


def _threshold(_: click.Context, __: click.Parameter, value: str | None) -> float | str | None:
    """Read a number from 0 to 1, or ``otsu``."""
    if value is None or value == "otsu":
        return value
    try:
        share = float(value)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise click.BadParameter(f"{value!r} is neither a number from 0 to 1 nor 'otsu'.")
    return share


def _composite_count(_: click.Context, __: click.Parameter, value: str) -> int | None:
    """Read a number, or ``all`` as None."""
    if value == "all":
        return None
    try:
        return int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor 'all'.") from None


REGION_CLASSES: Final = (
    click.option(
        "--region-class",
        "region_classes",
        multiple=True,
        metavar="CLASS",
        help="Sample inside annotations of this class; may be repeated. Without it, the whole slide.",
    ),
    click.option(
        "--exclude-class",
        "exclude_classes",
        multiple=True,
        metavar="CLASS",
        help="Cut these annotations out.",
    ),
)
_PER_ANNOTATION = click.option(
    "--per-annotation", is_flag=True, help="Also sample and score each annotation for itself."
)
_DRAWING = (
    click.option(
        "--composites",
        callback=_composite_count,
        default="8",
        show_default=True,
        metavar="N|all",
        help="Composites a region; all: as many as hold every foreground patch.",
    ),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the sampler."),
    click.option(
        "--min-patches",
        type=click.IntRange(1),
        default=10,
        show_default=True,
        help="Fewest foreground patches that a region is scored from.",
    ),
)
_PATCHES = (
    click.option(
        "--min-coverage",
        type=click.FloatRange(0, 1, min_open=True),
        default=0.5,
        show_default=True,
        help="Share of a patch that a region must cover.",
    ),
    click.option("--mpp", type=click.FloatRange(0.01, 100), help="µm per pixel, overriding the slides' own."),
    click.option(
        "--artefacts",
        type=click.Choice(["leave-out", "mark", "ignore"]),
        default="leave-out",
        show_default=True,
        help="What is done about patches of pen, blood, folds, edges and the like.",
    ),
    click.option(
        "--foreground-threshold",
        callback=_threshold,
        metavar="SHARE|otsu",
        help="Least mean saturation of a patch.  [default: the model's, or 0.07]",
    ),
    click.option(
        "--symmetries",
        is_flag=True,
        help="Score each composite in all eight positions of the square: eight times the work.",
    ),
    click.option(
        "--strict", is_flag=True, help="Refuse slides whose stain is unlike all that the model learned from."
    ),
    click.option("--any-stain", is_flag=True, help="Score slides that do not seem to be H&E, too."),
    click.option(
        "--exact-foreground", is_flag=True, help="Find the foreground at level 0 (slow; for checking)."
    ),
)
_WRITING = (
    click.option(
        "--tiles",
        type=click.Choice(["sampled", "all", "none"]),
        default="sampled",
        show_default=True,
        help="Which foreground patches are written as tiles.",
    ),
    click.option("--no-classify", is_flag=True, help="Leave the annotations' classes alone."),
)
_SLIDES_AT_ONCE = click.option(
    "--slides-at-once",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    help="Slides that are read and scored at a time.",
)


def _batch(
    region_classes: tuple[str, ...],
    exclude_classes: tuple[str, ...],
    slides_at_once: int,
    tiles: Tiles = "sampled",
    no_classify: bool = False,
    **sampling: Any,
) -> BatchOptions:
    from bridge.batch.options import BatchOptions
    from bridge.scoring.options import ScoreOptions, WriteOptions

    return BatchOptions(
        region_classes=region_classes,
        exclude_classes=exclude_classes,
        score=ScoreOptions(**sampling, keep_unsampled=tiles == "all"),
        write=WriteOptions(tiles=tiles, classify=not no_classify),
        slides_at_once=slides_at_once,
    )


batch_options = option_group(
    "options", _batch, *REGION_CLASSES, _PER_ANNOTATION, *_DRAWING, *_PATCHES, *_WRITING, _SLIDES_AT_ONCE
)
"""Gives a command ``options``, a :class:`~bridge.batch.run.BatchOptions`."""

read_only_batch_options = option_group(
    "options", _batch, *REGION_CLASSES, *_DRAWING, *_PATCHES, _SLIDES_AT_ONCE
)
"""The same for a command that writes nothing into the slides' collection and scores slides as wholes."""

patch_options = option_group("options", _batch, *REGION_CLASSES, *_PATCHES, _SLIDES_AT_ONCE)
"""The same for a command that takes every foreground patch, and draws none."""
