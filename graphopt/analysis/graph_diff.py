"""What differs between two graphs, node by node, and which differences belong together.

    Conv_1, BatchNormalization_1      →      Conv_1 (inputs 1 and 2, output)         one rewrite: BatchNormalization_1
                                                                                     is gone, Conv_1 has changed

Nodes are matched by name; those left over by the tensor that they make, then by their neighbourhood: two nodes with the
same operator, the only ones left between nodes that are matched already. Removed, added and changed nodes that touch
the same tensors are one rewrite, whose added nodes were born from the removed and changed ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeAlias

from networkx.utils import UnionFind

from graphopt.ir.outline import ConstantOutline, NodeOutline, Outline

SameValues: TypeAlias = Callable[[ConstantOutline, ConstantOutline], bool]
_Place: TypeAlias = tuple[str, str, str, int]
"""Operator, side, a matched neighbour, and which input of the reader it is."""


@dataclass(frozen=True)
class ChangedNode:
    """A node of both graphs that isn't the same in them.

    Attributes:
        before, after: the node.
        what: what has changed, in words: "input 0: x → x_dequantized", "input 1: other values", "pads: [0] → [1]".
        constants: constants that it reads have changed, or it reads other ones.
    """

    before: NodeOutline
    after: NodeOutline
    what: tuple[str, ...]
    constants: bool


@dataclass(frozen=True)
class Rewrite:
    """Differences that belong together."""

    removed: tuple[NodeOutline, ...]
    added: tuple[NodeOutline, ...]
    changed: tuple[ChangedNode, ...]


@dataclass(frozen=True)
class GraphDiff:
    """What differs, in the order of the graphs.

    Attributes:
        removed: nodes of the first graph that the second one hasn't got.
        added: the other way round.
        changed: nodes of both.
        same: how many nodes haven't changed.
        matched: name in the first graph → name in the second, of all nodes of both.
        rewrites: the differences in groups that belong together.
        inputs, outputs: (names in the first graph, in the second) where the model's own differ; else None.
    """

    removed: tuple[NodeOutline, ...]
    added: tuple[NodeOutline, ...]
    changed: tuple[ChangedNode, ...]
    same: int
    matched: Mapping[str, str]
    rewrites: tuple[Rewrite, ...]
    inputs: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    outputs: tuple[tuple[str, ...], tuple[str, ...]] | None = None

    def __bool__(self) -> bool:
        return bool(self.removed or self.added or self.changed or self.inputs or self.outputs)


def same_array(one: ConstantOutline, other: ConstantOutline) -> bool:
    """Whether two constants hold the same array: what equality means between two moments of one graph."""
    return one.values is other.values


def diff_outlines(before: Outline, after: Outline, same_values: SameValues = same_array) -> GraphDiff:
    """What differs between one graph at two moments, or between two models. Close to linear in nodes.

    Args:
        before: the first.
        after: the second.
        same_values: whether two constants of the same type are equal.
    """
    sides = _Side(before), _Side(after)
    pair = _Pair(*sides, _Matching(*sides).result(), same_values)
    changed = tuple(pair.changed())
    taken = set(pair.matched.values())
    removed = tuple(node for name, node in before.nodes.items() if name not in pair.matched)
    added = tuple(node for name, node in after.nodes.items() if name not in taken)
    return GraphDiff(
        removed,
        added,
        changed,
        len(pair.matched) - len(changed),
        pair.matched,
        tuple(_rewrites(removed, added, changed, before.constants.keys() | after.constants.keys())),
        None if before.inputs == after.inputs else (before.inputs, after.inputs),
        None if before.outputs == after.outputs else (before.outputs, after.outputs),
    )


class _Side:
    """One of the graphs, with who makes and who reads each tensor."""

    def __init__(self, outline: Outline) -> None:
        self.outline = outline
        self.makers = {name: node.name for node in outline.nodes.values() for name in node.outputs if name}
        self.readers: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for node in outline.nodes.values():
            for index, name in enumerate(node.inputs):
                self.readers[name].append((node.name, index))

    def places(self, node: NodeOutline, known: Mapping[str, str]) -> Iterator[_Place]:
        """Where a node stands: its operator with each matched neighbour, which `known` gives a common name."""
        for index, tensor in enumerate(node.inputs):
            maker = self.makers.get(tensor)
            if maker is not None and maker in known:
                yield (node.op, "behind", known[maker], index)
            elif tensor in self.outline.inputs:
                yield (node.op, "behind input", str(self.outline.inputs.index(tensor)), index)
        for tensor in filter(None, node.outputs):
            for reader, index in self.readers.get(tensor, ()):
                if reader in known:
                    yield (node.op, "before", known[reader], index)
            if tensor in self.outline.outputs:
                yield (node.op, "before output", str(self.outline.outputs.index(tensor)), 0)


class _Matching:
    """Pairs nodes of both graphs."""

    def __init__(self, before: _Side, after: _Side) -> None:
        self.before, self.after = before, after
        self.found: dict[str, str] = {}
        self.taken: dict[str, str] = {}

    def result(self) -> dict[str, str]:
        """Name before → name after."""
        ours, theirs = self.before.outline.nodes, self.after.outline.nodes
        for name, node in ours.items():
            if name in theirs and theirs[name].op == node.op:
                self.match(name, name)
        self.by_results()
        while self.by_neighbours():
            pass
        # What is left under a name of both was replaced in its place.
        for name in ours:
            if name not in self.found and name in theirs and name not in self.taken:
                self.match(name, name)
        return {name: self.found[name] for name in ours if name in self.found}

    def match(self, name: str, other: str) -> None:
        """Two nodes are the same."""
        self.found[name], self.taken[other] = other, name

    def by_results(self) -> None:
        """Nodes with the same operator that make a tensor of the same name."""
        made = {(n.op, t): name for name, n in self.after.outline.nodes.items() for t in n.outputs if t}
        for name, node in self.before.outline.nodes.items():
            others = {made[node.op, t] for t in node.outputs if (node.op, t) in made} - self.taken.keys()
            if name not in self.found and len(others) == 1:
                self.match(name, others.pop())

    def by_neighbours(self) -> bool:
        """Nodes that are alone, in both graphs, with their operator beside a matched neighbour. Whether there were."""
        ours, theirs = self.left(self.before, self.found), self.left(self.after, self.taken)
        matches = {names[0]: theirs[place][0] for place, names in ours.items() if len(names) == len(theirs[place]) == 1}
        before = len(self.found)
        for name, other in matches.items():
            if other not in self.taken:
                self.match(name, other)
        return len(self.found) > before

    def left(self, side: _Side, matched: Mapping[str, str]) -> dict[_Place, list[str]]:
        """The nodes of one graph that have no counterpart yet, by the places where they stand."""
        known = {n: n for n in matched} if side is self.before else dict(matched)
        found: dict[_Place, list[str]] = defaultdict(list)
        for name, node in side.outline.nodes.items():
            if name not in matched:
                for place in side.places(node, known):
                    found[place].append(name)
        return found


@dataclass(frozen=True)
class _Pair:
    """Both graphs, with their nodes matched."""

    before: _Side
    after: _Side
    matched: Mapping[str, str]
    same_values: SameValues

    def changed(self) -> Iterator[ChangedNode]:
        """Matched nodes that aren't the same."""
        for name, other in self.matched.items():
            node, twin = self.before.outline.nodes[name], self.after.outline.nodes[other]
            constants: list[bool] = []
            what = tuple(self.differences(node, twin, constants))
            if what:
                yield ChangedNode(node, twin, what, any(constants))

    def differences(self, node: NodeOutline, other: NodeOutline, constants: list[bool]) -> Iterator[str]:
        """What differs, in words; into `constants`, whether it is a constant, for each pair of tensors."""
        for word, a, b in (("name", node.name, other.name), ("operator", node.op, other.op)):
            if a != b:
                yield f"{word} {a} → {b}"
        for word, ours, theirs in (("input", node.inputs, other.inputs), ("output", node.outputs, other.outputs)):
            for index, (a, b) in enumerate(zip_longest(ours, theirs, fillvalue="")):
                difference = self.tensors(a, b)
                stored = a in self.before.outline.constants, b in self.after.outline.constants
                constants.append(stored[0] != stored[1] or (stored[0] and bool(difference)))
                if difference:
                    yield f"{word} {index}: {difference}"
        for name in sorted({*node.attributes, *other.attributes}):
            a, b = node.attributes.get(name, "unset"), other.attributes.get(name, "unset")
            if a != b:
                yield f"{name}: {a} → {b}"

    def tensors(self, ours: str, theirs: str) -> str:
        """What differs between two tensors in the same place; "" when they are the same."""
        a, b = self.before.outline.constants.get(ours), self.after.outline.constants.get(theirs)
        if a is not None and b is not None:
            if a.type != b.type:
                return f"{a.type} → {b.type}"
            return "" if self.same_values(a, b) else "other values"
        if ours == theirs or self.renamed(ours, theirs):
            return ""
        return f"{ours or 'none'} → {theirs or 'none'}"

    def renamed(self, ours: str, theirs: str) -> bool:
        """Whether matched nodes make both, and either name means nothing in the other graph."""
        if theirs in self.before.makers or ours in self.after.makers:
            return False
        maker, twin = self.before.makers.get(ours), self.after.makers.get(theirs)
        if maker is None or twin is None or self.matched.get(maker) != twin:
            return False
        places = self.before.outline.nodes[maker].outputs, self.after.outline.nodes[twin].outputs
        return places[0].index(ours) == places[1].index(theirs)


