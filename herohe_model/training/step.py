"""One network in training: its parts, a forward and backward pass, and a look at held-out slides."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from timm.layers.norm_act import convert_sync_batchnorm
from torch import distributed, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from herohe_model.dataset.cases import target_arrays
from herohe_model.errors import OptionError
from herohe_model.grades import Target
from herohe_model.model.card import ModelCard
from herohe_model.model.compute import Precision
from herohe_model.model.device import choose_precision
from herohe_model.model.network import OrdinalNetwork
from herohe_model.model.new_model import new_model
from herohe_model.read_ahead import read_ahead
from herohe_model.sampling.composite import draw_composites
from herohe_model.sampling.patches import PatchSet
from herohe_model.training.augment import apply_blur, apply_colour, apply_scale, apply_turns
from herohe_model.training.data import (
    DROPOUT,
    CompositeReader,
    Curriculum,
    Position,
    TrainingComposite,
    TrainingSlide,
    derived_seed,
)
from herohe_model.training.options import TrainOptions
from herohe_model.training.processes import Processes

_SETTLING_COMPOSITES: Final = 256

Batch = list[tuple[Position, TrainingComposite]]
"""The composites of one forward pass, with where they stand in training."""


@dataclass(frozen=True)
class Resources:
    """How to compute, which decides no result but for the device's own rounding.

    Attributes
    ----------
    workers
        Threads that read composites.
    ahead
        Composites that are read before they are needed.
    threads
        Threads of the CPU's arithmetic; None for one a physical core and process.
    open_slides
        Slides that stay open at once.
    preload
        Read every foreground patch once, into memory.
    """

    workers: int = 4
    ahead: int = 16
    threads: int | None = None
    open_slides: int = 64
    preload: bool = False


@dataclass(frozen=True)
class TrainingSet:
    """Slides with their foreground; `training` and `held_out` are indices into them."""

    slides: Sequence[TrainingSlide]
    foreground: Sequence[PatchSet]
    training: Sequence[int]
    held_out: Sequence[int] = ()

    def part(self, indices: Sequence[int]) -> tuple[list[TrainingSlide], list[PatchSet]]:
        """Return some slides with their foreground."""
        return [self.slides[i] for i in indices], [self.foreground[i] for i in indices]


@dataclass
class TrainingRun:
    """A network in training, and all that a step needs.

    Attributes
    ----------
    model
        The network as it is called: wrapped, where several processes share it.
    reader, held_out
        Read composites of the slides trained on, and of the held-out ones.
    held_out_bits, held_out_known
        Their bits and which of them are known, shape (held-out slides, bits).
    held_out_draws
        Their composites, shape (composites, cells) each.
    """

    network: OrdinalNetwork
    model: nn.Module
    optimiser: torch.optim.Optimizer
    curriculum: Curriculum
    reader: CompositeReader
    held_out: CompositeReader
    held_out_bits: NDArray[np.int64]
    held_out_known: NDArray[np.bool_]
    held_out_draws: Sequence[NDArray[np.int64]]
    options: TrainOptions
    processes: Processes
    precision: Precision

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.processes.device


def build_network(
    options: TrainOptions, processes: Processes, weights: Path | None, *, resumed: bool, name: str
) -> tuple[ModelCard, OrdinalNetwork]:
    """Make the network on its device.

    Pretrained weights that a checkpoint or the first process will overwrite are not fetched.
    """
    fills = processes.first and not resumed
    card, state = new_model(
        options.backbone,
        head=options.head,
        target=options.target,
        patch_px=options.patch_px,
        grid=options.grid,
        mpp=options.mpp,
        foreground_threshold=options.foreground_threshold,
        seed=options.seed,
        name=name or None,
        pretrained=fills and options.pretrained and weights is None,
        weights=weights if fills else None,
        normalisation=options.normalisation,
        note="For research use only; it has no regulatory approval.",
    )
    network = OrdinalNetwork(card)
    network.load_state_dict(state)
    if options.checkpoint_gradients:
        network.checkpoint_gradients()
    layout = torch.preserve_format if processes.device.type == "mps" else torch.channels_last
    return card, network.to(processes.device).to(memory_format=layout)  # type: ignore[call-overload,unused-ignore]


def prepare(
    data: TrainingSet,
    options: TrainOptions,
    network: OrdinalNetwork,
    processes: Processes,
    resources: Resources,
) -> TrainingRun:
    """Put together what the loop works on.

    Raises
    ------
    OptionError
        If batch normalisation cannot be synchronised here.
    """
    slides, foreground = data.part(data.training)
    held_out, held_out_foreground = data.part(data.held_out)
    bits, known = target_arrays([slide.case for slide in held_out], Target(options.target))
    reader, held_out_reader = (
        CompositeReader(
            s, f, options, open_slides=resources.open_slides, pinned=processes.device.type == "cuda"
        )
        for s, f in ((slides, foreground), (held_out, held_out_foreground))
    )
    model: nn.Module = network
    if options.batch_norm == "sync" and processes.count > 1:
        if processes.device.type != "cuda":
            raise OptionError("Batch normalisation is only synchronised on GPUs", "Use --batch-norm batch")
        model = convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]  # timm's
    if processes.count > 1:
        with warnings.catch_warnings():
            # Newer versions of PyTorch call the argument otherwise, by a name that older ones do not know.
            warnings.simplefilter("ignore", FutureWarning)
            # Statistics of the normalisation are averaged after each step; the first process's would not do.
            model = DistributedDataParallel(model, broadcast_buffers=False)
    return TrainingRun(
        network=network,
        model=model,
        optimiser=_make_optimiser(network, options),
        curriculum=Curriculum(slides, options),
        reader=reader,
        held_out=held_out_reader,
        held_out_bits=bits,
        held_out_known=known,
        held_out_draws=[
            draw_composites(len(f), composites=options.validation_composites, seed=0, cells=options.cells)
            for f in held_out_foreground
        ],
        options=options,
        processes=processes,
        precision=choose_precision(options.precision, processes.device),
    )


def _make_optimiser(network: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """AdamW; biases and scales are not decayed."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.lr)


