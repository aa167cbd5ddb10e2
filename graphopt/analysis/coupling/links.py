"""What one operation says about the axes of its operands and results: which elements go together, and which must stay.

Axes that a rule doesn't mention stay whole, so that forgetting one is safe. An operation whose channels can go in
several ways (a Reshape that splits channels, a grouped Conv) gives one `Links` for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphopt.analysis.coupling.groups import Freeze, Slot
from graphopt.analysis.coupling.shapes import Shapes
from graphopt.ir import Constant, Node, Tensor, is_fixed
from graphopt.ir.operands import normalized_axes
from graphopt.ir.ops import RESHAPES

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Tie:
    """Element `left_at[i]` of `left` goes with element `right_at[i]` of `right`."""

    left: Slot
    left_at: Indices
    right: Slot
    right_at: Indices


@dataclass(frozen=True)
class Hold:
    """Elements of a slot that have to stay; `at` None for all."""

    slot: Slot
    freeze: Freeze
    at: Indices | None = None


class Links:
    """One way in which the axes of a node hang together.

    Attributes:
        node: the operation.
        shapes: the sizes of all axes.
        wholes: pairs of slots of equal size whose elements go together one by one.
        ties: any other pairs of elements.
        holds: what has to stay.
        balances: (slot, groups) of axes that fall into so many groups, all of which have to lose equally many.
        batches: slots that number separate products (attention heads): taking whole ones is the better choice.
    """

    def __init__(self, node: Node, shapes: Shapes) -> None:
        self.node = node
        self.shapes = shapes
        self.wholes: list[tuple[Slot, Slot]] = []
        self.ties: list[Tie] = []
        self.holds: list[Hold] = []
        self.balances: list[tuple[Slot, int]] = []
        self.batches: list[Slot] = []
        self._mentioned: set[Slot] = set()

    def size(self, tensor: Tensor, axis: int) -> int | None:
        """The number of elements along an axis, where it is known."""
        return self.shapes.size(tensor, axis)

    def rank(self, tensor: Tensor) -> int:
        """The rank."""
        return self.shapes.rank(tensor)

    def results(self) -> list[Tensor]:
        """Outputs that are there and whose rank is known: inference leaves some out that nobody reads."""
        return [tensor for tensor in self.node.present_outputs() if self.shapes.is_known(tensor)]

    def same(self, left: Tensor, left_axis: int, right: Tensor, right_axis: int) -> None:
        """Element i of one axis goes with element i of the other; where that can't be told, both stay whole."""
        sizes = self.size(left, left_axis), self.size(right, right_axis)
        alike = self.shapes.is_static(left, left_axis) == self.shapes.is_static(right, right_axis)
        if sizes[0] is not None and sizes[0] == sizes[1] and alike:
            pair = Slot(left, left_axis), Slot(right, right_axis)
            self._mentioned.update(pair)
            self.wholes.append(pair)
            return
        for tensor, axis, other in ((left, left_axis, right), (right, right_axis, left)):
            self.hold(tensor, axis, f"the size of '{other.name}' isn't known where {self.node.op} goes along with it")

    def tie(
        self, left: Tensor, left_axis: int, left_at: Indices, right: Tensor, right_axis: int, right_at: Indices
    ) -> None:
        """Element `left_at[i]` of one axis goes with element `right_at[i]` of the other."""
        pair = Slot(left, left_axis), Slot(right, right_axis)
        if self.node.op not in RESHAPES and not all(self.shapes.is_static(s.tensor, s.axis) for s in pair):
            for slot in pair:
                self.hold(slot.tensor, slot.axis, f"{self.node.op} moves it about an axis whose size isn't known")
            return
        self._mentioned.update(pair)
        self.ties.append(Tie(pair[0], left_at.astype(np.int64), pair[1], right_at.astype(np.int64)))

    def hold(self, tensor: Tensor, axis: int, reason: str, at: Indices | None = None) -> None:
        """Elements of an axis have to stay, all of them where `at` is None."""
        if self.size(tensor, axis) is None:
            return
        slot = Slot(tensor, axis)
        self._mentioned.add(slot)
        self.holds.append(Hold(slot, Freeze(reason, self.node), at))

    def balance(self, tensor: Tensor, axis: int, groups: int) -> None:
        """The axis falls into groups that have to stay equally large; which elements of each one go doesn't matter."""
        self._mentioned.add(Slot(tensor, axis))
        self.balances.append((Slot(tensor, axis), groups))

    def free(self, tensor: Tensor, axis: int) -> None:
        """The operation doesn't mind which elements of the axis are there (it sums over them).

        Elements of an axis of unknown size can't be set to zero, as nobody knows which they are; so they stay.
        """
        if self.shapes.is_static(tensor, axis):
            self._mentioned.add(Slot(tensor, axis))
        else:
            self.hold(tensor, axis, f"{self.node.op} reads it, and its size isn't known")

    def batch(self, tensor: Tensor, axis: int) -> None:
        """The axis numbers separate products."""
        if self.size(tensor, axis) is not None:
            self.batches.append(Slot(tensor, axis))

    def finished(self) -> Links:
        """Every axis that wasn't mentioned is held."""
        for tensor in dict.fromkeys((*(t for _, t in self.node.present_inputs()), *self.results())):
            for axis in range(self.rank(tensor)):
                if Slot(tensor, axis) not in self._mentioned and self.size(tensor, axis) != 1:
                    self.hold(tensor, axis, f"{self.node.op} needs it whole")
        return self


Rule = Callable[[Node, Shapes], Sequence[Links]]
"""The ways in which the axes of a node hang together, the preferred one first; none where they can't be told."""


def links_of(rule: Callable[[Node, Links], None]) -> Rule:
    """A rule with one way, written as a function that fills in the links."""

    def only(node: Node, shapes: Shapes) -> list[Links]:
        links = Links(node, shapes)
        rule(node, links)
        return [links]

    return only


def front_axis(node: Node, name: str, default: int, rank: int) -> int:
    """An axis attribute counted from the front; `rank` itself is allowed (Flatten)."""
    axis = int(node.attr(name, default))
    return axis + rank if axis < 0 else axis


def axes_or_none(axes: Sequence[int] | None, rank: int) -> list[int] | None:
    """Axes counted from the front, None where they aren't known or don't exist."""
    return None if axes is None else normalized_axes(list(axes), rank)


def broadcast(links: Links, operand: Tensor, result: Tensor) -> None:
    """The axes of an operand that is broadcast to the result."""
    shift = links.rank(result) - links.rank(operand)
    for axis in range(links.rank(operand)):
        if links.size(operand, axis) != 1 and axis + shift >= 0:
            links.same(operand, axis, result, axis + shift)


def is_stored(tensor: Tensor) -> bool:
    """Whether it is an initializer, a Constant node's, or of a ConstantOfShape that folding would make one of."""
    if isinstance(tensor, Constant) or not tensor.inputs:
        return isinstance(tensor, Constant)
    node = tensor.inputs[0]
    return node.is_op("Constant") or (node.is_op("ConstantOfShape") and is_fixed(node.input(0)))


def every(count: int) -> Indices:
    """0, 1, …, count − 1."""
    return np.arange(count, dtype=np.int64)
