"""What is removed from a graph, and what a rule says that an operation has to say then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.analysis.coupling.groups import Kept, Slot
from graphopt.errors import InternalError
from graphopt.ir import Node, Tensor
from graphopt.ir.operands import int_list, normalized_axes
from graphopt.passes._removal_sizes import SizeArithmetic, Sizes


@dataclass(frozen=True)
class Mend:
    """What a node has to say.

    Attributes:
        attrs: attributes by name; None deletes one.
        operands: input index → the value it has to have; elements that aren't known are right as they are.
    """

    attrs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    operands: Mapping[int, Sizes] = field(default_factory=dict[int, Sizes])


@dataclass(frozen=True)
class Cuts:
    """What is removed from a graph.

    Attributes:
        kept: for each slot that loses elements, which of them stay.
        sizes: what the graph computes from shapes.
        opset: version of the standard operators.
    """

    kept: Mapping[Slot, Kept]
    sizes: SizeArithmetic
    opset: int

    def of(self, tensor: Tensor, axis: int) -> Kept | None:
        """Which elements along the axis stay; None when all do."""
        return self.kept.get(Slot(tensor, axis))

    def all_of(self, tensor: Tensor, axis: int) -> Kept:
        """The same, an array in any case; the axis must be of known size."""
        kept = self.of(tensor, axis)
        return np.ones(known_size(tensor, axis), dtype=bool) if kept is None else kept

    def axes(self, tensor: Tensor) -> list[int]:
        """The axes that lose elements."""
        return [axis for axis in range(len(tensor.shape or ())) if self.of(tensor, axis) is not None]

    def left(self, tensor: Tensor, axis: int) -> int:
        """How many elements stay along an axis of known size."""
        kept = self.of(tensor, axis)
        return known_size(tensor, axis) if kept is None else int(kept.sum())

    def touch(self, node: Node) -> bool:
        """Whether something that the node reads or writes loses elements."""
        return any(self.axes(t) for t in (*node.inputs, *node.outputs) if not t.is_empty())

    def compress(self, values: NDArray[Any], tensor: Tensor) -> NDArray[Any]:
        """What stays of a tensor's values."""
        for axis in self.axes(tensor):
            values = np.compress(self.all_of(tensor, axis), values, axis)
        return values


def failure(node: Node, why: str) -> InternalError:
    """The error to raise where a node can't say what it has to."""
    return InternalError(f"channels of {node} can't be removed: {why}")


def known_size(tensor: Tensor, axis: int) -> int:
    """The number of elements along an axis; an InternalError where it isn't known."""
    size = None if tensor.shape is None else tensor.shape[axis]
    if not isinstance(size, int):
        raise InternalError(f"axis {axis} of '{tensor.name}' has no known size, and loses elements")
    return size


def rank_of(tensor: Tensor) -> int:
    """The number of axes; an InternalError where it isn't known."""
    if tensor.shape is None:
        raise InternalError(f"'{tensor.name}' has no known rank, and loses elements")
    return len(tensor.shape)


def said(node: Node, attr: str, index: int, values: list[int]) -> Mend:
    """A list that is attribute `attr` in some opsets and input `index` in others."""
    if attr in node.attrs:
        return Mend(attrs={attr: values})
    return Mend(operands={index: Sizes.of(np.array(values, dtype=np.int64))})


def known_list(node: Node, cuts: Cuts, attr: str, index: int) -> list[int]:
    """What an attribute or an operand says before the cut; an InternalError where only a run of the model can tell."""
    found = int_list(node, attr, index)
    tensor = node.input(index)
    if found is None and tensor is not None:
        before = cuts.sizes.before(tensor)
        found = [int(v) for v in before.values.reshape(-1)] if before is not None and before.known.all() else None
    if found is None:
        raise failure(node, f"its {attr} aren't known before the model runs")
    return found


def axes_of(node: Node, axes: list[int] | None, rank: int) -> list[int]:
    """The axes counted from the front, all of them for None."""
    found = normalized_axes(list(range(rank)) if axes is None else [int(a) for a in axes], rank)
    if found is None:
        raise failure(node, f"its axes {axes} don't fit a tensor of rank {rank}")
    return found
