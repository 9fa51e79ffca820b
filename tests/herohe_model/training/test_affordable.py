from __future__ import annotations

import pytest
import torch

from herohe_model.engines.scorer import Scorer
from herohe_model.errors import DeviceError, OptionError
from herohe_model.model.compute import Compute
from herohe_model.model.new_model import new_model
from herohe_model.training.affordable import check_affordable
from herohe_model.training.options import TrainOptions

CPU = torch.device("cpu")


def test_attention_over_a_whole_composite_is_warned_of_with_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("herohe_model.training.affordable.operations_per_s", lambda *_: 2e11)
    monkeypatch.setattr("herohe_model.training.affordable.device_memory", lambda _: 64 << 30)
    options = TrainOptions(backbone="vit_small_patch16_224", precision="fp32")
    said = check_affordable(options, CPU, threads=1)
    assert "a composite of 2560 x 2560 px takes at least 3.3 min and 7.6 GiB" in said
    assert said.endswith("an epoch of 100 slides at least 5.5 h.")
    assert check_affordable(TrainOptions(backbone="resnet18", precision="fp32"), CPU, threads=1) == ""


def test_a_step_without_room_is_refused_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("herohe_model.training.affordable.device_memory", lambda _: 8 << 30)
    options = TrainOptions(backbone="resnet50", precision="fp32", micro_batch=2)
    with pytest.raises(
        OptionError, match=r"there are 8\.0 GiB\. Use --micro-batch 1, --checkpoint-gradients"
    ):
        check_affordable(options, CPU)


def test_scoring_is_warned_of_or_refused_before_it_is_tried(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = new_model("test_vit", head="ordered", target="ihc", patch_px=32)
    monkeypatch.setattr("herohe_model.engines.scorer.operations_per_s", lambda *_: 1e4)
    with Scorer(*made, Compute("cpu", "fp32", "torch"), threads=1):
        pass
    assert "a composite of 160 x 160 px takes at least" in caplog.text
    monkeypatch.setattr("herohe_model.engines.scorer.device_memory", lambda _: 1 << 10)
    with pytest.raises(DeviceError, match="another machine"):
        Scorer(*made, Compute("cpu", "fp32", "torch"), threads=1)
