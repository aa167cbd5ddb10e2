"""Each version of each node and each tensor of a graph that changes in steps, once.

A column is a step; what is in it is there from that step on:

    step           0 the model    1 fold-batch-norm    2 insert-qdq
    conv           version 0      version 1            version 2       edits of steps 1 and 2
    bn             version 3                                           removed by step 1
    x_quantized                                        version 4       added by step 2
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Generic, TypeVar

from graphopt.analysis.graph_diff import GraphDiff, Rewrite
from graphopt.ir.outline import NodeOutline, Outline
from graphopt.report.html.payload import GraphSteps, NodeChange, NodeVersion, Step, TensorVersion

_Type = tuple[str, bool, int]
"""Type as text, whether it is a constant, bytes of its values."""
_What = TypeVar("_What")


@dataclass(frozen=True)
class Labels:
    """What is shown at nodes besides what they are, by their names.

    Attributes:
        precisions: node → what computes it in the result.
        badges: node → short facts.
    """

    precisions: Mapping[str, str]
    badges: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Changes:
    """What one step did: places of versions, as in `payload.Step`."""

    removed: tuple[int, ...] = ()
    added: tuple[int, ...] = ()
    edits: tuple[NodeChange, ...] = ()
    rewrites: tuple[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], ...] = ()


@dataclass
class _Version(Generic[_What]):
    what: _What
    name: str
    since: int
    until: int = -1


class Versions:
    """All versions so far; `nodes` and `tensors` give the open one of each name by its place."""

    def __init__(self, first: Outline) -> None:
        self.now = first
        self.count = 1
        self.all_nodes: list[_Version[NodeOutline]] = [_Version(n, n.name, 0) for n in first.nodes.values()]
        self.nodes: dict[str, int] = {version.name: place for place, version in enumerate(self.all_nodes)}
        self.all_tensors: list[_Version[_Type]] = []
        self.tensors: dict[str, int] = {}
        self._take_tensors(first)

    def take(self, after: Outline, diff: GraphDiff | None) -> Changes:
        """Take the graph of the next step."""
        before, self.now = self.now, after
        step, self.count = self.count, self.count + 1
        if before is after:
            return Changes()
        matched = {name: name for name in before.nodes} if diff is None else diff.matched
        words = {c.before.name: c.what for c in diff.changed} if diff is not None else {}
        ours, self.nodes = self.nodes, {}
        edits: list[NodeChange] = []
        for name, other in matched.items():
            node, twin = before.nodes[name], after.nodes[other]
            if name not in words and node == twin:
                self.nodes[other] = ours[name]
                continue
            self._begin(twin, step)
            self.all_nodes[ours[name]].until = step
            edits.append(NodeChange(ours[name], self.nodes[other], words.get(name) or tuple(_renamed(node, twin))))
        for name in ours.keys() - matched.keys():
            self.all_nodes[ours[name]].until = step
        for node in () if diff is None else diff.added:
            self._begin(node, step)
        self._take_tensors(after, step)
        if diff is None:
            return Changes(edits=tuple(edits))
        return Changes(
            tuple(ours[n.name] for n in diff.removed),
            tuple(self.nodes[n.name] for n in diff.added),
            tuple(edits),
            tuple(self._rewrite(r, ours) for r in diff.rewrites),
        )

    def result(self, steps: Sequence[Step], labels: Labels | None) -> GraphSteps:
        """All of it; inputs and outputs are those of the last step."""
        shown = labels or Labels({}, {})
        return GraphSteps(
            tuple(self._node(version, shown) for version in self.all_nodes),
            tuple(
                TensorVersion(v.name, *v.what, v.since, v.until if v.until >= 0 else self.count)
                for v in self.all_tensors
            ),
            tuple(steps),
            self.now.inputs,
            self.now.outputs,
        )

    def _begin(self, node: NodeOutline, step: int) -> None:
        self.nodes[node.name] = len(self.all_nodes)
        self.all_nodes.append(_Version(node, node.name, step))

    def _take_tensors(self, graph: Outline, step: int = 0) -> None:
        found: dict[str, _Type] = {name: (text, False, 0) for name, text in graph.types.items()}
        found |= {c.name: (c.type, True, c.nbytes) for c in graph.constants.values()}
        for name, place in list(self.tensors.items()):
            if found.get(name) != self.all_tensors[place].what:
                self.all_tensors[place].until = step
                del self.tensors[name]
        for name, what in found.items():
            if name not in self.tensors:
                self.tensors[name] = len(self.all_tensors)
                self.all_tensors.append(_Version(what, name, step))

    def _rewrite(
        self, rewrite: Rewrite, ours: Mapping[str, int]
    ) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        return (
            tuple(ours[n.name] for n in rewrite.removed),
            tuple(self.nodes[n.name] for n in rewrite.added),
            tuple(self.nodes[c.after.name] for c in rewrite.changed),
        )

    def _node(self, version: _Version[NodeOutline], labels: Labels) -> NodeVersion:
        node = version.what
        return NodeVersion(
            node.name,
            node.op,
            node.scope,
            node.inputs,
            node.outputs,
            node.attributes,
            version.since,
            version.until if version.until >= 0 else self.count,
            labels.precisions.get(node.name, ""),
            tuple(labels.badges.get(node.name, ())),
        )


def _renamed(node: NodeOutline, twin: NodeOutline) -> Iterator[str]:
    """What is called otherwise now, of a node that is the same but for names of tensors and of what it is in."""
    for word, ours, theirs in (("input", node.inputs, twin.inputs), ("output", node.outputs, twin.outputs)):
        for index, (a, b) in enumerate(zip_longest(ours, theirs, fillvalue="")):
            if a != b:
                yield f"{word} {index} is called {b} now, not {a}"
    if node.scope != twin.scope:
        yield "what it is in has another name"
