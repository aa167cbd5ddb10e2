"""What samples show of the units of coupling groups: activity of what is read, second moments of the layers that read.

One walk over the samples in graph order, each node once. A group's evidence is handed out as soon as the last layer
that reads it has been seen, and forgotten: the memory is that of a few layers' moments, and of the activations that
`Prefix` holds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphopt.analysis.coupling.groups import Group, Slot, Units
from graphopt.analysis.pruning.elimination import Contraction, by_unit
from graphopt.analysis.pruning.importance import Activity, Evidence, Need
from graphopt.analysis.residual_sum import residual_sum
from graphopt.calibration.moments import InputMoments
from graphopt.calibration.prefix import Prefix
from graphopt.calibration.samples import Feed
from graphopt.calibration.spread import Spread
from graphopt.calibration.weights import detached
from graphopt.calibration.windows import Windows
from graphopt.errors import CalibrationError
from graphopt.ir import Graph, Node, Tensor
from graphopt.ir.linear import Linear, bias_add, linear_view


def unit_evidence(
    graph: Graph,
    groups: Sequence[Group],
    needs: Collection[Need],
    feeds: Sequence[Feed] = (),
    *,
    seed: int = 0,
    name: str = "the samples",
    threads: int | None = None,
) -> Iterator[Evidence]:
    """The evidence on each group, in no particular order; which is the same for the same model.

    Args:
        graph: nodes sorted; shapes filled in, as for `couple`.
        groups: those to look at, of this graph.
        needs: of the criterion.
        feeds: the samples; held as long as nodes read them. Not looked at when nothing is needed of them.
        seed: handed on.
        name: of the samples, for messages.
        threads: for onnxruntime.

    Raises:
        CalibrationError: a sample fails, or a tensor holds NaN or infinity.
        UnsupportedError: onnxruntime can't run a part of the model by itself.
    """
    if not needs:
        for group in groups:
            yield Evidence(graph, group, seed=seed)
        return
    walk = _Walk(graph, groups, needs, Prefix(detached(graph), feeds, name=name, threads=threads), name)
    for group in groups:
        if not walk.waiting(group):
            yield walk.evidence(group, seed)
    for node in graph.nodes:
        for group in walk.visit(node):
            yield walk.evidence(group, seed)


@dataclass
class _Found:
    """What has been seen of a group, and how much is still to come."""

    activities: dict[str, Activity] = field(default_factory=dict[str, Activity])
    contractions: list[Contraction] = field(default_factory=list[Contraction])
    expected: int = 0


@dataclass(frozen=True)
class _Reader:
    """A layer that sums over units; `sum` is the Add of two branches that its result goes into."""

    linear: Linear
    groups: tuple[Group, ...]
    sum: Node | None


class _Walk:
    """The model in the middle of its run."""

    def __init__(
        self, graph: Graph, groups: Sequence[Group], needs: Collection[Need], prefix: Prefix, name: str
    ) -> None:
        self.graph, self.prefix, self.name = graph, prefix, name
        self.found = {group.name: _Found() for group in groups}
        self.readers: dict[Node, _Reader] = {}
        self.sums: dict[Node, list[tuple[_Reader, InputMoments]]] = {}
        self.observed: dict[Node, list[tuple[Tensor, Group]]] = {}
        wants_moments = "moments" in needs
        producers: dict[int, Node] = {}
        for node in graph.nodes:
            linear = linear_view(graph, node)
            if linear is not None and is_row_by_row(linear):
                reading = tuple(group for group in groups if reads(linear, group))
                if reading:
                    if wants_moments:
                        found = residual_sum(graph, linear)
                        self.readers[node] = _Reader(linear, reading, None if found is None else found.add)
                    for group in reading:
                        self._observe(node, linear.data, group)
                        self.found[group.name].expected += wants_moments
            for tensor in node.outputs:
                producers[id(tensor)] = node
        for group in groups:
            # Nothing sums over it: its first activation has to do.
            if not any(group is other for seen in self.observed.values() for _, other in seen):
                slot = next((slot for slot in group.members if id(slot.tensor) in producers), None)
                if slot is not None:
                    self._observe(producers[id(slot.tensor)], slot.tensor, group)

    def _observe(self, node: Node, tensor: Tensor, group: Group) -> None:
        if any(t is tensor and g is group for seen in self.observed.values() for t, g in seen):
            return
        self.observed.setdefault(node, []).append((tensor, group))
        self.found[group.name].expected += 1

    def waiting(self, group: Group) -> bool:
        """Whether there is more to see of a group."""
        return self.found[group.name].expected > 0

    def evidence(self, group: Group, seed: int) -> Evidence:
        """What has been seen, which is forgotten."""
        found = self.found.pop(group.name)
        return Evidence(self.graph, group, found.activities, tuple(found.contractions), seed)

    def visit(self, node: Node) -> list[Group]:
        """Come to a node; the groups of which everything has been seen now."""
        touched: dict[str, Group] = {}
        for tensor, group in self.observed.pop(node, []):
            axis, units = _place(tensor, group)
            spread = self._spread(tensor, axis)
            self.found[group.name].activities[tensor.name] = _activity(spread, units, group.units)
            self._seen(group, touched)
        reader = self.readers.pop(node, None)
        if reader is not None:
            values = self.prefix.fetch([reader.linear.data.name])[0]
            moments = InputMoments(Windows.of(reader.linear), len(values))
            for value in values:
                moments.update(value)
            if reader.sum is None:
                self._contract(reader, moments, None, touched)
            else:
                self.sums.setdefault(reader.sum, []).append((reader, moments))
        for reader, moments in self.sums.pop(node, []):
            spread = self._spread(node.outputs[0], reader.linear.output_channel_axis)
            self._contract(reader, moments, float(spread.variance.sum()), touched)
        return list(touched.values())

    def _spread(self, tensor: Tensor, axis: int) -> Spread:
        found = Spread(axis)
        for number, values in enumerate(self.prefix.fetch([tensor.name])[0]):
            try:
                found.update(values)
            except CalibrationError as error:
                raise CalibrationError(f"{self.name}, sample {number}: tensor '{tensor.name}': {error}") from None
        return found

    def _seen(self, group: Group, touched: dict[str, Group]) -> None:
        self.found[group.name].expected -= 1
        if not self.waiting(group):
            touched[group.name] = group

    def _contract(
        self, reader: _Reader, moments: InputMoments, energy: float | None, touched: dict[str, Group]
    ) -> None:
        linear = reader.linear
        biased = linear.kind != "MatMul" or bias_add(self.graph, linear) is not None
        around, plain = moments.moments(centred=biased), moments.moments()
        assert around is not None  # there is at least one sample
        assert plain is not None
        if not np.isfinite(plain.second).all():
            raise CalibrationError(f"{self.name}: '{linear.data.name}' is too large for its squares to be summed")
        windows = moments.windows
        rows = linear.by_output_channel(linear.weight.values).astype(np.float64)
        parts = moments.blocks
        apart = rows.reshape(windows.groups, -1, parts, windows.width // parts)
        weights = np.moveaxis(apart, 2, 1).reshape(windows.groups * parts, apart.shape[1], -1)
        if energy is None:
            energy = float(np.einsum("gok,gkl,gol->", weights, around.second, weights, optimize=True))
        for group in reader.groups:
            by_channel = group.members[data_slot(linear)]
            units = np.repeat(by_channel, windows.width * windows.groups // len(by_channel)).reshape(len(weights), -1)
            for k in range(len(weights)):
                if (units[k] >= 0).any():
                    squares = np.diagonal(plain.second[k]).copy()
                    self.found[group.name].contractions.append(
                        Contraction(weights[k], around.second[k], squares, units[k], energy)
                    )
            self._seen(group, touched)


def reads(linear: Linear, group: Group) -> bool:
    """Whether a layer sums over units of a group, other than channel by channel into the same units."""
    output = linear.output
    through = linear.groups > 1 and Slot(output, linear.output_channel_axis % _rank(output)) in group.members
    return data_slot(linear) in group.members and not through


def data_slot(linear: Linear) -> Slot:
    """The channels that a layer reads."""
    return Slot(linear.data, linear.data_channel_axis % _rank(linear.data))


def is_row_by_row(linear: Linear) -> bool:
    """Whether a layer is one matrix that reads a row for each position: not a stack of matrices."""
    known = linear.data.shape is not None and linear.output.shape is not None
    return known and (linear.is_conv or len(linear.weight.shape) == 2)


def _rank(tensor: Tensor) -> int:
    assert tensor.shape is not None  # `is_row_by_row` has asked
    return len(tensor.shape)


def _place(tensor: Tensor, group: Group) -> tuple[int, Units]:
    """The axis of a tensor that a group runs through, and the units along it."""
    return next((slot.axis, units) for slot, units in group.members.items() if slot.tensor is tensor)


def _activity(spread: Spread, units: Units, count: int) -> Activity:
    elements = by_unit(np.ones(len(units)), units, count)
    return Activity(
        by_unit(spread.magnitude, units, count),
        by_unit(spread.variance, units, count),
        by_unit(spread.density, units, count) / np.maximum(elements, 1),
    )
