"""Whether elements of an activation are computed that nothing reads, as all that is read of it are parts.

Slice(x, 0:48), Slice(x, 48:60) of 64 channels: the last four aren't read
"""

from __future__ import annotations

import numpy as np

from graphopt.analysis.coupling.groups import Slot
from graphopt.analysis.coupling.rules import ways
from graphopt.analysis.coupling.shapes import Shapes
from graphopt.ir import Graph, Tensor, Variable


def has_unread_parts(graph: Graph) -> bool:
    """Whether parts that Slice, Gather and Split take leave out elements of any activation of the main graph."""
    return any(_is_left_out(graph, tensor) for node in graph.nodes for tensor in node.outputs)


def _is_left_out(graph: Graph, tensor: Variable) -> bool:
    """Whether an element along some axis of `tensor` is in none of the parts that are all that is read of it."""
    readers = graph.consumers(tensor)
    if not readers or graph.is_output(tensor) or not all(node.is_op("Gather", "Slice", "Split") for node in readers):
        return False
    links = [ways(node, Shapes())[0] for node in readers]
    for axis, size in enumerate(tensor.shape or ()):
        if not isinstance(size, int):
            continue
        slot, taken = Slot(tensor, axis), np.zeros(size, dtype=bool)
        for link in links:
            if any(slot in pair for pair in link.wholes):
                taken[:] = True
            for at in (hold.at for hold in link.holds if hold.slot == slot):
                taken[slice(None) if at is None else at] = True
            for tie in link.ties:
                part = tie.right.tensor
                if tie.left == slot and part is not tensor and _is_read(graph, part):
                    taken[tie.left_at] = True
        if not taken.all():
            return True
    return False


def _is_read(graph: Graph, tensor: Tensor) -> bool:
    return bool(tensor.outputs) or graph.is_output(tensor)
