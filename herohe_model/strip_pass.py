"""The forward pass by PyTorch, strip by strip: the same numbers, in a fraction of the memory.

Between layers, a network holds maps of the whole composite, of which it needs no more than a few rows at a
time. Computing them in strips is known from the training of networks on whole slides (Pinckaers, van Ginneken
and Litjens 2022, *Streaming convolutional neural networks for end-to-end learning with multi-megapixel
images*); here the strips follow from the network's own graph, and means over the whole map, which
squeeze-and-excitation needs, are summed up in a pass of their own.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import Any, Final

import torch
from torch import fx
from torch.fx.node import map_arg

from herohe_model.device import Precision
from herohe_model.errors import DeviceError
from herohe_model.network import OrdinalNetwork
from herohe_model.row_graph import RowGraph
from herohe_model.row_steps import Rows, Strip, call
from herohe_model.strip_plan import Segment, StripPlan, plan_strips, strip_rows

MEMORY_BYTES: Final = 256 * 2**20
"""What the maps of a composite may take, where the network can be computed in that."""

_WORTH_IT: Final = 0.75
"""A plan beyond that memory must hold less than this share of what the whole network does."""


class StripPass:
    """The networks of a model, computed strip by strip.

    Parameters
    ----------
    networks
        In evaluation mode, frozen, on the device.
    side_px
        Side of the composites.
    memory_bytes
        What the maps of a composite may take, where that is enough; None for ``MEMORY_BYTES``.

    Raises
    ------
    DeviceError
        If they would hold as much in strips as whole: networks with attention over the whole composite.
    """

    def __init__(
        self,
        networks: Sequence[OrdinalNetwork],
        side_px: int,
        device: torch.device,
        precision: Precision,
        memory_bytes: int | None = None,
    ) -> None:
        self._networks = networks
        limit = MEMORY_BYTES if memory_bytes is None else memory_bytes
        self._device = device
        self._precision = precision
        pixels = torch.zeros((1, side_px, side_px, 3), dtype=torch.uint8, device=device)
        self._parts = []
        for network in networks:
            graph = RowGraph.of(Features(network).eval(), pixels, dim=1)
            plan = plan_strips(graph, 2 if precision == "bf16" else 4, limit)
            if plan.memory_bytes > max(limit, _WORTH_IT * plan.whole_bytes):
                name = type(network.backbone).__name__
                raise DeviceError(
                    f"The backbone {name} needs whole maps: in strips it would not take less memory",
                    "Use --engine torch, or a convolutional backbone such as resnet50",
                )
            self._parts.append((graph, plan))

    @property
    def plans(self) -> list[StripPlan]:
        """How each of the networks is computed."""
        return [plan for _, plan in self._parts]

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute the linear maps of one composite.

        Parameters
        ----------
        pixels
            Shape (1, side, side, 3), uint8, R, G, B, on the device.

        Returns
        -------
        Tensor
            Shape (members, bits, h, w), float32, without biases, on the device.
        """
        bf16 = self._precision == "bf16"
        maps = []
        for network, (graph, plan) in zip(self._networks, self._parts, strict=True):
            with torch.autocast(self._device.type, torch.bfloat16) if bf16 else nullcontext():
                features = compute(graph, plan.segments, pixels)
            maps.append(network.head.linear(features.float())[0])
        return torch.stack(maps)


class Features(torch.nn.Module):
    """What of a network is computed in strips."""

    def __init__(self, network: OrdinalNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Shape (n, channels, h, w) of pixels (n, side, side, 3)."""
        return self.network.features(pixels)


def compute(graph: RowGraph, segments: Iterable[Segment], pixels: torch.Tensor) -> torch.Tensor:
    """Compute a graph from its pixels to its output, segment by segment."""
    value = pixels
    for segment in segments:
        value = (_whole if segment.strips == 1 else _in_strips)(graph, segment, value)
        if value.device.type == "cpu":
            _trim_heap()
    return value


def _trim_heap() -> None:
    """Give freed memory back to the system, which the C library of Linux would rather keep."""
    trim = getattr(_c_library(), "malloc_trim", None)
    if trim is not None:
        trim(0)


@lru_cache(maxsize=1)
def _c_library() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None


def _whole(graph: RowGraph, segment: Segment, start: torch.Tensor) -> torch.Tensor:
    """Compute all rows at once, letting go of each result after its last use."""
    last = {each: node for node in segment.nodes for each in node.all_input_nodes}
    values: dict[fx.Node, Any] = {segment.start: start}
    for node in segment.nodes:
        args, kwargs = (
            map_arg(each, lambda n: values[n] if n in values else graph.constants[n])
            for each in (node.args, node.kwargs)
        )
        values[node] = call(node, args, kwargs)
        del args, kwargs
        for each in node.all_input_nodes:
            if last[each] is node and each in values:
                del values[each]
    result: torch.Tensor = values[segment.end]
    return result


def _in_strips(graph: RowGraph, segment: Segment, start: torch.Tensor) -> torch.Tensor:
    begin = graph.steps[segment.start]
    strip = Strip(start, 0, begin.dim, begin.height)
    whole = dict(graph.constants)
    for node in segment.nodes:
        if node in graph.reductions:
            reduction = graph.reductions[node]
            parts = (value for _, value in _strips(graph, segment, reduction.input, strip, whole))
            total = reduction.part(next(parts))
            for part in parts:
                total += reduction.part(part)
            whole[node] = reduction.result(total)
        elif node not in graph.steps:
            args, kwargs = (map_arg(each, whole.__getitem__) for each in (node.args, node.kwargs))
            whole[node] = call(node, args, kwargs)
    result = None
    end = graph.steps[segment.end]
    for rows, value in _strips(graph, segment, segment.end, strip, whole):
        if result is None:
            shape = (*value.shape[: end.dim], end.height, *value.shape[end.dim + 1 :])
            last = value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last)
            layout = torch.channels_last if last else torch.contiguous_format
            result = torch.empty(shape, dtype=value.dtype, device=value.device, memory_format=layout)
        result.narrow(end.dim, rows.start, rows.stop - rows.start).copy_(value)
    assert result is not None
    return result


def _strips(
    graph: RowGraph, segment: Segment, target: fx.Node, start: Strip, whole: Mapping[fx.Node, Any]
) -> Iterator[tuple[Rows, Any]]:
    """Compute a step of a segment, one strip after the other."""
    for rows in strip_rows(graph.steps[target].height, segment.strips):
        needs = graph.needs(segment.nodes, target, rows, segment.start)
        last = {
            each: node for node in needs if node is not segment.start for each in graph.steps[node].inputs
        }
        values = {segment.start: start}
        for node, needed in needs.items():
            if node is segment.start:
                continue
            step = graph.steps[node]
            values[node] = Strip(step.run(needed, values, whole), needed.start, step.dim, step.height)
            for each in step.inputs:
                if last[each] is node:
                    values.pop(each, None)
        yield rows, values[target].narrow(rows)
