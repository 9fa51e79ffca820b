"""Which rows of their inputs the rows of a result come from, operation by operation.

Of an operation that is not here, or with arguments that are not, nothing is assumed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import fx

from herohe_model.row_steps import Reduction, Step, Window, tensors

_Steps = Mapping[fx.Node, Step]
_Rule = Callable[[fx.Node, _Steps], "Step | Reduction | None"]


def _argument(node: fx.Node, index: int, name: str, default: Any) -> Any:
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def _pair(numbers: Any) -> tuple[int, int]:
    """Return what an argument says for rows and columns, of one number or one for each."""
    return (numbers, numbers) if isinstance(numbers, int) else (numbers[0], numbers[-1])


def _elementwise(node: fx.Node, steps: _Steps) -> Step | None:
    """Rows of the result come from the same rows of every input; broadcasting over rows is allowed."""
    inputs = [each for each in node.all_input_nodes if each in steps]
    first = tensors(inputs[0])[0].dim() - steps[inputs[0]].dim
    height = steps[inputs[0]].height
    shape = tensors(node)[0].shape
    for each in node.all_input_nodes:
        value = tensors(each)[0]
        if each in steps and (value.dim() - steps[each].dim, steps[each].height) != (first, height):
            return None
        if each not in steps and value.dim() >= first and value.shape[-first] != 1:
            return None
    if len(shape) < first or shape[-first] != height:
        return None
    return Step(node, len(shape) - first, height, tuple(inputs), node.args)


def _one_input(node: fx.Node, steps: _Steps) -> tuple[fx.Node, Step] | None:
    """Return the first argument and its step, where that alone has rows."""
    first = node.args[0]
    if not isinstance(first, fx.Node) or [n for n in node.all_input_nodes if n in steps] != [first]:
        return None
    return first, steps[first]


def _along(dims: Callable[[fx.Node, int], Sequence[int]]) -> _Rule:
    """For what mixes elements along dimensions of its first input, and leaves the others as they are."""

    def rule(node: fx.Node, steps: _Steps) -> Step | None:
        found = _one_input(node, steps)
        if found is None:
            return None
        each, step = found
        size = tensors(each)[0].dim()
        if step.dim in [dim % size for dim in dims(node, size)]:
            return None
        shape = tensors(node)[0].shape
        if len(shape) != size or shape[step.dim] != step.height:
            return None
        return Step(node, step.dim, step.height, (each,), node.args)

    return rule


def _concatenate(node: fx.Node, steps: _Steps) -> Step | None:
    inputs = node.all_input_nodes
    if not all(each in steps for each in inputs):
        return None
    dim, height = steps[inputs[0]].dim, steps[inputs[0]].height
    if any((steps[each].dim, steps[each].height) != (dim, height) for each in inputs):
        return None
    if _argument(node, 1, "dim", 0) % tensors(node)[0].dim() == dim:
        return None
    return Step(node, dim, height, tuple(inputs), node.args)


def _permute(node: fx.Node, steps: _Steps) -> Step | None:
    found = _one_input(node, steps)
    if found is None:
        return None
    each, step = found
    size = tensors(each)[0].dim()
    order = [dim % size for dim in _argument(node, 1, "dims", ())]
    return Step(node, order.index(step.dim), step.height, (each,), node.args)


def _item(node: fx.Node, steps: _Steps) -> Step | None:
    found = _one_input(node, steps)
    if found is None or node.meta["val"].dim() <= found[1].dim:
        return None
    each, step = found
    return Step(node, step.dim, step.height, (each,), node.args)


def _convolution(node: fx.Node, steps: _Steps) -> Step | None:
    # (input, weight, bias, stride, padding, dilation, groups)
    found = _one_input(node, steps)
    padding = _argument(node, 4, "padding", 0)
    if found is None or found[1].dim != 2 or isinstance(padding, str):
        return None
    weight = node.args[1]
    assert isinstance(weight, fx.Node)
    rows, columns = _pair(padding)
    stride, dilation = _pair(_argument(node, 3, "stride", 1)), _pair(_argument(node, 5, "dilation", 1))
    window = Window(weight.meta["val"].shape[2], stride[0], rows, dilation[0])
    bias, groups = _argument(node, 2, "bias", None), _argument(node, 6, "groups", 1)
    args = (found[0], weight, bias, stride, (0, columns), dilation, groups)
    return _windowed(node, found, args, window, 0.0)


def _max_pool(node: fx.Node, steps: _Steps) -> Step | None:
    # (input, kernel, stride, padding, dilation, ceil_mode)
    found = _one_input(node, steps)
    if found is None or found[1].dim != 2:
        return None
    kernel, stride = _pair(node.args[1]), _pair(_argument(node, 2, "stride", ()) or node.args[1])
    rows, columns = _pair(_argument(node, 3, "padding", 0))
    dilation = _pair(_argument(node, 4, "dilation", 1))
    args = (found[0], kernel, stride, (0, columns), dilation, _argument(node, 5, "ceil_mode", False))
    return _windowed(node, found, args, Window(kernel[0], stride[0], rows, dilation[0]), -torch.inf)


def _average_pool(node: fx.Node, steps: _Steps) -> Step | None:
    # (input, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)
    found = _one_input(node, steps)
    if found is None or found[1].dim != 2:
        return None
    kernel, stride = _pair(node.args[1]), _pair(_argument(node, 2, "stride", ()) or node.args[1])
    rows, columns = _pair(_argument(node, 3, "padding", 0))
    # Where padding does not count, or a window is cut off, the mean depends on where the border is.
    counts = _argument(node, 5, "count_include_pad", True)
    cut_off = _argument(node, 4, "ceil_mode", False) and (found[1].height + 2 * rows - kernel[0]) % stride[0]
    if (rows and not counts) or cut_off:
        return None
    args = (found[0], kernel, stride, (0, columns), *node.args[4:])
    return _windowed(node, found, args, Window(kernel[0], stride[0], rows), 0.0)


def _pad(node: fx.Node, steps: _Steps) -> Step | None:
    # (input, pairs from the last dimension on, mode, value)
    found = _one_input(node, steps)
    if found is None or _argument(node, 2, "mode", "constant") not in ("constant", None, 0):
        return None
    pairs: Any = node.args[1]
    at = 2 * (tensors(found[0])[0].dim() - 1 - found[1].dim)
    before = pairs[at] if len(pairs) > at else 0
    inner = [0 if index in (at, at + 1) else number for index, number in enumerate(pairs)]
    value = _argument(node, 3, "value", None)
    args = (found[0], inner, "constant", value)
    return _windowed(node, found, args, Window(padding=before), float(value or 0.0))


def _windowed(
    node: fx.Node, found: tuple[fx.Node, Step], args: tuple[Any, ...], window: Window, fill: float
) -> Step | None:
    each, step = found
    if node.kwargs:
        # The arguments are all in `args`.
        return None
    return Step(node, step.dim, node.meta["val"].shape[step.dim], (each,), args, window, fill)


def _reduction(node: fx.Node, steps: _Steps) -> Step | Reduction | None:
    # A mean has (input, dims, keepdim), a norm (input, order, dims, keepdim), a pool (input, size).
    found = _one_input(node, steps)
    if found is None:
        return None
    each, step = found
    size, name = each.meta["val"].dim(), str(node.target)
    norm = "norm" in name
    if "adaptive" in name:
        if _pair(_argument(node, 1, "output_size", None)) != (1, 1):
            return None
        dims, keepdim = (size - 2, size - 1), True
    else:
        if norm and _argument(node, 1, "ord", 2) != 2:
            return None
        dims = tuple(dim % size for dim in _argument(node, 2 if norm else 1, "dim", None) or range(size))
        keepdim = _argument(node, 3 if norm else 2, "keepdim", False)
    if step.dim not in dims:
        return Step(node, step.dim, step.height, (each,), node.args) if keepdim else None
    return Reduction(node, each, dims, keepdim, norm)


_ELEMENTWISE: Final = (
    *("add.Tensor", "add.Scalar", "sub.Tensor", "sub.Scalar", "mul.Tensor", "mul.Scalar", "div.Tensor"),
    *("div.Scalar", "addcmul.default", "pow.Tensor_Scalar", "clamp.default", "clamp_min.default"),
    *("relu.default", "relu6.default", "silu.default", "gelu.default", "sigmoid.default", "tanh.default"),
    *("hardtanh.default", "hardswish.default", "hardsigmoid.default", "leaky_relu.default", "elu.default"),
    *("mish.default", "softplus.default", "exp.default", "neg.default", "sqrt.default", "square.default"),
    *("clone.default", "alias.default", "contiguous.default", "dropout.default", "_to_copy.default"),
    *("to.dtype", "detach.default", "detach_.default"),
)

RULES: Final[Mapping[str, _Rule]] = {
    **{f"aten.{name}": _elementwise for name in _ELEMENTWISE},
    "aten._native_batch_norm_legit_no_training.default": _along(lambda *_: (1,)),
    "aten.layer_norm.default": _along(lambda node, _: range(-len(_argument(node, 1, "shape", ())), 0)),
    "aten.linear.default": _along(lambda *_: (-1,)),
    "aten.slice.Tensor": _along(lambda node, _: (_argument(node, 1, "dim", 0),)),
    "aten.split.Tensor": _along(lambda node, _: (_argument(node, 2, "dim", 0),)),
    "aten.split_with_sizes.default": _along(lambda node, _: (_argument(node, 2, "dim", 0),)),
    "aten.chunk.default": _along(lambda node, _: (_argument(node, 2, "dim", 0),)),
    "aten.cat.default": _concatenate,
    "aten.permute.default": _permute,
    "aten.conv2d.default": _convolution,
    "aten.max_pool2d.default": _max_pool,
    "aten.avg_pool2d.default": _average_pool,
    "aten.pad.default": _pad,
    "aten.constant_pad_nd.default": _pad,
    "aten.mean.dim": _reduction,
    "aten.adaptive_avg_pool2d.default": _reduction,
    "aten.linalg_vector_norm.default": _reduction,
    str(operator.getitem): _item,
}
"""How each operation, as PyTorch names it, is made a step or a reduction; None where it cannot be one."""
