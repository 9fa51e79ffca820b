"""``herohe-bridge export``: a run's results for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.commands import model_option

if TYPE_CHECKING:
    from bridge.export.geojson import Coordinates

_FORMATS = ("csv", "parquet", "geojson", "anndata")


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "folder",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the files.",
)
@click.option(
    "--format",
    "formats",
    type=click.Choice(_FORMATS),
    multiple=True,
    help="Kind of file; may be repeated.  [default: csv]",
)
@click.option(
    "--coordinates",
    type=click.Choice(["qupath", "level0"]),
    default="qupath",
    show_default=True,
    help="Where GeoJSON counts from: the corner of what QuPath shows, or OpenSlide's.",
)
@click.option(
    "--features", is_flag=True, help="Also compute each sampled patch's features, as .npz; needs --model."
)
@click.option(
    "--feature-files",
    type=click.Path(path_type=Path, file_okay=False),
    help="Take the features of anndata from this folder; see features extract.  [default: contributions]",
)
@click.option("--model", type=model_option.model, help="The model that scored the run: a file, or a name.")
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="Where --features computes: auto, cpu, cuda[:n] or mps.",
)
@click.option(
    "--slides-root",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Look for the slides here, where they were moved.",
)
@click.pass_context
def command(
    ctx: click.Context,
    run: Path,
    folder: Path,
    formats: tuple[str, ...],
    coordinates: Coordinates,
    features: bool,
    feature_files: Path | None,
    model: Path | None,
    device: str,
    slides_root: Path | None,
) -> None:
    """Write the results of RUN, the output folder of a run of score, for other tools.

    Tables of slides, regions, composites and patches as CSV or Parquet; a GeoJSON file a slide with its
    sampled patches; AnnData (.h5ad) a slide, for scverse and LazySlide; a .npz file a slide with features and
    contributions. Research use only.
    """
    from bridge.export.geojson import export_geojson
    from bridge.export.tables import export_tables
    from bridge.results.run import find_run

    if features and model is None:
        raise click.UsageError("--features needs --model: features are computed by the model again.")
    if feature_files is not None and "anndata" not in formats:
        raise click.UsageError("--feature-files goes with --format anndata.")
    found = find_run(run, slides_root=slides_root)
    done = []
    for name in dict.fromkeys(formats or (() if features else ("csv",))):
        if name == "geojson":
            done.append(export_geojson(found, folder / "geojson", coordinates))
        elif name == "anndata":
            from bridge.export.anndata import export_anndata

            done.append(export_anndata(found, folder / "anndata", feature_files))
        elif name in ("csv", "parquet"):
            done.append(export_tables(found, folder, "csv" if name == "csv" else "parquet"))
    if features and model is not None:
        from bridge.export.features import export_features

        done.append(
            export_features(
                found,
                folder / "features",
                model,
                device=device,
                progress=lambda slide: click.echo(f"Features of {slide}", err=True),
            )
        )
    left_out = [pair for exported in done for pair in exported.left_out]
    for slide, reason in left_out:
        click.echo(f"Left out {slide}: {reason}", err=True)
    click.echo(f"Wrote {sum(len(exported.files) for exported in done)} files to {folder}")
    ctx.exit(int(bool(left_out)))
