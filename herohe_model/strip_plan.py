"""How to compute a network strip by strip: where its maps are kept whole, and how high the strips between.

Between two cuts of a network (:meth:`~herohe_model.row_graph.RowGraph.cuts`) only their two maps are kept
whole; what lies between is computed for a strip of rows at a time, and at the edges of strips again for the
next. Few cuts mean much that is computed twice, many mean large maps. The plan that costs least within a
given memory is found by dynamic programming over the cuts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from torch import fx

from herohe_model.row_graph import RowGraph
from herohe_model.row_steps import Rows, element_bytes, elements, is_view, work

_STRIPS: Final = (2, 4, 8, 16, 32, 64, 128)
_FARTHEST: Final = 12
"""Cuts that a segment may leap; the halo of a strip grows with each."""


@dataclass(frozen=True)
class Segment:
    """From one cut to another, in so many strips.

    Attributes
    ----------
    start, end
        What is kept whole.
    nodes
        The operations between, in order, the end among them.
    strips
        1 for all rows at once.
    memory_bytes
        The most that is held, weights not counted.
    cost
        About how many operations it takes.
    """

    start: fx.Node
    end: fx.Node
    nodes: tuple[fx.Node, ...]
    strips: int
    memory_bytes: int
    cost: int


@dataclass(frozen=True)
class StripPlan:
    """Segments from the pixels to the final map.

    Attributes
    ----------
    whole_bytes
        The most that is held when the network is computed whole.
    """

    segments: tuple[Segment, ...]
    whole_bytes: int

    @property
    def memory_bytes(self) -> int:
        """The most that is held at once, weights not counted."""
        return max(segment.memory_bytes for segment in self.segments)


def plan_strips(graph: RowGraph, precision_bytes: int, memory_bytes: int) -> StripPlan:
    """Find the cheapest plan within a memory, or the one that needs the least where none does.

    Parameters
    ----------
    precision_bytes
        Bytes of a floating-point number.
    """
    measure = _Measure(graph, precision_bytes)
    cuts = graph.cuts()
    # What follows a barrier is computed whole.
    tail = [] if cuts[-1] is graph.output else [measure.whole(cuts[-1], graph.output)]
    between = {
        (i, j): measure.choices(cuts[i], cuts[j])
        for j in range(1, len(cuts))
        for i in range(max(0, j - _FARTHEST), j)
    }
    least = _least_memory(between, len(cuts))
    limit = max(memory_bytes, least)
    best: list[tuple[int, tuple[Segment, ...]]] = [(0, ())]
    for j in range(1, len(cuts)):
        ways = [
            (best[i][0] + choice.cost, (*best[i][1], choice))
            for i in range(max(0, j - _FARTHEST), j)
            for choice in between[i, j]
            if choice.memory_bytes <= limit and best[i][0] >= 0
        ]
        best.append(min(ways, key=lambda way: way[0], default=(-1, ())))
    whole = measure.whole(graph.pixels, graph.output)
    return StripPlan((*best[-1][1], *tail), whole.memory_bytes)


def _least_memory(between: dict[tuple[int, int], list[Segment]], cuts: int) -> int:
    least = [0]
    for j in range(1, cuts):
        ways = range(max(0, j - _FARTHEST), j)
        least.append(min(max(least[i], min(c.memory_bytes for c in between[i, j])) for i in ways))
    return least[-1]


class _Measure:
    """What parts of a graph cost, and hold in memory."""

    def __init__(self, graph: RowGraph, precision_bytes: int) -> None:
        self._graph = graph
        nodes = (graph.pixels, *graph.nodes)
        self._bytes = {node: elements(node) * element_bytes(node, precision_bytes) for node in nodes}
        self._cost = {node: elements(node) * work(node) for node in graph.nodes}

    def whole(self, start: fx.Node, end: fx.Node) -> Segment:
        """Everything at once."""
        nodes = self._graph.between(start, end)
        cost = sum(self._cost[node] for node in nodes)
        return Segment(start, end, tuple(nodes), 1, _peak(start, nodes, self._bytes), cost)

    def choices(self, start: fx.Node, end: fx.Node) -> list[Segment]:
        """Everything at once, and in ever more strips."""
        graph, found = self._graph, [self.whole(start, end)]
        nodes = found[0].nodes
        kept = self._bytes[start] + self._bytes[end]
        targets = [graph.reductions[node].input for node in nodes if node in graph.reductions]
        for strips in _STRIPS:
            if strips > graph.steps[end].height // 2:
                break
            costs, peaks = zip(*(self._strip(nodes, t, strips, start) for t in (*targets, end)), strict=True)
            found.append(Segment(start, end, nodes, strips, kept + max(peaks), sum(costs)))
        return found

    def _strip(
        self, nodes: Sequence[fx.Node], target: fx.Node, strips: int, start: fx.Node
    ) -> tuple[int, int]:
        """Return the cost of all strips of a target, and the most that one of them holds."""
        steps = self._graph.steps
        rows = strip_rows(steps[target].height, strips)
        # One in the middle has halos on both sides.
        needs = self._graph.needs(nodes, target, rows[len(rows) // 2], start)
        sizes = {n: (r.stop - r.start) * self._bytes[n] // steps[n].height for n, r in needs.items()}
        sizes[start] = 0
        cost = sum(
            (r.stop - r.start) * self._cost[n] // steps[n].height for n, r in needs.items() if n is not start
        )
        return len(rows) * cost, _peak(start, [n for n in needs if n is not start], sizes)


def strip_rows(height: int, strips: int) -> list[Rows]:
    """Part rows into strips of equal height, the last perhaps less high."""
    each = -(-height // strips)
    return [Rows(start, min(start + each, height)) for start in range(0, height, each)]


def _peak(start: fx.Node, nodes: Sequence[fx.Node], sizes: Mapping[fx.Node, int]) -> int:
    """Return the most that is held while nodes are computed in order, each let go after its last use.

    The start stays, as whoever computes from it holds it too.
    """
    owners = {start: start}
    last: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        owners[node] = owners.get(node.all_input_nodes[0], node) if is_view(node) else node
        for each in node.all_input_nodes:
            if each in owners:
                last[owners[each]] = node
    held = peak = sizes[start]
    for node in nodes:
        if owners[node] is node:
            held += sizes[node]
        peak = max(peak, held)
        used = {owners[each] for each in node.all_input_nodes if each in owners} - {start}
        held -= sum(sizes[each] for each in used if last[each] is node)
    return peak
