"""Dividing what a pass changed into the smallest parts that can be applied alone; see `analysis.rewrites.units`."""

from __future__ import annotations

from collections.abc import Iterable

from networkx.utils import UnionFind

from graphopt.analysis.graph_diff import ChangedNode, GraphDiff
from graphopt.analysis.rewrites.units import ADDED, CHANGED, REMOVED, WHOLE, Division, Item, PartlyChanged, Unit
from graphopt.ir.outline import Outline


def divide(before: Outline, after: Outline, diff: GraphDiff) -> Division:
    """Divide `diff`, which is that of `before` and `after`."""
    return _Divider(before, after, diff).result()


class _Divider:
    def __init__(self, before: Outline, after: Outline, diff: GraphDiff) -> None:
        self.before, self.after, self.diff = before, after, diff
        self.ours, self.theirs = _makers(before), _makers(after)
        self.renamed = dict(self._renamed())
        self.retyped = self._retyped()
        self.tying = self._tying()
        self.unions: UnionFind[Item | str] = UnionFind()

    def result(self) -> Division:
        items: dict[Item, None] = {}
        for kind, nodes in ((REMOVED, self.diff.removed), (ADDED, self.diff.added)):
            names = {node.name for node in nodes}
            for node in nodes:
                item = (kind, node.name, WHOLE)
                items[item] = None
                self._tie(item, (*node.inputs, *node.outputs))
                self._join(item, ((kind, outer, WHOLE) for outer in node.scope if outer in names))
        parts = {c.before.name: self._parts(c) for c in self.diff.changed}
        moved = frozenset(self._moved())
        for name in moved - parts.keys():
            parts[name] = {WHOLE: ()}
        for name, tensors in parts.items():
            for index, tied in tensors.items():
                items[CHANGED, name, index] = None
                self._tie((CHANGED, name, index), tied)
        for name in moved:
            self._join_moved(name)
        for name in self.diff.matched:
            self._join_retyped(name, parts.get(name, {}))
            self._join_constants(name, parts.get(name, {}))
        return Division(tuple(self._units(items)), self.renamed, moved, self.retyped)

    def _renamed(self) -> Iterable[tuple[str, str]]:
        for name, other in self.diff.matched.items():
            outputs = self.before.nodes[name].outputs, self.after.nodes[other].outputs
            for a, b in zip(*outputs, strict=False):
                if a and b and a != b and b not in self.ours and a not in self.theirs:
                    yield b, a

    def _retyped(self) -> frozenset[str]:
        """Tensors of both graphs that have another element type or size in the second."""
        types = {self.renamed.get(name, name): text for name, text in self.after.types.items()}
        ours = self.before.types
        return frozenset(name for name, text in ours.items() if name in types and _differ(text, types[name]))

    def _join_retyped(self, name: str, parts: Iterable[int]) -> None:
        """What passes a node of both graphs with another type goes together: tensors, and constants of another type."""
        node, twin = self.before.nodes[name], self.after.nodes[self.diff.matched[name]]
        tensors = [t for t in (*node.inputs, *node.outputs) if t in self.retyped]
        changed = [
            (CHANGED, name, k) for k in parts if k == WHOLE or self._is_other_type(node.inputs[k], twin.inputs[k])
        ]
        for first in (*tensors[:1], *changed[:1]):
            self.unions.union(first, *tensors, *changed)

    def _join_constants(self, name: str, parts: Iterable[int]) -> None:
        """A layer's weight and bias are made for each other."""
        node, twin = self.before.nodes[name], self.after.nodes[self.diff.matched[name]]
        pairs = zip(node.inputs, twin.inputs, strict=False)
        stored = {k for k, (a, b) in enumerate(pairs) if a in self.before.constants and b in self.after.constants}
        changed = [(CHANGED, name, k) for k in parts if k in stored]
        for first in changed[:1]:
            self.unions.union(first, *changed)

    def _is_other_type(self, ours: str, theirs: str) -> bool:
        a, b = _type(self.before, ours), _type(self.after, theirs)
        return a is not None and b is not None and _differ(a, b)

    def _tying(self) -> frozenset[str]:
        """Tensors that tie whoever touches them together, by their names in the first graph."""
        ours = {*self.before.types} - self.before.constants.keys()
        theirs = {self.renamed.get(name, name) for name in self.after.types} - self.after.constants.keys()
        makers = {self.renamed.get(tensor, tensor): node for tensor, node in self.theirs.items()}
        contested = {
            tensor
            for tensor, node in self.ours.items()
            if tensor in makers and self.diff.matched.get(node) != makers[tensor]
        }
        stored = self.before.constants.keys() | self.after.constants.keys()
        return frozenset(((ours ^ theirs) - stored) | contested | self.retyped)

    def _tie(self, item: Item, tensors: Iterable[str]) -> None:
        self._join(item, (t for t in (self.renamed.get(n, n) for n in tensors) if t in self.tying))

    def _join(self, item: Item, others: Iterable[Item | str]) -> None:
        self.unions.union(item, *others)

    def _parts(self, changed: ChangedNode) -> dict[int, tuple[str, ...]]:
        """Input, or WHOLE, → the tensors that a change of it ties."""
        node, twin = changed.before, changed.after
        outputs = tuple(self.renamed.get(name, name) for name in twin.outputs)
        touched = {*node.inputs} ^ {self.renamed.get(name, name) for name in twin.inputs}
        whole = tuple({*touched, *node.outputs, *outputs})
        same = node.op == twin.op and node.attributes == twin.attributes and node.outputs == outputs
        if not same or len(node.inputs) != len(twin.inputs):
            return {WHOLE: whole}
        pairs = list(enumerate(zip(node.inputs, twin.inputs, strict=True)))
        words = [w.partition(":")[0] for w in changed.what]
        return {k: pair for k, pair in pairs if f"input {k}" in words} or {WHOLE: whole}

    def _moved(self) -> Iterable[str]:
        for name, other in self.diff.matched.items():
            scopes = self.before.nodes[name].scope, self.after.nodes[other].scope
            if tuple(self.diff.matched.get(outer) for outer in scopes[0]) != scopes[1]:
                yield name

    def _join_moved(self, name: str) -> None:
        """A node that is in another body goes with what became of the bodies that it was in, and is in."""
        item = (CHANGED, name, WHOLE)
        ours, theirs = self.before.nodes[name].scope, self.after.nodes[self.diff.matched[name]].scope
        self._join(item, ((REMOVED, outer, WHOLE) for outer in ours if outer not in self.diff.matched))
        taken = set(self.diff.matched.values())
        self._join(item, ((ADDED, outer, WHOLE) for outer in theirs if outer not in taken))

    def _units(self, items: Iterable[Item]) -> Iterable[Unit]:
        groups: dict[Item | str, list[Item]] = {}
        order = {name: number for number, name in enumerate([*self.before.nodes, *self.after.nodes])}
        for item in sorted(items, key=lambda item: order[item[1]]):
            groups.setdefault(self.unions[item], []).append(item)
        changed = {c.before.name: c for c in self.diff.changed}
        for group in groups.values():
            inputs: dict[str, list[int]] = {}
            for kind, name, index in group:
                if kind == CHANGED and name in changed:
                    inputs.setdefault(name, []).append(index)
            yield Unit(
                tuple(self.before.nodes[name] for kind, name, _ in group if kind == REMOVED),
                tuple(self.after.nodes[name] for kind, name, _ in group if kind == ADDED),
                tuple(PartlyChanged(changed[n], None if WHOLE in k else tuple(sorted(k))) for n, k in inputs.items()),
                frozenset(group),
            )


def _makers(outline: Outline) -> dict[str, str]:
    return {tensor: node.name for node in outline.nodes.values() for tensor in node.outputs if tensor}


def _type(outline: Outline, tensor: str) -> str | None:
    constant = outline.constants.get(tensor)
    return outline.types.get(tensor) if constant is None else constant.type


def _differ(ours: str, theirs: str) -> bool:
    """Whether two types can't be those of the same tensor: sizes that only one graph knows don't tell."""
    (dtype, sizes), (other, others) = (_parsed(text) for text in (ours, theirs))
    if dtype != other:
        return "unknown" not in (dtype, other)
    pairs = zip(sizes, others, strict=False)
    return any(a != b for a, b in pairs if a.isdigit() and b.isdigit())


def _parsed(text: str) -> tuple[str, list[str]]:
    dtype, _, sizes = text.partition("[")
    return dtype, sizes.rstrip("]").split(",")
