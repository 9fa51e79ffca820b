"""The options of training: everything that decides the weights, kept in the run's ``config.json``."""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Literal

import msgspec
import torch

from herohe_model.errors import ModelFileError, OptionError
from herohe_model.grades import Target
from herohe_model.model.card import USUAL_THRESHOLD, Head, ModelCard, Side, TargetName, check_card
from herohe_model.model.network import create_backbone, plan_backbone
from herohe_model.model.new_model import Normalisation

Balance = Literal["none", "levels", "bits"]
BatchNorm = Literal["auto", "batch", "sync", "frozen"]

PositiveInt = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
NotNegative = Annotated[float, msgspec.Meta(ge=0.0)]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class AugmentOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How composites are varied while training; zeros (and False) leave them as they are.

    The strengths are to cover what lies between laboratories and scanners: stains are scaled as in the
    stronger setting of Tellez et al. 2019 (*Quantifying the effects of data augmentation and stain color
    normalization in convolutional neural networks for computational pathology*); focus is off by up to 3 px,
    JPEG has a quality of 40 and more, a scale is a tenth wrong.

    Attributes
    ----------
    dihedral
        Turn and mirror each patch by one of the eight symmetries of the square.
    stain
        Haematoxylin, eosin and the residual are each scaled by up to 1 ± this, alike in a whole composite.
    stain_shift
        As much optical density is added to or taken from each stain.
    patch_stain
        As `stain`, drawn anew for each patch.
    colour
        The optical density of R, G and B is scaled by up to 1 ± this: another camera.
    blur
        Share of composites that are put out of focus.
    blur_sigma_px
        By a Gaussian of up to this standard deviation, px.
    jpeg
        Share of composites that are compressed as JPEG once more.
    jpeg_quality
        With this quality at least, up to 95.
    scale
        Patches are magnified by up to 1 ± this, alike in a whole composite.
    """

    dihedral: bool = True
    stain: Share = 0.2
    stain_shift: Share = 0.05
    patch_stain: Share = 0.05
    colour: Share = 0.1
    blur: Share = 0.2
    blur_sigma_px: Annotated[float, msgspec.Meta(ge=0.0, le=10.0)] = 3.0
    jpeg: Share = 0.2
    jpeg_quality: Annotated[int, msgspec.Meta(ge=1, le=95)] = 40
    scale: Annotated[float, msgspec.Meta(ge=0.0, le=0.5)] = 0.1


NO_AUGMENTATION: Final = AugmentOptions(
    dihedral=False, stain=0.0, stain_shift=0.0, patch_stain=0.0, colour=0.0, blur=0.0, jpeg=0.0, scale=0.0
)


class CallOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the thresholds of the call in three are chosen for; they decide no weights.

    Attributes
    ----------
    sensitivity
        Share of HER2-positive that is not called likely negative.
    specificity
        Share of HER2-negative that is not called likely positive.
    npv, ppv
        Predictive values to reach at `prevalence`, instead.
    prevalence
        Of HER2-positive where the model will be used.
    margin
        Standard errors by which a slide's logit is moved towards the other answer.
    """

    sensitivity: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] = 0.95
    specificity: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] = 0.95
    npv: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] | None = None
    ppv: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] | None = None
    prevalence: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] | None = None
    margin: Annotated[float, msgspec.Meta(ge=0.0, le=10.0)] = 1.0

    def __post_init__(self) -> None:
        """Refuse predictive values of no prevalence."""
        if self.prevalence is None and (self.npv is not None or self.ppv is not None):
            raise OptionError(
                "A predictive value depends on the prevalence, and none is named",
                "Add --prevalence, such as 0.15",
            )


class TrainOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What decides the weights, beside the slides and the device.

    Attributes
    ----------
    backbone, head, target, patch_px, grid, mpp, foreground_threshold
        As in :class:`~herohe_model.model.card.ModelCard`.
    pretrained
        Begin with timm's published weights of the backbone.
    weights_sha256
        SHA-256 of the safetensors file that the backbone's weights come from instead, or "".
    normalisation
        Mean and standard deviation that those weights were trained with; None for timm's of the backbone.
    min_coverage, min_patches
        As scoring takes them: share of a patch that a region must cover, and fewest foreground patches of a
        slide that is trained on.
    artefacts
        Whether patches that cannot be judged are left out; see :mod:`herohe_model.sampling.artefacts`.
    epochs, composites_per_slide
        An epoch draws this many new composites from each slide.
    batch
        Composites an optimiser step, over all processes; how many run at once is `micro_batch`.
    micro_batch
        Composites a forward pass. Batch normalisation sees this many, so the same number gives the same
        losses on any number of processes.
    lr, weight_decay, warmup, grad_clip
        AdamW's peak learning rate, reached after the share `warmup` of all steps and followed by a cosine
        down to a hundredth; decay of matrices and kernels; largest norm of the gradient.
    balance
        ``none``; ``levels``: every level is drawn equally often; ``bits``: in each bit's loss both answers
        weigh the same. The last two move probabilities away from the prevalence of the training set.
    batch_norm
        ``batch`` statistics of each forward pass; ``sync``: of all processes' together, on GPUs; ``frozen``:
        those of the pretrained weights; ``auto``: frozen with pretrained weights, batch without.
    precision
        ``auto`` computes in bf16 where the hardware does.
    checkpoint_gradients
        Compute activations again in the backward pass instead of keeping them.
    validate_every
        Epochs between looks at the held-out slides, for the curves alone; 0 for none.
    validation_composites, final_composites
        Composites of each held-out slide for such a look, and for the predictions after training; the last
        with the sampler and seed of scoring.
    checkpoint_every
        Steps between checkpoints.
    seed
        Decides the initial head, the order of slides, composites and augmentation.
    """

    backbone: str = "resnet18"
    head: Head = "ordered"
    target: TargetName = "ihc+ish"
    patch_px: Side = 512
    grid: Annotated[int, msgspec.Meta(ge=1, le=16)] = 5
    mpp: Annotated[float, msgspec.Meta(ge=0.01, le=100.0)] = 0.2425
    foreground_threshold: Share = USUAL_THRESHOLD
    pretrained: bool = True
    weights_sha256: str = ""
    normalisation: Normalisation | None = None
    min_coverage: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 0.5
    min_patches: PositiveInt = 10
    artefacts: Literal["leave-out", "ignore"] = "leave-out"
    epochs: PositiveInt = 40
    composites_per_slide: PositiveInt = 1
    batch: PositiveInt = 8
    micro_batch: PositiveInt = 1
    lr: Annotated[float, msgspec.Meta(gt=0.0, le=10.0)] = 2e-4
    weight_decay: NotNegative = 0.05
    warmup: Share = 0.05
    grad_clip: Annotated[float, msgspec.Meta(gt=0.0)] = 1.0
    balance: Balance = "none"
    batch_norm: BatchNorm = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    checkpoint_gradients: bool = False
    augment: AugmentOptions = AugmentOptions()
    validate_every: Annotated[int, msgspec.Meta(ge=0)] = 2
    validation_composites: PositiveInt = 2
    final_composites: PositiveInt = 8
    checkpoint_every: PositiveInt = 50
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**32)] = 0

    @property
    def cells(self) -> int:
        """Patches of a composite."""
        return self.grid * self.grid

    @property
    def side_px(self) -> int:
        """Side of a composite, px at `mpp`."""
        return self.grid * self.patch_px

    @property
    def starts_pretrained(self) -> bool:
        """Whether the backbone begins with weights learned elsewhere."""
        return self.pretrained or bool(self.weights_sha256)

    @property
    def frozen_norm(self) -> bool:
        """Whether batch normalisation keeps the statistics that it began with."""
        return self.batch_norm == "frozen" or (self.batch_norm == "auto" and self.starts_pretrained)

    def digest(self) -> str:
        """SHA-256 of the options, hexadecimal."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


def check_options(options: TrainOptions, *, processes: int = 1) -> TrainOptions:
    """Return the options after checking types, limits and that they go together.

    Raises
    ------
    OptionError
        If a value is out of range, a step does not divide into forward passes, or the backbone cannot train
        on so few composites at once.
    """
    try:
        options = msgspec.convert(msgspec.to_builtins(options), TrainOptions)
        # The card's own limits, before hours are spent.
        check_card(
            ModelCard(
                name="check",
                backbone=options.backbone,
                head=options.head,
                target=options.target,
                patch_px=options.patch_px,
                grid=options.grid,
                mpp=options.mpp,
                foreground_threshold=options.foreground_threshold,
                mean=(0.5, 0.5, 0.5),
                std=(0.5, 0.5, 0.5),
                positive_step=Target(options.target).default_positive_step,
            )
        )
    except (msgspec.ValidationError, ModelFileError) as error:
        raise OptionError(
            f"The training options are not valid: {error}", "See herohe-bridge train --help"
        ) from error
    if options.batch % (options.micro_batch * processes):
        raise OptionError(
            f"A step of {options.batch} composites does not divide into {processes} process(es) with forward "
            f"passes of {options.micro_batch}",
            "Choose --batch as a multiple of --micro-batch times the number of processes",
        )
    if options.frozen_norm and not options.starts_pretrained:
        raise OptionError(
            "Batch normalisation cannot be frozen before it has learned anything",
            "Use --batch-norm batch, or begin with pretrained weights (without --no-pretrained)",
        )
    if not options.frozen_norm and options.micro_batch == 1:
        _check_single_composite(options)
    return options


def _check_single_composite(options: TrainOptions) -> None:
    """Refuse a backbone that normalises one number a channel and composite, as ResNeSt's attention does."""
    arguments = dict(plan_backbone(options.backbone, options.side_px).arguments)
    with torch.device("meta"), torch.no_grad():
        backbone = create_backbone(options.backbone, arguments).train()
        try:
            backbone(torch.zeros(1, 3, options.side_px, options.side_px))
        except ValueError as error:
            raise OptionError(
                f"{options.backbone} cannot make batch statistics of one composite ({error})",
                "Use --micro-batch 2 or more, or begin with pretrained weights",
            ) from error


def differing(old: TrainOptions, new: TrainOptions) -> list[str]:
    """Name the options that differ, with both values."""
    before, after = msgspec.to_builtins(old), msgspec.to_builtins(new)
    return [f"{key} was {before[key]}, is {after[key]}" for key in before if before[key] != after[key]]
