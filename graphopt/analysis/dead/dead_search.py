"""The search behind `dead_channels`: units come back until no reader misses an element of what is gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphopt.analysis.channels.reads import Mask, channel_reads
from graphopt.analysis.coupling.groups import Coupling, Group, Slot, Units
from graphopt.analysis.dead.constant_channels import ConstantChannels
from graphopt.analysis.dead.dead_readers import is_summed, leaves_out, passes_on, summed_partner
from graphopt.analysis.pruning.kept_counts import channels_each
from graphopt.ir import Graph, Node, Variable
from graphopt.ir.linear import Linear, linear_view, reads_shape_only
from graphopt.ir.linear_edit import shift_hindrance

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Survivor:
    """Units that stay though they are constant, or unheard by a reader.

    Attributes:
        group: their group.
        units: how many.
        reason: a clause for the user that says why.
    """

    group: Group
    units: int
    reason: str


@dataclass(frozen=True, eq=False)
class Reader:
    """A use of an activation where elements of it could be missed.

    Attributes:
        slot: the axis of the activation that holds units.
        node: the operation that reads it.
        values: what is known of each element, NaN where nothing is.
        misses: the elements that it may miss; None for all.
        partner: the same of what each element is multiplied with, where that is an activation, too.
        linear: the operation, where it sums over the slot with fixed weights.
        reads: which outputs those weights let hear which elements (`channels.reads`).
        hindrance: why the operation's bias can't take up a constant.
    """

    slot: Slot
    node: Node
    values: Floats
    misses: Mask | None = None
    partner: Floats | None = None
    linear: Linear | None = None
    reads: Mask | None = None
    hindrance: str | None = None


class Search:
    """Units that may still go, all at first; see `dead_channels`.

    Attributes:
        dead: by group name, the units that may go.
        readers: where elements could be missed, from the last one on.
    """

    def __init__(
        self, graph: Graph, coupling: Coupling, constants: ConstantChannels, refused: Mapping[Node, str]
    ) -> None:
        self.groups = {group.name: group for group in coupling.removable}
        self.dead = {name: np.ones(group.units, dtype=bool) for name, group in self.groups.items()}
        self.reasons = {name: [""] * group.units for name, group in self.groups.items()}
        self.places: dict[Slot, list[tuple[str, Units]]] = {}
        for name, group in self.groups.items():
            for slot, inside in group.members.items():
                if isinstance(slot.tensor, Variable):
                    self.places.setdefault(slot, []).append((name, inside))
        # From the last reader on: what a channel leads to is decided before the channel is.
        order = {node: index for index, node in enumerate(graph.nodes)}
        found = [reader for slot in self.places for reader in self._readers(graph, slot, constants, refused)]
        self.readers = sorted(found, key=lambda reader: -order.get(reader.node, 0))
        self.last_read = {name: max(_reads(graph, group, order), default=0) for name, group in self.groups.items()}
        self.each = {name: channels_each(group) for name, group in self.groups.items()}
        self.still = self._constant_units(constants)
        self.suspects = self._suspects()

    def settle(self) -> bool:
        """Bring back units until no reader misses one; whether any came back."""
        before, count = self._count(), -1
        while count != self._count():
            count = self._count()
            for reader in self.readers:
                for missed, reason in self._missed(reader):
                    self._bring_back(reader.slot, missed, reason)
        return count != before

    def round_up(self, align: int) -> bool:
        """Bring back units of one group, so that as many channels stay as engines run well; whether there is one.

        The group that is read last: groups before it may get back units that this one hears.
        """
        short = [name for name in self.groups if self._stay(name) != self._wanted(name, align)]
        if not short:
            return False
        name = max(short, key=lambda name: self.last_read[name])
        stay, wanted = self._stay(name), self._wanted(name, align)
        gone = np.flatnonzero(self.dead[name])
        # Constants first: they hear nothing that would have to come back with them.
        back = gone[np.argsort(~self.still[name][gone], kind="stable")][: wanted - stay]
        self.dead[name][back] = False
        for unit in back:
            reason = f"engines run {wanted} as fast as {stay} (align={align})" if stay else "one has to stay"
            self.reasons[name][unit] = reason
        return True

    def shift(self, reader: Reader) -> Floats:
        """The constants that a linear reader hears from what goes."""
        moved = self._gone(reader.slot, len(reader.values)) & self._heard(reader)
        return np.where(moved, np.nan_to_num(reader.values), 0.0)

    def survivors(self) -> Iterator[Survivor]:
        """Suspects that came back, by reason."""
        for name, group in self.groups.items():
            stay = self.suspects[name] & ~self.dead[name]
            reasons = [self.reasons[name][unit] for unit in np.flatnonzero(stay)]
            for reason in dict.fromkeys(reasons):
                yield Survivor(group, reasons.count(reason), reason)

    def _stay(self, name: str) -> int:
        return int((~self.dead[name]).sum())

    def _wanted(self, name: str, align: int) -> int:
        """The least number of units, of at least those that stay, whose channels are few or a multiple of `align`."""
        stay, units, each = max(self._stay(name), 1), self.groups[name].units, self.each[name]
        if stay * each <= align:
            return stay
        step = align // gcd(align, each)
        return min(units, -(-stay // step) * step)

    def _count(self) -> int:
        return sum(int(dead.sum()) for dead in self.dead.values())

    def _bring_back(self, slot: Slot, missed: Mask, reason: str) -> None:
        for name, inside in self.places[slot]:
            units = np.unique(inside[missed & (inside >= 0)])
            for unit in units[self.dead[name][units]]:
                self.dead[name][unit] = False
                self.reasons[name][unit] = reason

    def _missed(self, reader: Reader) -> Iterator[tuple[Mask, str]]:
        """The elements that a reader would miss, and why."""
        unknown = np.isnan(reader.values)
        if reader.linear is None:
            needed = (reader.values != 0) if reader.misses is None else reader.misses & (reader.values != 0)
            if reader.partner is not None:
                needed &= reader.partner != 0
            yield needed & unknown, f"{reader.node} reads it, and its value isn't constant"
            yield needed & ~unknown, f"{reader.node} reads its constant, and has no bias that could take it up"
            return
        heard = self._heard(reader)
        yield heard & unknown, f"{reader.node} hears it, and its value isn't constant"
        yield np.isinf(reader.values), f"{reader.node} reads it, and its constant isn't finite"
        if reader.hindrance is not None:
            reason = f"the bias of {reader.node} can't take up its constant: {reader.hindrance}"
            yield heard & ~unknown & (reader.values != 0), reason

    def _heard(self, reader: Reader) -> Mask:
        """Input channels of a linear reader that any output channel that stays hears."""
        if reader.linear is None or reader.reads is None:
            return np.zeros(len(reader.values), dtype=bool)
        output, channels = reader.linear.output, reader.linear.out_channels
        stays = np.ones(channels, dtype=bool)
        if output.shape:
            stays = ~self._gone(Slot(output, reader.linear.output_channel_axis % len(output.shape)), channels)
        groups, outputs, _ = reader.reads.shape
        return (reader.reads & stays.reshape(groups, outputs, 1)).any(axis=1).reshape(-1)

    def _gone(self, slot: Slot, size: int) -> Mask:
        gone = np.zeros(size, dtype=bool)
        for name, inside in self.places.get(slot, ()):
            gone[inside >= 0] |= self.dead[name][inside[inside >= 0]]
        return gone

    def _readers(
        self, graph: Graph, slot: Slot, constants: ConstantChannels, refused: Mapping[Node, str]
    ) -> Iterator[Reader]:
        """Every use of an activation where something could be missed."""
        values, rank = constants.along(slot), len(slot.tensor.shape or ())
        for node, index in graph.uses(slot.tensor):
            if reads_shape_only(node):
                continue
            linear = linear_view(graph, node) if node.scope is graph else None
            if linear is not None and index == linear.data_index and slot.axis == linear.data_channel_axis % rank:
                hindrance = refused.get(node) or shift_hindrance(linear)
                reads = channel_reads(linear)
                yield Reader(slot, node, values, linear=linear, reads=reads, hindrance=hindrance)
            elif node.scope is not graph or not passes_on(node) or is_summed(node, index, slot.axis):
                other = summed_partner(node, index)
                yield Reader(slot, node, values, partner=None if other is None else constants.along(other))
            elif not leaves_out(node) and (lost := self._lost(slot, node)).any():
                yield Reader(slot, node, values, misses=lost)

    def _lost(self, slot: Slot, node: Node) -> Mask:
        """Elements that no result of the node is known to have: it has no stated size, so that nobody looks there."""
        lost = np.zeros(len(self.places[slot][0][1]), dtype=bool)
        for name, inside in self.places[slot]:
            passed = np.zeros(len(self.dead[name]) + 1, dtype=bool)
            for output in node.outputs:
                for axis in range(len(output.shape or ())):
                    for units in (u for other, u in self.places.get(Slot(output, axis), ()) if other == name):
                        passed[units] = True
            lost |= (inside >= 0) & ~passed[inside]
        return lost

    def _constant_units(self, constants: ConstantChannels) -> dict[str, Mask]:
        """Units that are constant in any activation."""
        made = [slot for slot in self.places if slot.tensor in constants.values and not _is_padded(slot)]
        return self._units([(slot, ~np.isnan(constants.along(slot))) for slot in made])

    def _suspects(self) -> dict[str, Mask]:
        """Units that are constant somewhere, or that the weights of a reader don't hear."""
        deaf = [(r.slot, ~r.reads.any(axis=1).reshape(-1)) for r in self.readers if r.reads is not None]
        return {name: found | self.still[name] for name, found in self._units(deaf).items()}

    def _units(self, elements: Sequence[tuple[Slot, Mask]]) -> dict[str, Mask]:
        """By group, the units that have any of the elements."""
        found = {name: np.zeros(group.units, dtype=bool) for name, group in self.groups.items()}
        for slot, chosen in elements:
            for name, inside in self.places[slot]:
                found[name][inside[chosen & (inside >= 0)]] = True
        return found


def _reads(graph: Graph, group: Group, order: Mapping[Node, int]) -> Iterator[int]:
    """Where in the graph the group is read."""
    for slot in group.members:
        yield from (order.get(node, 0) for node in graph.consumers(slot.tensor))


def _is_padded(slot: Slot) -> bool:
    """Whether a Pad made it: shortcuts of residual networks get channels of zeros on purpose."""
    return any(node.is_op("Pad") for node in slot.tensor.inputs)
