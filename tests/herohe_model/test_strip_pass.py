from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from herohe_model.engine_choice import check_composites
from herohe_model.errors import DeviceError
from herohe_model.network import load_networks
from herohe_model.new_model import new_model
from herohe_model.row_graph import RowGraph
from herohe_model.strip_pass import Features, StripPass, compute
from herohe_model.strip_plan import Segment, plan_strips, strip_rows
from herohe_model.torch_pass import linear_maps

CPU = torch.device("cpu")

FAMILIES = {
    "resnet10t": "a deep stem, average pooling on the way around",
    "seresnet18": "squeeze and excitation",
    "efficientnet_b0": "the same, depthwise",
    "tf_mobilenetv3_small_minimal_100": "padded as TensorFlow does",
    "convnext_atto": "layer normalisation, maps with channels last",
    "convnextv2_atto": "norms over the whole map",
    "test_resnet": "",
}


@pytest.mark.parametrize("backbone", FAMILIES)
def test_strips_give_the_numbers_of_the_whole_network(backbone: str) -> None:
    card, state = new_model(backbone, head="free", target="ihc+ish", patch_px=48)
    networks = [n.to(memory_format=torch.channels_last) for n in load_networks(card, state)]
    in_strips = StripPass(networks, card.side_px, CPU, "fp32", memory_bytes=1)
    (plan,) = in_strips.plans
    assert plan.memory_bytes < plan.whole_bytes
    assert max(segment.strips for segment in plan.segments) > 1
    pixels = torch.from_numpy(check_composites(card.side_px)[1][None])
    with torch.inference_mode():
        whole = linear_maps(networks, pixels, CPU, "fp32")
        found = in_strips(pixels)
        again = in_strips(pixels)
    assert torch.equal(found, again)
    assert found.shape == whole.shape
    assert float((found - whole).abs().max()) < 1e-5 * float(whole.abs().max())


class Odd(nn.Module):
    """What networks do at the borders of maps, on sides that nothing divides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 7, stride=2, padding=3)
        self.dilated = nn.Conv2d(4, 6, 3, padding=4, dilation=4, groups=2)
        self.tall = nn.Conv2d(6, 6, (5, 1), stride=(2, 1), padding=(2, 0))
        self.gate = nn.Linear(6, 6)
        self.norm = nn.BatchNorm2d(6)
        with torch.no_grad():
            assert self.norm.running_mean is not None
            self.norm.running_mean += 0.5

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = functional.relu_(self.stem(pixels.permute(0, 3, 1, 2) / 255))
        x = functional.max_pool2d(x, 3, 2, ceil_mode=True)
        x = self.norm(self.dilated(functional.pad(x, (1, 2, 5, 0), value=0.25)))
        left, right = torch.split(self.tall(x), 3, dim=1)
        x = torch.cat([right, left * 2], dim=1)
        x = x * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
        x = functional.avg_pool2d(functional.silu(x, inplace=True), 3, 1, padding=1)
        x = functional.avg_pool2d(x, 3, 2, padding=1)
        return functional.adaptive_avg_pool2d(x, 1) + functional.max_pool2d(x, (2, 3), (1, 2), (1, 0))


@pytest.mark.parametrize("side", [61, 94])
@pytest.mark.parametrize("strips", [2, 3, 7, 1000])
def test_borders_are_those_of_the_whole_network(side: int, strips: int) -> None:
    torch.manual_seed(3)
    module = Odd().eval().requires_grad_(False)
    pixels = torch.randint(0, 256, (1, side, side, 3), dtype=torch.uint8)
    graph = RowGraph.of(module, pixels, dim=1)
    assert graph.cuts()[-1] is graph.output
    with torch.inference_mode():
        whole = module(pixels)
        for count in (1, strips):
            found = compute(graph, [everything(graph, count)], pixels)
            torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)


def test_parts_that_need_whole_maps_get_them() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.after = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            x = functional.gelu(self.before(pixels.permute(0, 3, 1, 2) / 255))
            return self.after(x.softmax(dim=2).flip(2))

    module = Turned().eval().requires_grad_(False)
    pixels = torch.randint(0, 256, (1, 40, 40, 3), dtype=torch.uint8)
    graph = RowGraph.of(module, pixels, dim=1)
    plan = plan_strips(graph, 4, memory_bytes=1)
    assert plan.segments[-1].end is graph.output
    assert plan.segments[-1].strips == 1
    assert "gelu" in plan.segments[-1].start.name
    with torch.inference_mode():
        torch.testing.assert_close(compute(graph, plan.segments, pixels), module(pixels))


def test_more_memory_costs_less_computing() -> None:
    card, state = new_model("test_resnet", head="free", target="ihc", patch_px=64)
    network = load_networks(card, state)[0]
    pixels = torch.zeros((1, card.side_px, card.side_px, 3), dtype=torch.uint8)
    graph = RowGraph.of(Features(network), pixels, dim=1)
    least = plan_strips(graph, 4, 1)
    roomy = plan_strips(graph, 4, 2 * least.memory_bytes)
    assert least.memory_bytes < roomy.memory_bytes <= 2 * least.memory_bytes
    assert sum(s.cost for s in roomy.segments) < sum(s.cost for s in least.segments)
    everything_fits = plan_strips(graph, 4, 2 * least.whole_bytes)
    assert {segment.strips for segment in everything_fits.segments} == {1}


def test_a_network_of_attention_is_refused_with_a_way_out() -> None:
    card, state = new_model("vit_tiny_patch16_224", head="free", target="ihc", patch_px=64)
    with pytest.raises(DeviceError, match=r"VisionTransformer needs whole maps.*--engine torch"):
        StripPass(load_networks(card, state), card.side_px, CPU, "fp32", memory_bytes=1)


@pytest.mark.parametrize(("height", "strips"), [(10, 3), (7, 7), (5, 9), (64, 2)])
def test_strips_hold_every_row_once(height: int, strips: int) -> None:
    rows = strip_rows(height, strips)
    assert len(rows) <= strips
    assert [row for start, stop in rows for row in range(start, stop)] == list(range(height))


def everything(graph: RowGraph, strips: int) -> Segment:
    return Segment(graph.pixels, graph.output, tuple(graph.between(graph.pixels, graph.output)), strips, 0, 0)
