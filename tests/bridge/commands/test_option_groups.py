from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from bridge.batch.options import BatchOptions
from bridge.cluster.connect import ClusterAddress
from bridge.commands.batch_options import batch_options, patch_options, read_only_batch_options
from bridge.commands.cluster_options import Cluster, cluster_options
from bridge.commands.option_groups import Decorator
from bridge.commands.predict import command as predict
from bridge.commands.score import command as score
from bridge.commands.training_options import fold_options, resource_options, training_options
from bridge.scoring.job import SlidesElsewhere
from bridge.scoring.options import ScoreOptions, WriteOptions
from herohe_model.errors import OptionError
from herohe_model.training.cross_validation import FoldPlan
from herohe_model.training.options import AugmentOptions, TrainOptions
from herohe_model.training.step import Resources

_SAMPLING = (
    *("--region-class", "a", "--region-class", "b", "--exclude-class", "c", "--composites", "all"),
    *("--seed", "3", "--min-patches", "4", "--min-coverage", "0.25", "--mpp", "0.5", "--exact-foreground"),
    *("--any-stain", "--symmetries", "--slides-at-once", "5"),
)
_SCORE = ScoreOptions(
    composites=None,
    seed=3,
    min_patches=4,
    min_coverage=0.25,
    mpp=0.5,
    exact_foreground=True,
    any_stain=True,
    symmetries=True,
)


def value_of(group: Decorator, *arguments: str) -> object:
    """Return what a group makes of a command line."""

    def command(**given: Any) -> object:
        (value,) = given.values()
        return value

    return click.command(group(command)).main(arguments, standalone_mode=False)


@pytest.mark.parametrize(
    ("group", "default"),
    [
        (batch_options, BatchOptions()),
        (read_only_batch_options, BatchOptions()),
        (patch_options, BatchOptions()),
        (cluster_options, None),
        (fold_options, FoldPlan()),
        (training_options, TrainOptions()),
        (resource_options, Resources()),
    ],
)
def test_a_group_without_options_makes_the_defaults_of_its_value(group: Decorator, default: object) -> None:
    assert value_of(group) == default


def test_every_option_reaches_the_batch() -> None:
    batch = BatchOptions(("a", "b"), ("c",), _SCORE, WriteOptions(), slides_at_once=5)
    assert value_of(read_only_batch_options, *_SAMPLING) == batch
    more = ("--per-annotation", "--tiles", "none", "--no-classify")
    written = value_of(batch_options, *_SAMPLING, *more)
    assert isinstance(written, BatchOptions)
    assert written.score.per_annotation and written.write == WriteOptions("none", classify=False)


def test_all_tiles_are_written_only_if_scoring_keeps_them() -> None:
    batch = value_of(batch_options, "--tiles", "all")
    assert batch == BatchOptions(score=ScoreOptions(keep_unsampled=True), write=WriteOptions("all"))


@pytest.mark.parametrize("composites", ["0", "10001"])
def test_a_number_of_composites_that_nobody_can_draw_is_refused(composites: str) -> None:
    with pytest.raises(OptionError, match="Ask for 1 to 10000, or all"):
        value_of(read_only_batch_options, "--composites", composites)


def test_every_option_reaches_the_cluster() -> None:
    tls = ("--dask-tls-ca", "ca", "--dask-tls-cert", "cert", "--dask-tls-key", "key")
    address = ClusterAddress("tls://h:1", Path("ca"), Path("cert"), Path("key"))
    cluster = value_of(cluster_options, "--dask", "tls://h:1", "--dask-slides", "/a=/b", *tls)
    assert cluster == Cluster(address, SlidesElsewhere(Path("/a"), "/b"))


def test_folds_are_stratified_by_laboratory_or_none() -> None:
    assert value_of(fold_options, "--folds", "3") == FoldPlan("folds", 3)
    assert value_of(fold_options, "--folds", "0") == FoldPlan("none")
    assert value_of(fold_options, "--leave-one-laboratory-out") == FoldPlan("laboratories")
    with pytest.raises(click.UsageError, match="One fold"):
        value_of(fold_options, "--folds", "1")


def test_what_is_given_changes_training_and_the_rest_stays() -> None:
    options = value_of(training_options, "--lr", "0.1", "--stain", "0", "--no-pretrained", "--seed", "0")
    assert options == TrainOptions(lr=0.1, augment=AugmentOptions(stain=0.0), pretrained=False)
    resources = value_of(resource_options, "--workers", "2", "--preload")
    assert resources == Resources(workers=2, ahead=8, preload=True)


def test_an_option_of_predict_means_what_it_means_for_score() -> None:
    theirs = {option.name: option.to_info_dict() for option in score.params}
    ours = {option.name: option.to_info_dict() for option in predict.params}
    own = {"slides", "features", "model", "output", "misspelt_header"}
    assert len(ours) > 12
    assert {name: info for name, info in ours.items() if name not in own} == {
        name: theirs[name] for name in ours if name not in own
    }
