"""A network as a graph of operations, and which of them can be computed strip by strip.

A convolution, a pooling or an activation needs for some rows of its output only some of its input, so that a
network of those can be computed strip by strip. A mean over the whole map (squeeze and excitation: Hu, Shen
and Sun 2018) needs all rows, but can be summed up strip by strip. Of operations that are not known, such as
attention, nothing is assumed: they are *barriers*, and get their inputs whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg

from herohe_model.row_rules import RULES
from herohe_model.row_steps import WEIGHTED, Reduction, Rows, Step, Window, call, elements


@dataclass
class RowGraph:
    """The operations of a network from pixels to its final map, in order.

    Attributes
    ----------
    pixels, output
        Where it begins and ends.
    nodes, places
        All operations on what depends on the pixels, and the index of each.
    constants
        What does not: weights, and what is computed of them alone.
    steps, reductions
        What may be computed by rows; the pixels are a step without an operation.
    whole
        What follows from constants and reductions alone; the rest needs whole maps.
    """

    pixels: fx.Node
    output: fx.Node
    nodes: list[fx.Node] = field(default_factory=list)
    places: dict[fx.Node, int] = field(default_factory=dict)
    constants: dict[fx.Node, Any] = field(default_factory=dict)
    steps: dict[fx.Node, Step] = field(default_factory=dict)
    reductions: dict[fx.Node, Reduction] = field(default_factory=dict)
    whole: set[fx.Node] = field(default_factory=set)

    @classmethod
    def of(cls, module: torch.nn.Module, pixels: torch.Tensor, dim: int) -> RowGraph:
        """Read a module in evaluation mode without running it; the graph shares its weights.

        Parameters
        ----------
        pixels
            What it takes; the values do not matter.
        dim
            The dimension of `pixels` that counts rows.
        """
        # Without decompositions: only in-place operations become ordinary ones.
        program = torch.export.export(module, (pixels,)).run_decompositions({})
        given = _weights(program)
        entry = next(n for n in program.graph.nodes if n.op == "placeholder" and n not in given)
        (output,) = program.graph.output_node().args[0]
        graph = cls(entry, output, constants=given)
        graph.steps[entry] = Step(entry, dim, pixels.shape[dim], (), ())
        for node in program.graph.nodes:
            if node.op == "call_function":
                graph._add(node)
        return graph

    def needs(
        self, nodes: Sequence[fx.Node], target: fx.Node, rows: Rows, start: fx.Node
    ) -> dict[fx.Node, Rows]:
        """Return which rows of which steps are needed for rows of a target, in order, `start` first.

        Parameters
        ----------
        nodes
            Operations in order, from after `start` up to the target, and perhaps beyond.
        """
        found = {target: rows}
        for node in reversed(nodes):
            if node not in found or node is start:
                continue
            step = self.steps[node]
            for each in step.inputs:
                rows = step.window.rows(found[node]).inside(self.steps[each].height)
                found[each] = found[each].with_(rows) if each in found else rows
        return {start: found[start]} | {node: found[node] for node in nodes if node in found}

    def cuts(self) -> list[fx.Node]:
        """Return the steps after which nothing but their own result is needed of all that was computed.

        The pixels are the first; a step whose result is only changed element by element before the next cut,
        without becoming larger, is left out.
        """
        last = {self.pixels: -1, self.output: len(self.nodes)}
        for index, node in enumerate(self.nodes):
            for each in node.all_input_nodes:
                if each not in self.constants:
                    last[each] = max(last.get(each, -1), index)
        found, alive = [self.pixels], {self.pixels}
        for index, node in enumerate(self.nodes):
            if not (node in self.steps or node in self.reductions or node in self.whole):
                break
            alive = {each for each in (*alive, node) if last.get(each, -1) > index}
            if alive == {node} and node in self.steps and isinstance(node.meta["val"], torch.Tensor):
                step, before = self.steps[node], found[-1]
                plain = step.window == Window() and elements(node) <= elements(before) and len(found) > 1
                if plain and self._reaches(node, before):
                    found.pop()
                found.append(node)
        return found

    def between(self, start: fx.Node, end: fx.Node) -> list[fx.Node]:
        """Return the operations after one cut up to another, that one included."""
        first = 0 if start is self.pixels else self.places[start] + 1
        return self.nodes[first : self.places[end] + 1]

    def _reaches(self, node: fx.Node, before: fx.Node) -> bool:
        """Whether a node comes from another by operations on single rows alone."""
        while node is not before:
            step = self.steps.get(node)
            if step is None or len(step.inputs) != 1 or step.window != Window():
                return False
            if node.target in WEIGHTED:
                return False
            node = step.inputs[0]
        return True

    def _add(self, node: fx.Node) -> None:
        if all(each in self.constants for each in node.all_input_nodes):
            args, kwargs = (map_arg(a, self.constants.__getitem__) for a in (node.args, node.kwargs))
            with torch.inference_mode():
                self.constants[node] = call(node, args, kwargs)
            return
        self.places[node] = len(self.nodes)
        self.nodes.append(node)
        if not any(each in self.steps for each in node.all_input_nodes):
            small = (self.constants, self.reductions, self.whole)
            if all(any(each in some for some in small) for each in node.all_input_nodes):
                self.whole.add(node)
            return
        rule = RULES.get(str(node.target))
        found = rule(node, self.steps) if rule is not None else None
        if isinstance(found, Step):
            self.steps[node] = found
        elif isinstance(found, Reduction):
            self.reductions[node] = found


def _weights(program: torch.export.ExportedProgram) -> dict[fx.Node, Any]:
    signature = program.graph_signature
    named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    named |= signature.inputs_to_lifted_tensor_constants
    values = {**program.constants, **program.state_dict}
    nodes = (node for node in program.graph.nodes if node.op == "placeholder" and node.name in named)
    return {node: values[named[node.name]] for node in nodes}
