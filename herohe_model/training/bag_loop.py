"""Training the network of a bag model: seconds, since features were computed before.

Everything follows from the seed: weights, the order of bags, which of their patches a step sees. A fold is
too short to be kept half done, so there are no checkpoints within it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from herohe_model.bag.card import with_golden
from herohe_model.bag.network import BagNetwork
from herohe_model.errors import CancelledError, HeroheError
from herohe_model.model.card import Head, ModelCard, Pooling, TargetName
from herohe_model.training.options import NotNegative, PositiveInt
from herohe_model.training.step import ordinal_loss

_WARMUP: Final = 0.05
_FINAL_LR: Final = 0.01
_GRADIENT: Final = 1.0


class BagOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What decides the weights of a bag model, beside its features and labels.

    Attributes
    ----------
    pooling, width
        As in :class:`~herohe_model.model.card.BagCard`.
    head, target
        As in :class:`~herohe_model.model.card.ModelCard`.
    patches
        Most patches of a slide that a step sees, drawn anew each time; predictions see all.
    min_patches
        Fewest patches of a slide that is trained on.
    epochs
        Times that each slide is seen.
    batch
        Slides an optimiser step.
    lr, weight_decay
        AdamW's peak learning rate, followed by a cosine down to a hundredth; decay of matrices.
    seed
        Decides everything that is drawn.
    """

    pooling: Pooling = "attention"
    width: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 128
    head: Head = "ordered"
    target: TargetName = "ihc+ish"
    patches: PositiveInt = 512
    min_patches: PositiveInt = 10
    epochs: PositiveInt = 40
    batch: PositiveInt = 8
    lr: Annotated[float, msgspec.Meta(gt=0.0, le=10.0)] = 2e-4
    weight_decay: NotNegative = 0.05
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**32)] = 0


def train_bag(
    card: ModelCard,
    bags: Sequence[NDArray[np.floating]],
    bits: NDArray[np.int64],
    known: NDArray[np.bool_],
    options: BagOptions,
    *,
    progress: Callable[[int], None],
    stop: Callable[[], bool],
) -> tuple[ModelCard, dict[str, torch.Tensor]]:
    """Train one network.

    Parameters
    ----------
    card
        Of :func:`~herohe_model.bag.card.new_bag_card`.
    bags
        Features of each slide, shape (patches, dimension); half precision is enough.
    bits, known
        Shape (slides, bits), see :func:`~herohe_model.dataset.cases.target_arrays`; an unknown bit is not
        learned.
    progress
        Told how many steps are done, of :func:`steps_of`.
    stop
        Asked before each step.

    Returns
    -------
    card, state
        The card with the golden logits of the weights.

    Raises
    ------
    CancelledError
        When `stop` said so.
    HeroheError
        When the loss is no finite number.
    """
    draws = np.random.default_rng([options.seed, 0])
    total = steps_of(len(bags), options)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(options.seed)
        network = BagNetwork(card)
        mean, std = (torch.from_numpy(found.astype(np.float32)) for found in spread(bags))
        network.standardise(mean, std)
        optimiser = _optimiser(network, options)
        order: list[int] = []
        for step in range(total):
            if stop():
                raise CancelledError("Training of the bag model was stopped", "Give the same command again")
            if not order:
                order = draws.permutation(len(bags)).tolist()
            batch, order = order[: options.batch], order[options.batch :]
            for group in optimiser.param_groups:
                group["lr"] = _rate(step, total, options.lr)
            loss = _step(
                network,
                optimiser,
                [(_some(bags[i], options.patches, draws), bits[i], known[i]) for i in batch],
            )
            if not math.isfinite(loss):
                raise HeroheError(
                    f"The loss is {loss} at step {step} of the bag model", "Begin again with a smaller --lr"
                )
            progress(step + 1)
    state = {key: tensor.detach().clone() for key, tensor in network.eval().state_dict().items()}
    return with_golden(card, state), state


def steps_of(slides: int, options: BagOptions) -> int:
    """Return how many optimiser steps a training takes."""
    return options.epochs * math.ceil(slides / options.batch)


def _step(
    network: BagNetwork,
    optimiser: torch.optim.Optimizer,
    batch: Sequence[tuple[NDArray[np.floating], NDArray[np.int64], NDArray[np.bool_]]],
) -> float:
    optimiser.zero_grad(set_to_none=True)
    counts = [len(features) for features, _, _ in batch]
    standard = np.empty((sum(counts), len(network.centre)), dtype=np.float32)
    centre, share, at = network.centre.numpy(), 1 / network.scale.numpy(), 0
    for features, _, _ in batch:
        # One bag after the other, in place: each stays in the processor's cache.
        rows = standard[at : (at := at + len(features))]
        rows[:] = features
        rows -= centre
        rows *= share
    passes = network.forward_bags(torch.from_numpy(standard), counts)
    logits = torch.stack([one.logits for one in passes])
    bits = torch.from_numpy(np.stack([bits for _, bits, _ in batch]).astype(np.float32))
    known = torch.from_numpy(np.stack([known for _, _, known in batch]).astype(np.float32))
    loss = ordinal_loss(logits, bits, known / known.sum().clamp(min=1))
    loss.backward()  # type: ignore[no-untyped-call]  # torch's own is not typed
    nn.utils.clip_grad_norm_(network.parameters(), _GRADIENT)
    optimiser.step()
    return float(loss.detach())


def _some(bag: NDArray[np.floating], most: int, draws: np.random.Generator) -> NDArray[np.floating]:
    if len(bag) > most:
        bag = bag[np.sort(draws.choice(len(bag), most, replace=False, shuffle=False))]
    return bag


def spread(bags: Sequence[NDArray[np.floating]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of features, each bag counting alike; shape (dimension,) each."""
    means = np.stack([bag.mean(axis=0, dtype=np.float64) for bag in bags])
    squares = np.stack([np.square(bag, dtype=np.float64).mean(axis=0) for bag in bags])
    mean = means.mean(axis=0)
    std = np.sqrt(np.maximum(squares.mean(axis=0) - mean**2, 0.0))
    return mean, std


def _optimiser(network: BagNetwork, options: BagOptions) -> torch.optim.Optimizer:
    matrices = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": options.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.lr)


def _rate(step: int, total: int, peak: float) -> float:
    warm = max(1, round(_WARMUP * total))
    if step < warm:
        return peak * (step + 1) / warm
    share = (step - warm) / max(1, total - warm)
    return peak * (_FINAL_LR + (1 - _FINAL_LR) * 0.5 * (1 + math.cos(math.pi * share)))
