"""Which channels of a model can be removed together, and which must stay: `graphopt inspect --coupling`."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.analysis.coupling.find import couple
from graphopt.analysis.coupling.groups import Group
from graphopt.analysis.pruning.layer_costs import LayerCosts
from graphopt.ir import Constant, Graph, Node
from graphopt.report.document import Document, Line, Table
from graphopt.report.units import count_text, counted, names_text, percent_text


@dataclass(frozen=True)
class RemovableGroup:
    """Channels of which any number but all can be removed, in all layers at once.

    Attributes:
        name: as plans and options call it: the first activation that the group runs through, and its axis.
        units: how many can be removed one by one.
        channels: of that activation, for each unit.
        layers: nodes whose parameters the group is part of, in graph order.
        parameters: values in initializers that go with the units, all of them together.
        macs: multiply-accumulates of one call that go with them; of layers whose shapes are known.
    """

    name: str
    units: int
    channels: int
    layers: tuple[str, ...]
    parameters: int
    macs: int


@dataclass(frozen=True)
class FixedGroup:
    """Channels that have to stay, though parameters go with them.

    Attributes:
        name, units, layers: as of a removable one.
        reason: why they have to stay.
        node: the operation that is in the way, where it is one.
    """

    name: str
    units: int
    layers: tuple[str, ...]
    reason: str
    node: str | None


@dataclass(frozen=True)
class CouplingReport:
    """How the channels of a model hang together.

    Attributes:
        source: the model.
        groups: those that can lose units, in graph order.
        fixed: those that can't.
        parameters, macs: of the whole model.
        macs_unknown: layers whose shapes aren't known.
    """

    source: str
    groups: tuple[RemovableGroup, ...]
    fixed: tuple[FixedGroup, ...]
    parameters: int
    macs: int
    macs_unknown: int


def report_coupling(graph: Graph, source: str) -> CouplingReport:
    """Describe the groups of `graph`, whose shapes must be filled in; `source` names it."""
    coupling = couple(graph)
    costs = LayerCosts(graph, coupling)
    parameters, macs = costs.params({}), costs.macs({})
    order = {node: index for index, node in enumerate(graph.nodes)}
    groups = [
        RemovableGroup(
            name=group.name,
            units=group.units,
            channels=int(group.elements(next(iter(group.members)))[0]),
            layers=_layers(graph, group, order),
            parameters=parameters - costs.params({group.name: 0}),
            macs=macs - costs.macs({group.name: 0}),
        )
        for group in coupling.removable
    ]
    fixed = [
        FixedGroup(
            name=group.name,
            units=group.units,
            layers=_layers(graph, group, order),
            reason=group.frozen.reason,
            node=None if group.frozen.node is None else str(group.frozen.node),
        )
        for group in coupling.groups
        if group.frozen is not None
    ]
    return CouplingReport(source, tuple(groups), tuple(fixed), parameters, macs, costs.macs_unknown)


def coupling_page(found: CouplingReport) -> Document:
    """A table of the groups that can lose channels, and one of those that can't."""
    page: list[Line | Table] = [
        Line(f"{found.source}: which channels can be removed", "title"),
        Line("  A unit is what can be removed by itself: some channels, out of all layers of its group at once."),
        Line("  Names are those after preset float. A layer between two groups counts for both of them."),
        Line(),
    ]
    if found.groups:
        columns = ("group", ">units", ">channels a unit", ">parameters", ">", ">MACs", ">", "layers")
        page.append(Table(columns, tuple(_row(group, found) for group in found.groups)))
    else:
        page.append(Line("  no channel of this model can be removed", "warning"))
    if found.macs_unknown:
        page.append(Line(f"  MACs without {counted(found.macs_unknown, 'layer')} of unknown shape"))
    if found.fixed:
        rows = tuple((g.name, str(g.units), _reason(g), names_text(g.layers)) for g in found.fixed)
        page += [Line(), Line("What has to stay, and why", "title")]
        page.append(Table(("group", ">units", "why", "layers"), rows))
    return page


def _row(group: RemovableGroup, found: CouplingReport) -> tuple[str, ...]:
    return (
        group.name,
        str(group.units),
        str(group.channels),
        count_text(group.parameters),
        _share(group.parameters, found.parameters),
        count_text(group.macs) if found.macs else "unknown",
        _share(group.macs, found.macs),
        names_text(group.layers),
    )


def _share(part: int, whole: int) -> str:
    return percent_text(part / whole) if whole else ""


def _reason(group: FixedGroup) -> str:
    return group.reason if group.node is None else f"{group.reason} ({group.node})"


def _layers(graph: Graph, group: Group, order: dict[Node, int]) -> tuple[str, ...]:
    constants = [slot.tensor for slot in group.members if isinstance(slot.tensor, Constant)]
    nodes = {node for tensor in constants for node in graph.consumers(tensor) if node in order}
    return tuple(node.name for node in sorted(nodes, key=order.__getitem__))
