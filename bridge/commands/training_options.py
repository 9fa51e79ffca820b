"""Options of training: the slides and labels, the folds, what decides the weights, and how to compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from bridge.commands.batch_options import REGION_CLASSES
from bridge.commands.executing import MPP_TABLE
from bridge.commands.option_groups import option_group

if TYPE_CHECKING:
    from bridge.console.training_view import TrainingView
    from herohe_model.dataset.labels import Labels
    from herohe_model.dataset.matching import Matching
    from herohe_model.model.card import Pooling
    from herohe_model.training.bag_loop import BagOptions
    from herohe_model.training.cross_validation import FoldPlan
    from herohe_model.training.options import CallOptions, TrainOptions
    from herohe_model.training.step import Resources


MATCHING_NAME: Final = "slides-and-labels.csv"
_SHOWN: Final = 10
"""Lines of what does not match that are shown; the file has them all."""


@dataclass(frozen=True)
class DataOptions:
    """What a model is trained on.

    Attributes
    ----------
    label_files, split
        Tables of cases, and the split of theirs that is used.
    region_classes, exclude_classes
        As in :class:`~bridge.batch.run.BatchOptions`.
    slides_root
        Where to look for moved slides.
    mpp_table
        Scales of slides of a folder.
    skip_unusable
        Leave out slides that cannot be used, instead of refusing all.
    """

    label_files: tuple[Path, ...]
    split: str
    region_classes: tuple[str, ...]
    exclude_classes: tuple[str, ...]
    slides_root: Path | None
    mpp_table: Path | None
    skip_unusable: bool


data_options = option_group(
    "data",
    DataOptions,
    click.option(
        "--labels",
        "label_files",
        multiple=True,
        required=True,
        type=click.Path(path_type=Path, dir_okay=False),
        help="HEROHE's label file, or a table with the columns case, ihc, ish, status, laboratory, split; "
        "may be repeated.",
    ),
    click.option("--split", default="train", show_default=True, help="Train on this split of the labels."),
    *REGION_CLASSES,
    MPP_TABLE,
    click.option("--slides-root", type=click.Path(path_type=Path), help="Look for moved slides here."),
    click.option("--skip-unusable", is_flag=True, help="Leave out slides that cannot be used, by name."),
)
"""Gives a command ``data``, a :class:`DataOptions`."""


def read_split(files: tuple[Path, ...], split: str, view: TrainingView) -> Labels:
    """Read the labels, say their warnings, and refuse them where no case is of the split."""
    from herohe_model.dataset.labels import read_label_files
    from herohe_model.errors import OptionError

    labels = read_label_files((file, split) for file in files)
    for warning in labels.warnings:
        view.say(f"Warning: {warning}")
    if not labels.of_split(split):
        there = ", ".join(sorted({case.split for case in labels.cases})) or "none"
        raise OptionError(f"The labels have no case of the split {split}", f"They have {there}: use --split")
    return labels


def match_labels(
    labels: Labels, names: Sequence[str], split: str, view: TrainingView, file: Path | None
) -> Matching:
    """Match slides to the cases of a split; say what has no counterpart, and write all of it into `file`."""
    from herohe_model.dataset.matching import match_slides
    from herohe_model.files import write_atomically

    matching = match_slides(labels.cases, names, split=split, labels=labels.rows)
    if matching.unmatched:
        for line in matching.lines(_SHOWN):
            view.say(line)
    if file is not None:
        write_atomically(file, matching.table(names, labels.rows))
    return matching


@dataclass(frozen=True)
class BagChoice:
    """What is asked of a bag model, beside the options that it shares with the composite's training.

    Attributes
    ----------
    features
        Folders of files of features; none to train on slides.
    pooling, width, patches
        As in :class:`~herohe_model.training.bag_loop.BagOptions`.
    compare
        What candidates differ in: ``features``, ``pooling``, ``head``; nothing to train one model.
    """

    features: tuple[Path, ...]
    pooling: Pooling
    width: int
    patches: int
    compare: tuple[str, ...]

    def options(self, shared: TrainOptions) -> BagOptions:
        """Return all options of the training."""
        from herohe_model.training.bag_loop import BagOptions

        return BagOptions(
            pooling=self.pooling,
            width=self.width,
            patches=self.patches,
            head=shared.head,
            target=shared.target,
            min_patches=shared.min_patches,
            epochs=shared.epochs,
            batch=shared.batch,
            lr=shared.lr,
            weight_decay=shared.weight_decay,
            seed=shared.seed,
        )


bag_options = option_group(
    "bag",
    BagChoice,
    click.option(
        "--features",
        multiple=True,
        type=click.Path(path_type=Path, file_okay=False),
        help="Train a bag model on the features in this folder instead of on slides; repeated with --compare "
        "features.",
    ),
    click.option(
        "--pooling",
        type=click.Choice(["attention", "mean"]),
        default="attention",
        show_default=True,
        help="How a bag model pools patches.",
    ),
    click.option(
        "--width",
        type=click.IntRange(1, 4096),
        default=128,
        show_default=True,
        help="Numbers of a patch after a bag model's own layer.",
    ),
    click.option(
        "--patches",
        type=click.IntRange(1),
        default=512,
        show_default=True,
        help="Most patches of a slide that a step of a bag model's training sees; predictions see all.",
    ),
    click.option(
        "--compare",
        multiple=True,
        type=click.Choice(["features", "pooling", "head"]),
        help="Train a bag model with each --features, both poolings or both heads, on the same folds, and "
        "keep the best; repeated, with each combination.",
    ),
)
"""Gives a command ``bag``, a :class:`BagChoice`."""


def _plan(folds: int, folds_by_id: bool, leave_one_laboratory_out: bool, nested: bool) -> FoldPlan:
    from herohe_model.training.cross_validation import FoldPlan

    if folds_by_id and leave_one_laboratory_out:
        raise click.UsageError("Choose one of --folds-by-id and --leave-one-laboratory-out.")
    if leave_one_laboratory_out:
        return FoldPlan("laboratories", nested=nested)
    if folds == 0:
        return FoldPlan("none")
    if folds == 1:
        raise click.UsageError("One fold holds out everything: ask for 2 or more, or 0 to train on all.")
    return FoldPlan("id blocks" if folds_by_id else "folds", folds, nested=nested)


fold_options = option_group(
    "plan",
    _plan,
    click.option(
        "--folds",
        type=click.IntRange(0),
        default=5,
        show_default=True,
        help="Stratified folds, a network each; 0 trains once on all slides and chooses no threshold.",
    ),
    click.option("--folds-by-id", is_flag=True, help="Hold out blocks of neighbouring case IDs instead."),
    click.option("--leave-one-laboratory-out", is_flag=True, help="Hold out one laboratory a fold instead."),
    click.option(
        "--nested/--no-nested",
        default=True,
        show_default=True,
        help="Also train without each two of three folds or more, to calibrate what is shipped: with five "
        "folds two and a half times the work. Without it, neither a calibration nor a call is claimed.",
    ),
)
"""Gives a command ``plan``, a :class:`~herohe_model.training.cross_validation.FoldPlan`."""


def _call(**goals: float | None) -> CallOptions:
    import msgspec

    from herohe_model.errors import OptionError
    from herohe_model.training.options import CallOptions

    names = {f"call_{name}": name for name in ("sensitivity", "specificity", "npv", "ppv", "margin")}
    given = {names.get(key, key): value for key, value in goals.items() if value is not None}
    try:
        return msgspec.convert(given, CallOptions)
    except msgspec.ValidationError as error:
        raise OptionError(
            f"The call's options are not valid: {error}", "See herohe-bridge train --help"
        ) from error


_SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)

call_options = option_group(
    "call",
    _call,
    click.option(
        "--call-sensitivity",
        type=_SHARE,
        show_default="0.95",
        help="Share of positive slides that may not be called likely negative.",
    ),
    click.option(
        "--call-specificity",
        type=_SHARE,
        show_default="0.95",
        help="Share of negative slides that may not be called likely positive.",
    ),
    click.option("--call-npv", type=_SHARE, help="Predictive value of likely negative to reach, instead."),
    click.option("--call-ppv", type=_SHARE, help="Predictive value of likely positive to reach, instead."),
    click.option(
        "--prevalence", type=_SHARE, help="Share of HER2-positive slides where the model will be used."
    ),
    click.option(
        "--call-margin",
        type=click.FloatRange(0, 10),
        show_default="1",
        help="Standard errors of members and composites that a call must withstand.",
    ),
)
"""Gives a command ``call``, a :class:`~herohe_model.training.options.CallOptions`."""


def _decides(*names: str, default: str, **settings: Any) -> Callable[[Any], Any]:
    """Make an option of :class:`~herohe_model.training.options.TrainOptions`; None leaves its default.

    `default` is for ``--help`` alone, so that help needs no PyTorch; a test compares both.
    """
    return click.option(*names, show_default=default, **settings)


def _training(**decided: Any) -> TrainOptions:
    import msgspec

    from herohe_model.training.options import AugmentOptions, TrainOptions

    given = {key: value for key, value in decided.items() if value is not None}
    augment = {key: given.pop(key) for key in ("stain", "colour", "blur", "jpeg", "scale") if key in given}
    changed = msgspec.structs.replace(AugmentOptions(), **augment)
    return msgspec.structs.replace(TrainOptions(augment=changed), **given)


training_options = option_group(
    "options",
    _training,
    _decides("--backbone", default="resnet18", help="Any architecture of timm."),
    _decides(
        "--head",
        default="ordered",
        type=click.Choice(["free", "ordered"]),
        help="Whether a higher step can never be likelier than a lower one, or each step is free.",
    ),
    _decides(
        "--target",
        default="ihc+ish",
        type=click.Choice(["ihc", "ihc+ish"]),
        help="Steps to learn: those of IHC, or these and whether a 2+ is amplified.",
    ),
    _decides("--patch-px", default="512", type=int, help="Side of a patch, px."),
    _decides("--mpp", default="0.2425", type=float, help="µm per px that the network sees."),
    _decides("--foreground-threshold", default="0.07", type=float, help="Least mean saturation of a patch."),
    _decides(
        "--artefacts",
        type=click.Choice(["leave-out", "ignore"]),
        default="leave-out",
        help="What is done about patches of pen, blood, folds, edges and the like.",
    ),
    _decides("--min-coverage", default="0.5", type=float, help="Share of a patch that a region must cover."),
    _decides("--min-patches", default="10", type=int, help="Fewest foreground patches of a slide."),
    click.option(
        "--pretrained/--no-pretrained",
        default=None,
        show_default="pretrained",
        help="Begin with timm's published weights, from the Hugging Face hub or (HF_HUB_OFFLINE=1) its "
        "cache.",
    ),
    _decides("--epochs", default="40", type=int, help="Times that all slides are drawn from."),
    _decides("--composites-per-slide", default="1", type=int, help="New composites of each slide an epoch."),
    _decides("--batch", default="8", type=int, help="Composites an optimiser step, over all processes."),
    _decides("--micro-batch", default="1", type=int, help="Composites a forward pass."),
    _decides("--lr", default="0.0002", type=float, help="Peak learning rate."),
    _decides("--weight-decay", default="0.05", type=float, help="AdamW's decay of matrices and kernels."),
    _decides(
        "--balance",
        default="none",
        type=click.Choice(["none", "levels", "bits"]),
        help="Draw all levels equally often, or weigh both answers of each bit alike.",
    ),
    _decides(
        "--batch-norm",
        default="auto",
        type=click.Choice(["auto", "batch", "sync", "frozen"]),
        help="Statistics of a pass, of all processes, or those of the pretrained weights; auto: the last "
        "with pretrained weights, the first without.",
    ),
    _decides(
        "--precision",
        default="auto",
        type=click.Choice(["auto", "fp32", "bf16"]),
        help="Numbers that it computes with; auto: bf16 where the hardware has it.",
    ),
    _decides(
        "--checkpoint-gradients",
        default="False",
        is_flag=True,
        flag_value=True,
        help="Use less memory, and about a third more time.",
    ),
    _decides("--stain", default="0.2", type=float, help="Augmentation: how much stains vary, 0 to 1."),
    _decides("--colour", default="0.1", type=float, help="Augmentation: how much cameras vary, 0 to 1."),
    _decides("--blur", default="0.2", type=float, help="Augmentation: share of composites out of focus."),
    _decides("--jpeg", default="0.2", type=float, help="Augmentation: share compressed as JPEG once more."),
    _decides("--scale", default="0.1", type=float, help="Augmentation: how much the scale varies, 0 to 0.5."),
    _decides("--validate-every", default="2", type=int, help="Epochs between looks at held-out slides."),
    _decides(
        "--final-composites", default="8", type=int, help="Composites of each held-out slide at the end."
    ),
    _decides("--checkpoint-every", default="50", type=int, help="Steps between checkpoints."),
    _decides("--seed", default="0", type=int, help="Decides all that is drawn at random."),
)
"""Gives a command ``options``, a :class:`~herohe_model.training.options.TrainOptions`, not checked yet."""


def _resources(workers: int, threads: int | None, open_slides: int, preload: bool) -> Resources:
    from herohe_model.training.step import Resources

    return Resources(
        workers=workers, ahead=4 * workers, threads=threads, open_slides=open_slides, preload=preload
    )


resource_options = option_group(
    "resources",
    _resources,
    click.option(
        "--workers",
        type=click.IntRange(1, 256),
        default=4,
        show_default=True,
        help="Reading threads a process.",
    ),
    click.option(
        "--threads", type=click.IntRange(1), help="Computing threads of a CPU.  [default: its cores]"
    ),
    click.option(
        "--open-slides",
        type=click.IntRange(1),
        default=64,
        show_default=True,
        help="Slides kept open a process.",
    ),
    click.option("--preload", is_flag=True, help="Keep all patches in memory (small sets only)."),
)
"""Gives a command ``resources``, a :class:`~herohe_model.training.step.Resources`."""
