"""The network: a timm backbone, and an ordinal head on its final map.

A logit is the mean over the final map of a linear function of the features, plus a bias; so the share of each
patch is exact (:mod:`herohe_model.model.score`). Normalisation is part of the network, so that training and
scoring cannot disagree about it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import nn
from torch.nn import functional

from herohe_model.errors import ModelFileError, OptionError
from herohe_model.model.card import ModelCard
from herohe_model.model.checkpoint import member_states


@dataclass(frozen=True)
class BackbonePlan:
    """How to build a backbone for composites of one size, and what its final map looks like.

    Attributes
    ----------
    arguments
        Keyword arguments of ``timm.create_model`` beside the name.
    channels
        Features at each cell of the final map.
    layout
        ``NCHW``, ``NHWC`` or ``tokens`` (row-major, after the prefix tokens).
    prefix_tokens
        Class and register tokens before those of the map.
    cells
        Rows and columns of the final map.
    """

    arguments: tuple[tuple[str, int], ...]
    channels: int
    layout: str
    prefix_tokens: int
    cells: tuple[int, int]


@lru_cache(maxsize=64)
def plan_backbone(name: str, side_px: int) -> BackbonePlan:
    """Find out how a backbone takes composites, by running it on tensors without storage.

    Raises
    ------
    OptionError
        If timm has no such architecture, or it gives no spatial map at that size.
    """
    try:
        # Names with a colon would make timm fetch and run what a model file names.
        known = ":" not in name and "/" not in name and timm.is_model(name)
        config = get_pretrained_cfg(name) if known else None
    except RuntimeError:  # an unknown tag after the dot
        known = False
    if not known:
        raise OptionError(
            f"timm {timm.__version__} has no backbone {name!r}",
            "Take one of timm.list_models(), such as resnet18 or efficientnet_b0",
        )
    fixed = config is not None and config.fixed_input_size
    arguments = {"img_size": side_px} if fixed else {}
    try:
        with torch.device("meta"), torch.inference_mode():
            backbone = create_backbone(name, arguments)
            features = backbone.eval()(torch.zeros(1, 3, side_px, side_px))
    except Exception as error:  # timm's networks raise whatever they like on a size they cannot take
        why = str(error).partition("\n")[0].rstrip(".")
        raise OptionError(
            f"The backbone {name} does not take composites of {side_px} x {side_px} px ({why})",
            "Choose another backbone or patch size",
        ) from error
    return _plan(name, backbone, features, tuple(arguments.items()))


def _plan(
    name: str, backbone: nn.Module, features: object, arguments: tuple[tuple[str, int], ...]
) -> BackbonePlan:
    shape = tuple(features.shape) if isinstance(features, torch.Tensor) else ()
    if len(shape) == 4 and getattr(backbone, "output_fmt", "NCHW") == "NHWC":
        return BackbonePlan(arguments, shape[3], "NHWC", 0, (shape[1], shape[2]))
    if len(shape) == 4:
        return BackbonePlan(arguments, shape[1], "NCHW", 0, (shape[2], shape[3]))
    # Only of networks that count their prefix tokens is it known that the others are row-major.
    prefix = getattr(backbone, "num_prefix_tokens", None)
    if len(shape) == 3 and isinstance(prefix, int):
        cells = math.isqrt(shape[1] - prefix)
        if cells > 0 and cells * cells == shape[1] - prefix:
            return BackbonePlan(arguments, shape[2], "tokens", prefix, (cells, cells))
    raise OptionError(f"The backbone {name} gives no spatial map", "Choose another, such as resnet18")


def create_backbone(
    name: str, arguments: Mapping[str, Any], weights: dict[str, torch.Tensor] | None = None
) -> nn.Module:
    """Build a timm backbone without its classifier, with random weights or those given as timm names them."""
    if weights is not None:
        arguments = {**arguments, "pretrained_cfg_overlay": {"state_dict": weights, "source": ""}}
    module: nn.Module = timm.create_model(
        name, pretrained=weights is not None, num_classes=0, global_pool="", **arguments
    )
    return module


class FreeHead(nn.Module):
    """A linear function for each bit, as the HEROHE team had it."""

    def __init__(self, channels: int, bits: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(bits, channels))
        self.bias = nn.Parameter(torch.zeros(bits))
        nn.init.normal_(self.weight, std=channels**-0.5)

    def linear(self, features: torch.Tensor) -> torch.Tensor:
        """From (n, channels, h, w) to (n, bits, h, w), without the biases."""
        return functional.conv2d(features, self.weight[:, :, None, None])

    def biases(self) -> torch.Tensor:
        """Shape (bits,)."""
        return self.bias


class OrderedHead(nn.Module):
    """One direction for all bits and ordered biases: a higher step is never likelier.

    Cao, Mirjalili and Raschka 2020, *Rank consistent ordinal regression for neural networks*. The biases are
    kept in order by adding up softplus of free numbers.
    """

    def __init__(self, channels: int, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.direction = nn.Parameter(torch.empty(channels))
        # softplus(0.5413) = 1: the biases begin one logit apart, around 0.
        self.base = nn.Parameter(torch.tensor([-(bits - 1) / 2.0]))
        self.gaps = nn.Parameter(torch.full((bits - 1,), 0.5413249))
        nn.init.normal_(self.direction, std=channels**-0.5)

    def linear(self, features: torch.Tensor) -> torch.Tensor:
        """From (n, channels, h, w) to (n, bits, h, w), the same for all bits, without the biases."""
        # Computed once and repeated: equal rows of a matrix need not give equal sums.
        one = functional.conv2d(features, self.direction[None, :, None, None])
        return one.expand(-1, self.bits, -1, -1)

    def biases(self) -> torch.Tensor:
        """Shape (bits,), not decreasing."""
        return torch.cumsum(torch.cat([self.base, functional.softplus(self.gaps)]), dim=0)


class OrdinalNetwork(nn.Module):
    """Composites in, logits out; highest step first.

    Parameters
    ----------
    card
        Says backbone, head, target, size and normalisation. Weights are random.
    backbone
        A backbone to use instead of a new one with random weights, built after the same plan.

    Notes
    -----
    The head always works in float32, also within autocast: contributions must add up.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, card: ModelCard, backbone: nn.Module | None = None) -> None:
        super().__init__()
        self.plan = plan_backbone(card.backbone, card.side_px)
        if backbone is None:
            backbone = create_backbone(card.backbone, dict(self.plan.arguments))
        self.backbone = backbone
        head = FreeHead if card.head == "free" else OrderedHead
        self.head = head(self.plan.channels, len(card.steps))
        self.register_buffer("mean", torch.tensor(card.mean).view(1, 3, 1, 1) * 255.0, persistent=False)
        self.register_buffer("std", torch.tensor(card.std).view(1, 3, 1, 1) * 255.0, persistent=False)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute the final map of the backbone.

        Parameters
        ----------
        pixels
            Shape (n, side, side, 3), R, G, B, uint8 or floating point, 0 to 255.

        Returns
        -------
        Tensor
            Shape (n, channels, h, w), in whatever type the backbone works.
        """
        # One array of the size of the picture in float32, not three.
        x = (pixels.permute(0, 3, 1, 2) - self.mean).div_(self.std)
        features: torch.Tensor = self.backbone(x)
        if self.plan.layout == "NHWC":
            return features.permute(0, 3, 1, 2)
        if self.plan.layout == "tokens":
            tokens = features[:, self.plan.prefix_tokens :]
            return tokens.transpose(1, 2).reshape(len(tokens), self.plan.channels, *self.plan.cells)
        return features

    def linear_map(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute the head's linear function at each cell, without bias: (n, bits, h, w), float32."""
        features = self.features(pixels)
        with torch.autocast(features.device.type, enabled=False):
            return self.head.linear(features.float())

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute logits (n, bits), float32, of pixels as :meth:`features` takes them."""
        features = self.features(pixels)
        with torch.autocast(features.device.type, enabled=False):
            # The mean first: the same by linearity, and less work.
            pooled = features.float().mean(dim=(2, 3), keepdim=True)
            return self.head.linear(pooled).flatten(1) + self.head.biases()

    def checkpoint_gradients(self, enable: bool = True) -> None:
        """Trade time for memory in training: keep few activations and compute the others again.

        Raises
        ------
        OptionError
            If the backbone cannot.
        """
        try:
            self.backbone.set_grad_checkpointing(enable)  # type: ignore[operator]  # timm's, not nn.Module's
        except (AssertionError, AttributeError) as error:
            raise OptionError(
                f"The backbone {type(self.backbone).__name__} has no gradient checkpointing",
                "Train without it, with smaller patches or another backbone",
            ) from error


def load_networks(
    card: ModelCard, state: Mapping[str, torch.Tensor], what: str = "The model"
) -> list[OrdinalNetwork]:
    """Build every member of a model with its weights, on the CPU, in evaluation mode and frozen.

    Parameters
    ----------
    what
        Begins error messages; the file's path.

    Raises
    ------
    ModelFileError
        If the weights do not fit the card's backbone, head and target.
    """
    if card.bag is not None:
        raise ModelFileError(
            f"{what} is a bag model: its network sees features, not composites",
            "Load it with herohe_model.engines.bag_scorer.load_scorer",
        )
    try:
        # Without storage first: weights that do not fit are refused before memory is taken.
        with torch.device("meta"):
            expected = {key: tuple(t.shape) for key, t in OrdinalNetwork(card).state_dict().items()}
    except OptionError as error:
        raise ModelFileError(f"{what} cannot be used: {error.problem}", error.remedy) from error
    states = member_states(card, state)
    if sum(map(len, states)) != len(state):
        raise ModelFileError(f"{what} holds weights that belong to none of its members", _OTHER_FILE)
    for member in states:
        _check_fit(card, member, expected, what)
    networks = []
    for member in states:
        # Building draws random weights; nobody else's random numbers should depend on that.
        with torch.random.fork_rng(devices=[]):
            network = OrdinalNetwork(card)
        network.load_state_dict(member)
        networks.append(network.eval().requires_grad_(False))
    return networks


_OTHER_FILE = "Use a file made by herohe-bridge train or herohe-bridge model new"


def _check_fit(
    card: ModelCard, state: Mapping[str, torch.Tensor], expected: Mapping[str, tuple[int, ...]], what: str
) -> None:
    found = {key: tuple(t.shape) for key, t in state.items()}
    keys = sorted(found.keys() | expected.keys())
    # The backbone first: with another one, the head has another shape too.
    wrong = [key for key in keys if found.get(key) != expected.get(key) and not key.startswith("head.")]
    if wrong:
        key, count = wrong[0], len(wrong)
        made_with = card.versions.get("timm", "an unknown timm")
        raise ModelFileError(
            f"{what} does not fit the backbone {card.backbone}: {count} weights differ, such as {key}, "
            f"{_shape(found.get(key))} instead of {_shape(expected.get(key))}",
            f"It was made with timm {made_with}, and this is {timm.__version__}; use that, or another file",
        )
    if found != expected:
        raise ModelFileError(
            f"{what} has a head that is not the {card.head} head of {len(card.steps)} bits its card names",
            _OTHER_FILE,
        )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape)) or "a number"
