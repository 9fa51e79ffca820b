"""How much memory a training step takes, counted on tensors that are never filled."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from herohe_model.model.card import ModelCard
from herohe_model.model.network import OrdinalNetwork, plan_backbone
from herohe_model.training.step import freeze_norms


def peak_of_tensors(backbone: str, patch_px: int, *, bf16: bool, checkpointed: bool) -> float:
    """GiB that two steps with a composite of 25 patches hold at their peak, AdamW's state included.

    With the statistics of batch normalisation frozen, as pretrained weights have them.
    """
    card = ModelCard(
        name="memory",
        backbone=backbone,
        head="ordered",
        target="ihc+ish",
        patch_px=patch_px,
        mpp=0.2425,
        foreground_threshold=0.07,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        positive_step=">=2+/ISH+",
    )
    # Planned before: the plan's own tensors are of another kind.
    plan_backbone(backbone, card.side_px)
    with FakeTensorMode():
        network = OrdinalNetwork(card).train()
        freeze_norms(network)
        if checkpointed:
            network.checkpoint_gradients()
        optimiser = torch.optim.AdamW(network.parameters(), foreach=False)
        tracker = MemTracker()
        tracker.track_external(network, optimiser)
        pixels = torch.zeros(1, card.side_px, card.side_px, 3)
        with tracker:
            for _ in range(2):
                with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
                    logits = network(pixels)
                logits.sum().backward()
                optimiser.step()
                optimiser.zero_grad()
                tracker.reset_mod_stats()
        peak = tracker.get_tracker_snapshot("peak")
    return sum(kinds["Total"] for kinds in peak.values()) / 2**30
