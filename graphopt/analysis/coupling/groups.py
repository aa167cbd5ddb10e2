"""Which channels of a graph can only be removed together: the result of `coupling.couple`.

    Conv(w1) → Relu → Conv(w2)      one group of 64 units, unit u: channel u of both activations, w1[u], b1[u], w2[:, u]
    Flatten of [N, 64, 7, 7]        unit u takes 49 elements of the flat axis
    Conv with group=4, 64 channels  16 units of 4 channels, one of each group (or 4 units, a whole group each)

A *slot* is one axis of one tensor (an activation's or a constant's). A *unit* is the smallest set of elements of slots
that can be removed without changing what the rest computes, other than that it reads zeros where the unit was: removing
it is the same as setting it to 0 in every activation. A *group* is made of the units that run through the same slots.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphopt.ir import Node, Tensor

Units = NDArray[np.int64]
"""For each element along a slot's axis, the number of its unit in the group; -1 for elements of other groups."""

Kept = NDArray[np.bool_]
"""For each unit of a group, whether it stays."""


@dataclass(frozen=True)
class Slot:
    """One axis of a tensor of the main graph.

    Attributes:
        tensor: an activation or a constant, of known rank and known size along `axis`.
        axis: counted from the front, never negative.
    """

    tensor: Tensor
    axis: int

    def __str__(self) -> str:
        return f"'{self.tensor.name}' axis {self.axis}"


@dataclass(frozen=True)
class Freeze:
    """Why units can't be removed.

    Attributes:
        reason: a clause for the user: "it is a graph output", "Softmax normalizes over it", …
        node: the operation that is in the way, where it is one.
    """

    reason: str
    node: Node | None = None


@dataclass(frozen=True)
class Group:
    """Units that run through the same slots.

    Attributes:
        name: `tensor:axis` of the first activation it runs through, with `#2`, `#3`, … for further groups that begin
            there; the same for the same model.
        units: how many units there are.
        members: for each slot, in graph order, the unit of each of its elements.
        frozen: why no unit can be removed; None where all can be.
    """

    name: str
    units: int
    members: Mapping[Slot, Units]
    frozen: Freeze | None = None

    def elements(self, slot: Slot) -> NDArray[np.int64]:
        """How many elements of `slot` each unit takes: [units]."""
        inside = self.members[slot]
        return np.bincount(inside[inside >= 0], minlength=self.units)


@dataclass(frozen=True)
class Coupling:
    """All groups of a graph's main graph.

    Attributes:
        groups: in graph order, frozen ones too.
    """

    groups: tuple[Group, ...]

    @property
    def removable(self) -> tuple[Group, ...]:
        """The groups whose units can be removed."""
        return tuple(group for group in self.groups if group.frozen is None)

    def kept(self, keep: Mapping[str, Kept]) -> dict[Slot, Kept]:
        """For each slot that loses elements, which of them stay.

        Args:
            keep: by group name; groups that aren't named stay whole.

        Raises:
            ValueError: there is no such removable group, its number of units differs, or no unit of it would stay.
        """
        by_name = {group.name: group for group in self.removable}
        found: dict[Slot, Kept] = {}
        for name, units in keep.items():
            group = by_name.get(name)
            if group is None:
                raise ValueError(f"there is no group '{name}' whose channels can be removed")
            if len(units) != group.units or not units.any():
                raise ValueError(f"group '{name}' has {group.units} units, and at least one of them has to stay")
            if units.all():
                continue
            for slot, inside in group.members.items():
                stays = found.setdefault(slot, np.ones(len(inside), dtype=bool))
                stays[inside >= 0] &= units[inside[inside >= 0]]
        return found
