"""What differs between two graphs, node by node, and which differences belong together.

    Conv_1, BatchNormalization_1      →      Conv_1 (inputs 1 and 2, output)         one rewrite: BatchNormalization_1
                                                                                     is gone, Conv_1 has changed

Nodes are matched by name, by the tensors that they make, and by their neighbourhood (`node_matching`). Removed, added
and changed nodes that touch the same tensors are one rewrite, whose added nodes were born from the removed and changed
ones.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeAlias

from networkx.utils import UnionFind

from graphopt.analysis.node_matching import Side, match_nodes
from graphopt.ir.outline import ConstantOutline, NodeOutline, Outline
from graphopt.ir.stored import loaded

SameValues: TypeAlias = Callable[[ConstantOutline, ConstantOutline], bool]


@dataclass(frozen=True)
class ChangedNode:
    """A node of both graphs that isn't the same in them.

    Attributes:
        before, after: the node.
        what: what has changed, in words: "input 0: x → x_dequantized", "input 1: other values", "pads: [0] → [1]".
        constants: constants that it reads have changed, or it reads other ones.
        only_renamed: it is called otherwise, and nothing else.
    """

    before: NodeOutline
    after: NodeOutline
    what: tuple[str, ...]
    constants: bool
    only_renamed: bool = False


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
        changed: nodes of both, those with another name included.
        same: how many nodes haven't changed.
        matched: name in the first graph → name in the second, of all nodes of both.
        rewrites: the differences in groups that belong together; names alone aren't any.
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


def equal_values(one: ConstantOutline, other: ConstantOutline) -> bool:
    """Whether two constants of any two models hold the same; lazy values are loaded."""
    if one.values is other.values:
        return True
    a, b = loaded(one.values), loaded(other.values)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def same_array(one: ConstantOutline, other: ConstantOutline) -> bool:
    """Whether two constants are equal, between two moments of one graph: under one name they are if they hold the same
    array. Under two names, as where duplicates are merged, they are compared.
    """
    return one.values is other.values if one.name == other.name else equal_values(one, other)


def diff_outlines(before: Outline, after: Outline, same_values: SameValues = same_array) -> GraphDiff:
    """What differs between one graph at two moments, or between two models. Close to linear in nodes.

    Args:
        before: the first.
        after: the second.
        same_values: whether two constants of the same type are equal.
    """
    sides = Side(before), Side(after)
    matched = match_nodes(*sides)
    pair = _Pair(*sides, matched, same_values, _same_tensors(*sides, matched))
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
        tuple(
            _rewrites(
                removed,
                added,
                [c for c in changed if not c.only_renamed],
                before.constants.keys() | after.constants.keys(),
                pair.names,
            )
        ),
        None if before.inputs == after.inputs else (before.inputs, after.inputs),
        None if before.outputs == after.outputs else (before.outputs, after.outputs),
    )


def _same_tensors(before: Side, after: Side, matched: Mapping[str, str]) -> dict[str, str]:
    """Tensors of the second graph → what they are called in the first, where neither name means anything in the other.

    Those that matched nodes make, and the graphs' inputs.
    """
    pairs = list(zip(before.outline.inputs, after.outline.inputs, strict=False))
    for name, other in matched.items():
        pairs += zip(before.outline.nodes[name].outputs, after.outline.nodes[other].outputs, strict=False)
    ours, theirs = ({*side.makers, *side.outline.inputs} for side in (before, after))
    return {b: a for a, b in pairs if a != b and a and b and b not in ours and a not in theirs}


@dataclass(frozen=True)
class _Pair:
    """Both graphs, with their nodes matched, and `names` as `_same_tensors` finds them."""

    before: Side
    after: Side
    matched: Mapping[str, str]
    same_values: SameValues
    names: Mapping[str, str]

    def changed(self) -> Iterator[ChangedNode]:
        """Matched nodes that aren't the same."""
        for name, other in self.matched.items():
            node, twin = self.before.outline.nodes[name], self.after.outline.nodes[other]
            constants: list[bool] = []
            what = tuple(self.differences(node, twin, constants))
            if what:
                yield ChangedNode(node, twin, what, any(constants), len(what) == 1 and node.name != twin.name)

    def differences(self, node: NodeOutline, other: NodeOutline, constants: list[bool]) -> Iterator[str]:
        """What differs, in words; into `constants`, whether it is a constant, for each pair of tensors."""
        if node.op != other.op:
            yield f"operator {node.op} → {other.op}"
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
        if node.name != other.name:
            yield f"name {node.name} → {other.name}"

    def tensors(self, ours: str, theirs: str) -> str:
        """What differs between two tensors in the same place; "" when they are the same."""
        a, b = self.before.outline.constants.get(ours), self.after.outline.constants.get(theirs)
        if a is not None and b is not None:
            if a.type != b.type:
                return f"{a.type} → {b.type}"
            return "" if self.same_values(a, b) else "other values"
        if ours == theirs or self.names.get(theirs) == ours:
            return ""
        return f"{ours or 'none'} → {theirs or 'none'}"


def _rewrites(
    removed: Sequence[NodeOutline],
    added: Sequence[NodeOutline],
    changed: Sequence[ChangedNode],
    constants: Collection[str],
    names: Mapping[str, str],
) -> Iterator[Rewrite]:
    """The connected parts of what differs.

    A removed or added node is connected by all tensors that it touches, a changed one by those that it touches only
    before or only after; where its constants have changed, by the others to removed and added nodes, too. Constants
    connect nothing: many nodes may share one.
    """
    unions: UnionFind[tuple[str, str]] = UnionFind()
    first: dict[str, tuple[str, str]] = {}

    def touched(side: str, node: NodeOutline) -> set[str]:
        found = (*node.inputs, *node.outputs)
        return {names.get(t, t) for t in found} if side == "after" else set(found)

    def connect(node: tuple[str, str], tensors: set[str]) -> None:
        for tensor in tensors.difference(constants, ("",)):
            unions.union(node, first.setdefault(tensor, node))

    for side, nodes in (("before", removed), ("after", added)):
        for node in nodes:
            connect((side, node.name), touched(side, node))
    edited = dict(first)
    for item in changed:
        name = "before", item.before.name
        before, after = touched("before", item.before), touched("after", item.after)
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
