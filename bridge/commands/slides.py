"""``herohe-bridge slides``: files that are no slides yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click


def _tell(advance: Callable[[int], None], before: int, share: float) -> None:
    advance(before + round(100 * share))


@click.group("slides")
def command() -> None:
    """Make slides of pictures."""


@command.command("convert")
@click.argument("pictures", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder.")
@click.option("--mpp", required=True, type=click.FloatRange(0.01, 100), help="Scale of the pictures, µm/px.")
@click.option("--restart", is_flag=True, help="Convert what is there already, too.")
@click.pass_context
def convert(ctx: click.Context, pictures: tuple[Path, ...], output: Path, mpp: float, restart: bool) -> None:
    """Make a slide, a tiled pyramid, of each of PICTURES, files or folders: JPG, PNG, TIFF without tiles.

    They stay as they are. Nothing says how large a pixel of a picture is: --mpp has to.
    """
    from rich.console import Console

    from bridge.console.interrupt import until_interrupted
    from bridge.console.training_view import TrainingView
    from herohe_model.errors import CancelledError, HeroheError, OptionError
    from herohe_model.slides.pictures import CONVERTED, convert_picture

    files = [
        file
        for named in pictures
        for file in (sorted(named.iterdir()) if named.is_dir() else [named])
        if file.suffix.lower() in CONVERTED or file == named
    ]
    twice = [stem for stem, count in Counter(file.stem for file in files).items() if count > 1]
    if twice:
        raise OptionError(
            f"Several pictures would be one slide: {', '.join(twice[:5])}", "Give them names of their own"
        )
    made, known, failed = 0, 0, 0
    with until_interrupted() as stop, TrainingView(Console(stderr=True)) as view:
        view.begin("converting", 100 * len(files), "hundredths of a picture")
        for number, file in enumerate(files):
            slide = output / f"{file.stem}.tif"
            if stop():
                break
            if slide.exists() and not restart:
                known += 1
                continue
            try:
                told = partial(_tell, view.advance, 100 * number)
                convert_picture(file, slide, mpp=mpp, progress=told, stop=stop)
                made += 1
            except CancelledError:
                break
            except HeroheError as error:
                failed += 1
                view.say(f"{file.name}: {error}")
    click.echo(f"{made} converted, {known} known before, {failed} not; in {output}")
    if stop():
        click.echo("Stopped on request. Give the same command again to go on.")
    ctx.exit(int(bool(failed) or stop()))
