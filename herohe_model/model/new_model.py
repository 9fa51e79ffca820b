"""A model to begin with: a backbone with random or pretrained weights, and a random head."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
import timm
import torch
from timm.models import get_pretrained_cfg
from torch import nn

from herohe_model import __version__
from herohe_model.errors import ModelFileError, OptionError
from herohe_model.grades import Target
from herohe_model.model.card import USUAL_THRESHOLD, Head, ModelCard, TargetName, check_card
from herohe_model.model.checkpoint import load_tensors
from herohe_model.model.network import OrdinalNetwork, create_backbone, plan_backbone

Normalisation = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation of R, G, B, from 0 to 1."""

OFFLINE_VARIABLE = "HF_HUB_OFFLINE"
_OTHER_WEIGHTS = "Name a safetensors file of this backbone as timm publishes it"


def new_model(
    backbone: str,
    *,
    head: Head,
    target: TargetName,
    patch_px: int = 512,
    grid: int = 5,
    mpp: float = 0.2425,
    foreground_threshold: float = USUAL_THRESHOLD,
    seed: int = 0,
    name: str | None = None,
    pretrained: bool = False,
    weights: Path | None = None,
    normalisation: Normalisation | None = None,
    trained_on: str = "nothing",
    note: str = "Its weights are not trained: what it says of a slide means nothing.",
) -> tuple[ModelCard, dict[str, torch.Tensor]]:
    """Make a model card and weights; the same ones for the same seed, on one platform.

    Parameters
    ----------
    backbone
        Name of a timm architecture, with or without the tag of its weights.
    mpp
        µm per px; HEROHE's slides have 0.2425.
    name
        By default made of backbone, target and seed.
    pretrained
        Take the backbone's weights from the Hugging Face hub, or from its cache; with ``HF_HUB_OFFLINE`` set
        to 1, from the cache alone.
    weights
        Take the backbone's weights from this safetensors file instead.
    normalisation
        Mean and standard deviation of R, G, B from 0 to 1 that `weights` were trained with; None for what
        timm says of the backbone.

    Raises
    ------
    OptionError
        If the backbone cannot be used, or a number is out of range.
    ModelFileError
        If the pretrained weights cannot be had, or do not fit.
    """
    plan_backbone(backbone, grid * patch_px)
    config = get_pretrained_cfg(backbone)
    mean, std = normalisation or ((config.mean, config.std) if config else ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
    try:
        card = check_card(
            ModelCard(
                name=name or f"{backbone} {target} seed {seed}",
                backbone=backbone,
                head=head,
                target=target,
                patch_px=patch_px,
                grid=grid,
                mpp=mpp,
                foreground_threshold=foreground_threshold,
                mean=(mean[0], mean[1], mean[2]),
                std=(std[0], std[1], std[2]),
                positive_step=Target(target).default_positive_step,
                trained_on=trained_on,
                versions=library_versions(),
                note=note,
                knowledge="random",
            )
        )
    except (ModelFileError, ValueError) as error:
        raise OptionError(f"No such model can be made: {error}") from error
    loaded = None
    if weights is not None or pretrained:
        file = weights or fetch_pretrained(backbone)
        loaded = _load_backbone(card, load_tensors(file)[1], str(file), seed)
    with _seeded(seed):
        network = OrdinalNetwork(card, loaded)
    return card, dict(network.state_dict())


def library_versions() -> dict[str, str]:
    """Versions of what decides a model's numbers."""
    return {"herohe-bridge": __version__, "timm": timm.__version__, "torch": str(torch.__version__)}


def fetch_pretrained(backbone: str, *, cache_dir: Path | None = None) -> Path:
    """Get a backbone's published weights from the Hugging Face hub, or from its cache on this machine.

    Only safetensors are taken. With the environment variable ``HF_HUB_OFFLINE`` set to 1, nothing is fetched.

    Parameters
    ----------
    cache_dir
        The hub's cache; None for its usual place.

    Raises
    ------
    ModelFileError
        If they are neither in the cache nor to be had.
    """
    config = get_pretrained_cfg(backbone)
    if config is None or not config.hf_hub_id:
        raise ModelFileError(
            f"timm {timm.__version__} knows no pretrained weights of {backbone} on the Hugging Face hub",
            "Choose another backbone, name a safetensors file (--weights), or begin with random weights "
            "(--no-pretrained)",
        )
    offline = os.environ.get(OFFLINE_VARIABLE, "").upper() in ("1", "ON", "YES", "TRUE")
    try:
        return Path(
            huggingface_hub.hf_hub_download(
                config.hf_hub_id, "model.safetensors", cache_dir=cache_dir, local_files_only=offline
            )
        )
    except Exception as error:  # the hub's own errors, and those of the HTTP library of its version
        why = f"{OFFLINE_VARIABLE} is set, and they are not in the cache" if offline else str(error)
        raise ModelFileError(
            f"The pretrained weights of {backbone} ({config.hf_hub_id} on the Hugging Face hub) could not be "
            f"had: {why.rstrip('.')}",
            "Go online once, or fetch its model.safetensors elsewhere and name that file (--weights), or "
            "begin with random weights (--no-pretrained)",
        ) from error


def _load_backbone(card: ModelCard, tensors: Mapping[str, torch.Tensor], what: str, seed: int) -> nn.Module:
    """Build the backbone with published weights, adapted by timm to the composite's size."""
    arguments = dict(plan_backbone(card.backbone, card.side_px).arguments)
    with _seeded(seed):
        random = create_backbone(card.backbone, arguments)
    try:
        with _seeded(seed):
            filled = create_backbone(card.backbone, arguments, dict(tensors))
    except (RuntimeError, KeyError, ValueError) as error:
        why = " ".join(str(error).split())[:300]
        raise ModelFileError(
            f"{what} does not fit the backbone {card.backbone}: {why}", _OTHER_WEIGHTS
        ) from error
    # timm passes over keys that it misses; a matrix that is still as it was drawn was not in the file.
    before = dict(random.named_parameters())
    missed = [
        key
        for key, weight in filled.named_parameters()
        if weight.ndim > 1
        and bool((weight != weight.flatten()[0]).any())
        and torch.equal(weight, before[key])
    ]
    if missed:
        raise ModelFileError(
            f"{what} lacks {len(missed)} of the weights of {card.backbone} ({missed[0]}, ...)", _OTHER_WEIGHTS
        )
    return filled


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch's generator of the CPU, and put it back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