def read_batches(run: TrainingRun, resources: Resources, steps: range) -> Generator[Batch, None, None]:
    """Yield the composites of each forward pass of this process in some steps."""
    options, processes = run.options, run.processes
    share = options.batch // processes.count

    def places() -> Iterator[Position]:
        for step in steps:
            first = step * options.batch + processes.rank * share
            yield from run.curriculum.places(range(first, first + share))

    def read(place: Position) -> tuple[Position, TrainingComposite]:
        return place, run.reader.read(place)

    with closing(read_ahead(places(), read, workers=resources.workers, ahead=resources.ahead)) as composites:
        batch = []
        for composite in composites:
            batch.append(composite)
            if len(batch) == options.micro_batch:
                yield batch
                batch = []


def forward_backward(
    run: TrainingRun, step: int, number: int, passes: int, batches: Iterator[Batch]
) -> torch.Tensor:
    """Add the gradients of one forward pass; return its part of the step's loss."""
    options, processes = run.options, run.processes
    read = next(batches)
    places = [place for place, _ in read]
    pixels = stage_pixels([composite for _, composite in read], options.grid, run.device)
    bits = run.curriculum.bits(places)
    weights = run.curriculum.loss_weights(places, step)
    # Numbered over all processes, so that dropout is the same however they share the step.
    torch.manual_seed(derived_seed(options.seed, DROPOUT, step, processes.rank * passes + number))
    with _syncing(run.model, last=number == passes - 1):
        with _autocast(run):
            logits = run.model(pixels)
        loss = ordinal_loss(logits, _to(bits, run.device), _to(weights, run.device))
        # DistributedDataParallel averages over processes; the weights already sum to 1 over all of them.
        (loss * processes.count).backward()  # type: ignore[no-untyped-call]  # torch is not typed there
    return loss.detach()


def stage_pixels(composites: Sequence[TrainingComposite], grid: int, device: torch.device) -> torch.Tensor:
    """Bring composites to the device and augment them there: all of them, or none.

    Returns
    -------
    Tensor
        Shape (n, side, side, 3), 0 to 255; uint8, or float32 where colours were augmented.
    """
    one = composites[0].pixels[None]
    pixels = one if len(composites) == 1 else torch.stack([c.pixels for c in composites])
    pixels = pixels.to(device, non_blocking=True)
    drawn = [c.augmentation for c in composites if c.augmentation is not None]
    if drawn:
        pixels = apply_turns(pixels, np.stack([a.turns for a in drawn]), grid)
    colours = [a.colour for a in drawn if a.colour is not None]
    if colours:
        pixels = apply_colour(pixels, _to(np.stack(colours), device), grid)
    if any(a.scale != 1.0 for a in drawn):
        pixels = apply_scale(pixels.float(), [a.scale for a in drawn], grid)
    if any(a.blur_sigma_px for a in drawn):
        pixels = apply_blur(pixels.float(), [a.blur_sigma_px for a in drawn])
    return pixels