def _rewrites(
    removed: Sequence[NodeOutline],
    added: Sequence[NodeOutline],
    changed: Sequence[ChangedNode],
    constants: Collection[str],
) -> Iterator[Rewrite]:
    """The connected parts of what differs.

    A removed or added node is connected by all tensors that it touches, a changed one by those that it touches only
    before or only after; where its constants have changed, by the others to removed and added nodes, too. Constants
    connect nothing: many nodes may share one.
    """
    unions: UnionFind[tuple[str, str]] = UnionFind()
    first: dict[str, tuple[str, str]] = {}

    def connect(node: tuple[str, str], tensors: set[str]) -> None:
        for tensor in tensors.difference(constants, ("",)):
            unions.union(node, first.setdefault(tensor, node))

    for side, nodes in (("before", removed), ("after", added)):
        for node in nodes:
            connect((side, node.name), {*node.inputs, *node.outputs})
    edited = dict(first)
    for item in changed:
        name = "before", item.before.name
        before, after = ({*n.inputs, *n.outputs} for n in (item.before, item.after))
        connect(name, before ^ after)
        if item.constants:
            unions.union(name, *(edited[tensor] for tensor in before & after if tensor in edited))
    parts: dict[tuple[str, str], tuple[list[NodeOutline], list[NodeOutline], list[ChangedNode]]] = {}

    def part(side: str, name: str) -> tuple[list[NodeOutline], list[NodeOutline], list[ChangedNode]]:
        return parts.setdefault(unions[side, name], ([], [], []))

    for node in removed:
        part("before", node.name)[0].append(node)
    for node in added:
        part("after", node.name)[1].append(node)
    for item in changed:
        part("before", item.before.name)[2].append(item)
    for gone, new, others in parts.values():
        yield Rewrite(tuple(gone), tuple(new), tuple(others))
