"""Backbones of all five families of the HEROHE team: trained, exported, loaded and scored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.small_training import CASES, MACHINE, NO_AUGMENTATION, tiny_options, tiny_set

from herohe_model.dataset.cases import target_arrays
from herohe_model.engines.scorer import Scorer
from herohe_model.grades import Target
from herohe_model.model.compute import Compute
from herohe_model.sampling.composite import draw_composites, read_composite
from herohe_model.slides.slide import Slide
from herohe_model.training.loop import train_network
from herohe_model.training.processes import Processes
from herohe_model.training.run_folder import RunFolder

_FAMILIES = {
    "resnet": "resnet10t",
    "resnext": "resnext26ts",
    "resnest": "resnest14d",
    "efficientnet": "efficientnet_lite0",
    "densenet": "densenet121",
}


@pytest.mark.parametrize("family", _FAMILIES)
def test_a_family_learns_four_composites_by_heart_and_its_file_scores_them_right(
    family: str, tmp_path: Path
) -> None:
    options = tiny_options(
        backbone=_FAMILIES[family],
        target="ihc+ish",
        epochs=25,
        micro_batch=4,
        checkpoint_every=1000,
        augment=NO_AUGMENTATION,
    )
    data = tiny_set(tmp_path / "slides", options=options)
    model = train_network(
        data,
        options,
        tmp_path / "run",
        slides_sha256="slides",
        processes=Processes(0, 1, torch.device("cpu")),
        resources=MACHINE,
    )
    losses = [r["loss"] for r in RunFolder(tmp_path / "run").read_log() if r["event"] == "step"]
    assert losses[-1] < losses[0]
    bits, _ = target_arrays(CASES, Target.IHC_ISH)
    with Scorer.load(model, Compute("cpu", "fp32"), threads=1) as scorer:
        for slide, patches, expected in zip(data.slides, data.foreground, bits, strict=True):
            cells = draw_composites(len(patches), composites=1, seed=1)[0]
            with Slide(slide.path) as source:
                picture = read_composite(source, patches, cells, patch_px=options.patch_px)
            logits = scorer.score(picture[None])[0].logits
            assert ((logits > 0) == expected).all()
