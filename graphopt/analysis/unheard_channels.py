"""Whether any channel is computed that nothing hears: the cheap question before `dead_channels` is asked.

Either all weights of a reader for a channel are 0, or all that is read of an activation are parts of it, taken by
Slice, Gather and Split, that leave some elements out.
"""

from __future__ import annotations

import numpy as np

from graphopt.analysis.channel_reads import channel_reads
from graphopt.analysis.coupling_groups import Slot
from graphopt.analysis.coupling_rules import ways
from graphopt.analysis.coupling_shapes import Shapes
from graphopt.ir import Graph, Tensor, Variable
from graphopt.ir.linear import linear_view


def has_unheard_channels(graph: Graph) -> bool:
    """Whether a channel of the main graph may be unheard; linear in the graph, each weight is read once at most."""
    for node in graph.nodes:
        linear = linear_view(graph, node)
        if linear is not None and not channel_reads(linear).any(axis=1).all():
            return True
        if any(_is_left_out(graph, tensor) for tensor in node.outputs):
            return True
    return False


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