def _to(array: NDArray[np.float32], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(array).to(device, non_blocking=True)


def _autocast(run: TrainingRun) -> AbstractContextManager[object]:
    return torch.autocast(run.device.type, torch.bfloat16) if run.precision == "bf16" else nullcontext()


@contextmanager
def _syncing(model: nn.Module, *, last: bool) -> Iterator[None]:
    """Exchange gradients between processes in the last forward pass of a step alone."""
    if isinstance(model, DistributedDataParallel) and not last:
        with model.no_sync():
            yield
    else:
        yield


def _norms(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def norm_statistics(network: nn.Module) -> list[torch.Tensor]:
    """Return what a forward pass changes in training: running means, variances and counts."""
    return [buffer for norm in _norms(network) for buffer in norm.buffers()]


def begin_training(run: TrainingRun) -> None:
    """Put the network into training mode, save for statistics that are to stay as they are."""
    run.model.train()
    if run.options.frozen_norm:
        freeze_norms(run.network)


def freeze_norms(network: nn.Module) -> None:
    """Let batch normalisation use the statistics that it has, while the rest of a network trains."""
    for norm in _norms(network):
        norm.eval()


def average_norm_statistics(run: TrainingRun) -> None:
    """Give all processes the mean of their running statistics, to be called after each step."""
    if run.processes.count == 1:
        return
    for buffer in norm_statistics(run.network):
        if buffer.is_floating_point():
            distributed.all_reduce(buffer)
            buffer /= run.processes.count


def settle_norm_statistics(run: TrainingRun, resources: Resources) -> None:
    """Give batch normalisation the mean statistics that the final weights have over some steps' composites.

    The running ones lag behind the weights, and know the last few composites best.
    Wu and Johnson 2021, *Rethinking "Batch" in BatchNorm*, section 3.
    """
    norms = [norm for norm in _norms(run.network) if norm.track_running_stats]
    if run.options.frozen_norm or not norms:
        return
    options = run.options
    steps = run.curriculum.steps
    wanted = min(run.curriculum.per_epoch, _SETTLING_COMPOSITES)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        # None: the plain mean over all forward passes from here on.
        norm.momentum = None
    more = range(steps, steps + -(-wanted // options.batch))
    with torch.no_grad(), closing(read_batches(run, resources, more)) as batches:
        for read in batches:
            with _autocast(run):
                run.network(stage_pixels([composite for _, composite in read], options.grid, run.device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    average_norm_statistics(run)


def ordinal_loss(logits: torch.Tensor, bits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted sum of the binary cross entropies of all bits; an unknown bit has the weight 0.

    Parameters
    ----------
    logits, bits, weights
        Shape (n, bits), float32.
    """
    return (functional.binary_cross_entropy_with_logits(logits, bits, reduction="none") * weights).sum()


def validate(run: TrainingRun, resources: Resources) -> dict[str, float]:
    """Look at the held-out slides: mean loss of the known bits, and how often a bit is right."""
    processes, device = run.processes, run.device
    mine = range(processes.rank, len(run.held_out_draws), processes.count)
    tasks = [(i, cells) for i in mine for cells in run.held_out_draws[i]]
    sums = torch.zeros(3, device=device)
    run.network.eval()
    with (
        torch.no_grad(),
        closing(
            read_ahead(
                tasks,
                lambda task: (task[0], run.held_out.read_held_out(*task)),
                workers=resources.workers,
                ahead=resources.ahead,
            )
        ) as composites,
    ):
        for index, composite in composites:
            with _autocast(run):
                logits = run.network(stage_pixels([composite], run.options.grid, device))
            bits = _to(run.held_out_bits[[index]].astype(np.float32), device)
            known = _to(run.held_out_known[[index]].astype(np.float32), device)
            right = ((logits > 0) == (bits > 0.5)).float() * known
            sums += torch.stack([ordinal_loss(logits, bits, known), right.sum(), known.sum()])
    begin_training(run)
    loss, correct, of = processes.total(sums).tolist()
    return {"loss": loss / max(of, 1.0), "bits_right": correct / max(of, 1.0)}
