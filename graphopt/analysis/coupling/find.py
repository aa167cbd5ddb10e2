"""Which channels of a graph can only be removed together, and which must stay: dependency groups over the whole graph.

    Conv(w1) → BN → Relu ─┬→ Conv(w2) ─┐
                          └────────────┴→ Add → Conv(w3)      w1:0, BN's parameters, w2:0 and w3:1 are one group

Each operation has a rule (`rules`) that says which elements of its operands' and results' axes go together
and which have to stay; connected components of elements are the units. Where an operation leaves several ways (a
Reshape that splits channels, a grouped Conv), `choices` takes the one that leaves most to remove.

Removing a unit is the same as setting it to 0 in every activation. So a sum may lose what it sums over, and whatever
counts, compares or normalizes over an axis keeps it whole. Graph inputs and outputs, what nested graphs read, what the
caller may override and what an operation without a rule touches stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from graphopt.analysis.coupling.choices import Choice, Stored, choose
from graphopt.analysis.coupling.elements import Elements, Ways
from graphopt.analysis.coupling.grouping import grouped
from graphopt.analysis.coupling.groups import Coupling, Freeze, Slot
from graphopt.analysis.coupling.links import Hold, Links, is_stored
from graphopt.analysis.coupling.rules import ways
from graphopt.analysis.coupling.shapes import Shapes, shapes_of
from graphopt.ir import Constant, Graph, Tensor
from graphopt.ir.operands import static_shape


def couple(graph: Graph) -> Coupling:
    """The groups of the main graph.

    Shapes must be filled in (`ir.infer`): an axis whose size isn't known is in no group, and holds what meets it.
    Frozen groups that no stored number goes with (batch and spatial axes) are left out.
    """
    shapes = shapes_of(graph)
    fixed: list[Links] = []
    open_: list[tuple[Links, ...]] = []
    for node in graph.nodes:
        found = ways(node, shapes)
        if len(found) == 1:
            fixed.append(found[0])
            continue
        common, *rest = _apart(found)
        fixed.append(common)
        open_.append(tuple(rest))
    ends = list(_ends(graph, shapes))
    links = [*fixed, *(way for node in open_ for way in node)]
    wholes = (pair for one in fixed for pair in one.wholes)
    elements = Elements(_slots(graph, shapes, links, ends), wholes, shapes)
    always = elements.ways(fixed, ends)
    choices = [Choice(node[0].node, tuple(elements.ways([way]) for way in node)) for node in open_]
    taken = choose(elements, always, choices, _stored(elements))
    chosen: list[Ways] = [choice.ways[way] for choice, way in zip(choices, taken, strict=True)]
    return Coupling(tuple(grouped(elements, [always, *chosen])))


def _apart(found: list[Links]) -> list[Links]:
    """What all ways have in common, then the rest of each."""
    node = found[0].node
    wholes = [p for p in found[0].wholes if all(p in way.wholes for way in found)]
    holds = [h for h in found[0].holds if h.at is None and all(h in way.holds for way in found)]
    common = Links(node, found[0].shapes)
    common.wholes, common.holds, common.batches = wholes, holds, found[0].batches
    rest: list[Links] = []
    for way in found:
        links = Links(node, found[0].shapes)
        links.wholes = [p for p in way.wholes if p not in wholes]
        links.holds = [h for h in way.holds if h.at is not None or h not in holds]
        links.ties, links.balances = way.ties, way.balances
        rest.append(links)
    return [common, *rest]


def _ends(graph: Graph, shapes: Shapes) -> Iterator[Hold]:
    """What the model's caller, nested graphs and annotations see."""
    annotated = {annotation.tensor_name for annotation in graph.quantization_annotation}
    for tensor in graph.inputs:
        yield from _whole(tensor, shapes, "it is a graph input")
    for tensor in graph.outputs:
        yield from _whole(tensor, shapes, "it is a graph output")
    for tensor in graph.tensors().values():
        if isinstance(tensor, Constant) and tensor.is_input:
            yield from _whole(tensor, shapes, "the caller may override it")
        elif any(node.scope is not graph for node in graph.consumers(tensor)) or (
            graph.is_output(tensor) and not any(tensor is output for output in graph.outputs)
        ):
            yield from _whole(tensor, shapes, "a nested graph reads it")
        elif tensor.name in annotated:
            yield from _whole(tensor, shapes, "it has a quantization annotation")


def _whole(tensor: Tensor, shapes: Shapes, reason: str) -> Iterator[Hold]:
    for axis in range(shapes.rank(tensor)):
        if shapes.size(tensor, axis) is not None:
            yield Hold(Slot(tensor, axis), Freeze(reason))


def _slots(graph: Graph, shapes: Shapes, links: list[Links], ends: list[Hold]) -> Iterator[Slot]:
    """Every slot that is mentioned, in graph order: operands of a node before its results."""
    mentioned: set[Slot] = {hold.slot for hold in ends}
    for one in links:
        mentioned.update(slot for pair in one.wholes for slot in pair)
        mentioned.update(slot for tie in one.ties for slot in (tie.left, tie.right))
        mentioned.update(hold.slot for hold in one.holds)
        mentioned.update(one.batches)
        mentioned.update(slot for slot, _ in one.balances)
    tensors = dict.fromkeys((*graph.inputs, *(t for n in graph.nodes for t in (*n.inputs, *n.outputs)), *graph.outputs))
    tensors.update(dict.fromkeys(graph.constants))
    for tensor in tensors:
        for axis in range(shapes.rank(tensor)):
            if Slot(tensor, axis) in mentioned:
                yield Slot(tensor, axis)


def _stored(elements: Elements) -> list[Stored]:
    """The constants, with the runs of their axes."""
    found: dict[Tensor, list[int]] = {}
    for slot in elements.slots:
        if is_stored(slot.tensor):
            found.setdefault(slot.tensor, []).append(elements.run[slot])
    return [Stored(prod(static_shape(tensor.shape) or (0,)), tuple(runs)) for tensor, runs in found.items()]
