"""Options that spread slides over a dask cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.commands.option_groups import option_group

if TYPE_CHECKING:
    from bridge.cluster.connect import ClusterAddress
    from bridge.scoring.job import SlidesElsewhere


@dataclass(frozen=True)
class Cluster:
    """A cluster, and where its workers find the slides; None: where they are here."""

    address: ClusterAddress
    slides: SlidesElsewhere | None


def _slides_elsewhere(_: click.Context, __: click.Parameter, value: str | None) -> SlidesElsewhere | None:
    """Read HERE=THERE."""
    if value is None:
        return None
    from bridge.scoring.job import SlidesElsewhere

    here, equals, there = value.partition("=")
    if not (here and equals and there):
        raise click.BadParameter(f"{value!r} is not of the form HERE=THERE.")
    return SlidesElsewhere(Path(here), there)


def _cluster(
    dask: str | None,
    dask_slides: SlidesElsewhere | None,
    dask_tls_ca: Path | None,
    dask_tls_cert: Path | None,
    dask_tls_key: Path | None,
) -> Cluster | None:
    if dask is None:
        if any((dask_slides, dask_tls_ca, dask_tls_cert, dask_tls_key)):
            raise click.UsageError("The options --dask-... go with --dask.")
        return None
    from bridge.cluster.connect import ClusterAddress

    return Cluster(ClusterAddress(dask, dask_tls_ca, dask_tls_cert, dask_tls_key), dask_slides)


cluster_options = option_group(
    "cluster",
    _cluster,
    click.option(
        "--dask",
        metavar="SCHEDULER",
        help="Spread slides over this dask cluster: tcp://HOST:PORT, tls://HOST:PORT or a scheduler file.",
    ),
    click.option(
        "--dask-slides",
        callback=_slides_elsewhere,
        metavar="HERE=THERE",
        help="Slides below the folder HERE lie below THERE on the cluster's workers.",
    ),
    click.option(
        "--dask-tls-ca", type=click.Path(path_type=Path), help="Certificate of the cluster's authority."
    ),
    click.option("--dask-tls-cert", type=click.Path(path_type=Path), help="Your own certificate."),
    click.option("--dask-tls-key", type=click.Path(path_type=Path), help="Its key."),
)
"""Gives a command ``cluster``, a :class:`Cluster`, or None without --dask."""
