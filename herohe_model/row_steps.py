"""Operations of a network whose rows can be computed apart, and strips of rows on their way through them."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Final, NamedTuple

import torch
from torch import fx
from torch.fx.node import map_arg
from torch.nn import functional


class Rows(NamedTuple):
    """Rows ``start`` to ``stop`` of a map, the last not among them."""

    start: int
    stop: int

    def inside(self, height: int) -> Rows:
        """Return those of a map of that height; they may be none."""
        return Rows(min(max(self.start, 0), height), min(max(self.stop, 0), height))

    def with_(self, other: Rows) -> Rows:
        """Return the least interval that holds both."""
        return Rows(min(self.start, other.start), max(self.stop, other.stop))


@dataclass(frozen=True)
class Window:
    """Which rows of its input an operation looks at: as a convolution's arguments say it, in rows."""

    size: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    def rows(self, of: Rows) -> Rows:
        """Return the rows of the input for rows of the output; they may lie outside it."""
        last = (of.stop - 1) * self.stride - self.padding + (self.size - 1) * self.dilation
        return Rows(of.start * self.stride - self.padding, last + 1)


@dataclass(frozen=True, eq=False)
class Step:
    """An operation whose rows can be computed apart.

    Attributes
    ----------
    node
        The operation; for one with several results, they have their rows in common.
    dim
        The dimension of its result that counts rows.
    height
        How many there are.
    inputs
        Those of its inputs that have rows.
    args
        Its arguments, without the padding of rows.
    window, fill
        Which rows of its inputs it looks at, and what it finds outside of them.
    """

    node: fx.Node
    dim: int
    height: int
    inputs: tuple[fx.Node, ...]
    args: tuple[Any, ...]
    window: Window = Window()
    fill: float = 0.0

    def run(self, rows: Rows, values: Mapping[fx.Node, Strip], whole: Mapping[fx.Node, Any]) -> Any:
        """Compute rows of the result, from values that hold at least the rows it needs."""
        found = {node: self._input(values[node], self.window.rows(rows)) for node in self.inputs}
        args = map_arg(self.args, lambda node: found[node] if node in found else whole[node])
        kwargs = map_arg(self.node.kwargs, lambda node: found[node] if node in found else whole[node])
        return call(self.node, args, kwargs)

    def _input(self, strip: Strip, rows: Rows) -> Any:
        inside = rows.inside(strip.height)
        value = strip.narrow(inside)
        if inside == rows:
            return value
        above = min(max(-rows.start, 0), rows.stop - rows.start)
        below = rows.stop - rows.start - above - (inside.stop - inside.start)
        # Pairs from the last dimension on.
        pad = (*(0, 0) * (value.dim() - 1 - strip.dim), above, below)
        return functional.pad(value, pad, "constant", self.fill)


@dataclass(frozen=True)
class Strip:
    """Rows of a result that has ``height``: ``value``, a tensor or several, holds those from ``start`` on."""

    value: Any
    start: int
    dim: int
    height: int

    def narrow(self, rows: Rows) -> Any:
        """Return some of its rows, without a copy."""
        if isinstance(self.value, (tuple, list)):
            # What batch normalisation returns beside its result has no rows.
            return [self._narrow(v, rows) if v.dim() > self.dim else v for v in self.value]
        return self._narrow(self.value, rows)

    def _narrow(self, value: torch.Tensor, rows: Rows) -> torch.Tensor:
        return value.narrow(self.dim, rows.start - self.start, rows.stop - rows.start)


@dataclass(frozen=True, eq=False)
class Reduction:
    """A mean, or a Euclidean norm, over all rows of a map."""

    node: fx.Node
    input: fx.Node
    dims: tuple[int, ...]
    keepdim: bool
    norm: bool

    def part(self, value: torch.Tensor) -> torch.Tensor:
        """Sum up one strip."""
        value = value.float()
        return (value.square() if self.norm else value).sum(self.dims, self.keepdim)

    def result(self, total: torch.Tensor) -> torch.Tensor:
        """Make the result of the sum of all parts."""
        of, result = self.input.meta["val"], self.node.meta["val"]
        if not self.norm:
            total = total / prod(of.shape[dim] for dim in self.dims)
        return (total.sqrt() if self.norm else total).to(result.dtype)


def elements(node: fx.Node) -> int:
    """Return how many numbers the result of an operation has; of several results, those with rows."""
    return sum(value.numel() for value in tensors(node))


def element_bytes(node: fx.Node, precision_bytes: int) -> int:
    """Return the bytes of one of them, where floating point takes `precision_bytes`."""
    dtype = tensors(node)[0].dtype
    return precision_bytes if dtype.is_floating_point else dtype.itemsize


def is_view(node: fx.Node) -> bool:
    """Whether the result of an operation lies in the memory of its first input."""
    return str(node.target) in _VIEWS


def work(node: fx.Node) -> int:
    """Return about how many operations each number of a result costs, the moving of it counted as eight."""
    weight: Any = node.args[1] if node.target in WEIGHTED else None
    return 8 + (weight.meta["val"][0].numel() if weight is not None else 0)


def call(node: fx.Node, args: Any, kwargs: Any) -> Any:
    """Run an operation."""
    target = node.target
    assert callable(target)
    return target(*args, **kwargs)


def tensors(node: fx.Node) -> list[torch.Tensor]:
    """Return what stands for the results of an operation that have rows: shapes and types, no values."""
    value = node.meta["val"]
    if isinstance(value, torch.Tensor):
        return [value]
    return [each for each in value if each.dim() == value[0].dim()]


WEIGHTED: Final = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)
"""Operations with a weight as second argument."""

_VIEWS: Final = (
    *("aten.permute.default", "aten.slice.Tensor", "aten.split.Tensor", "aten.split_with_sizes.default"),
    *("aten.chunk.default", "aten.alias.default", "aten.detach.default", "aten.view.default"),
    *("aten.transpose.int", "aten.unsqueeze.default", "aten.expand.default", str(operator.getitem)),
)
