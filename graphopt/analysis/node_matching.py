"""Which nodes of two graphs are the same: by name, by the tensors that they make, then by their neighbourhood.

    x → conv → relu → y        conv ↔ layer1: the only Conv behind input 0 in both graphs
    a → layer1 → act → b       relu ↔ act: the only Relu behind what is matched

A node that is matched gives its neighbours places ("a Conv that reads its result first"). Where one node of each graph
is in the same place these are matched, alike ones (same operator, attributes and types of constants) before others;
where several alike ones are, and as many in both graphs, they are matched in their order.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from graphopt.ir.outline import NodeOutline, Outline

_Place: TypeAlias = tuple[bool, Hashable, str, str | int, int]
"""Whether it is for alike nodes, what they are, where they stand, beside which matched neighbour, or input or output of
the graph, and which input of the reader it is.
"""


class Side:
    """One of the graphs, with who makes and who reads each tensor."""

    def __init__(self, outline: Outline) -> None:
        self.outline = outline
        self.makers = {name: node.name for node in outline.nodes.values() for name in node.outputs if name}
        self.readers: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for node in outline.nodes.values():
            for index, name in enumerate(node.inputs):
                if name:
                    self.readers[name].append((node.name, index))

    def neighbours(self, node: NodeOutline) -> Iterator[tuple[str, str, int]]:
        """(neighbour, where it stands, which input of the reader): who makes what `node` reads, and who reads it."""
        for index, tensor in enumerate(node.inputs):
            if tensor in self.makers:
                yield self.makers[tensor], "before", index
        for place, tensor in enumerate(node.outputs):
            for reader, index in self.readers.get(tensor, ()):
                yield reader, f"behind output {place}", index

    def alike(self, node: NodeOutline) -> Hashable:
        """What two nodes have in common that may well be the same."""
        stored = tuple(c.type if (c := self.outline.constants.get(t)) else None for t in node.inputs)
        return node.op, len(node.scope), stored, tuple(node.attributes.items())


def match_nodes(before: Side, after: Side) -> dict[str, str]:
    """Name in the first graph → name in the second, in the order of the first. Linear in nodes and their uses."""
    return _Matching(before, after).result()


@dataclass
class _Candidates:
    """The nodes without a counterpart that are in one place, in the order of each graph."""

    ours: dict[str, None] = field(default_factory=dict[str, None])
    theirs: dict[str, None] = field(default_factory=dict[str, None])

    def pairs(self) -> list[tuple[str, str]]:
        """Them, where there are as many in both graphs."""
        return list(zip(self.ours, self.theirs, strict=True)) if len(self.ours) == len(self.theirs) else []


class _Matching:
    """Pairs nodes of both graphs."""

    def __init__(self, before: Side, after: Side) -> None:
        self.before, self.after = before, after
        self.found: dict[str, str] = {}
        self.taken: dict[str, str] = {}
        self.places: dict[_Place, _Candidates] = defaultdict(_Candidates)
        self.where: tuple[dict[str, list[_Place]], dict[str, list[_Place]]] = (defaultdict(list), defaultdict(list))
        # Places to look at, those of alike nodes first, and places where several alike ones were.
        self.alike: deque[_Place] = deque()
        self.others: deque[_Place] = deque()
        self.ties: deque[_Place] = deque()

    def result(self) -> dict[str, str]:
        """Name before → name after."""
        ours, theirs = self.before.outline.nodes, self.after.outline.nodes
        for name, node in ours.items():
            if name in theirs and theirs[name].op == node.op:
                self.match(name, name)
        self.by_results()
        if len(self.found) < len(ours) and len(self.taken) < len(theirs):
            self.by_neighbours()
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

    def by_neighbours(self) -> None:
        """Nodes that stand in the same place in both graphs."""
        self.place_at_the_ends()
        for name, other in list(self.found.items()):
            self.place_neighbours(name, other)
        while self.alike or self.others or self.ties:
            queue = self.alike or self.others or self.ties
            place = queue.popleft()
            pairs = self.places[place].pairs()
            if len(pairs) > 1 and queue is not self.ties:
                if queue is self.alike:
                    self.ties.append(place)
                continue
            for name, other in pairs:
                self.match(name, other)
                self.leave(name, other)
                self.place_neighbours(name, other)

    def place_at_the_ends(self) -> None:
        """Give places to the nodes that read the graphs' inputs and make their outputs."""
        for number, side in enumerate((self.before, self.after)):
            for index, tensor in enumerate(side.outline.inputs):
                for reader, at in side.readers.get(tensor, ()):
                    self.put(number, reader, "behind input", index, at)
            for index, tensor in enumerate(side.outline.outputs):
                if tensor in side.makers:
                    self.put(number, side.makers[tensor], "before output", index, 0)

    def place_neighbours(self, name: str, other: str) -> None:
        """Give places to the neighbours of two nodes that have been matched."""
        for number, (side, node) in enumerate(((self.before, name), (self.after, other))):
            for neighbour, where, index in side.neighbours(side.outline.nodes[node]):
                self.put(number, neighbour, where, name, index)

    def put(self, number: int, name: str, where: str, beside: str | int, index: int) -> None:
        """Put a node of one of the graphs into a place, if it has no counterpart yet."""
        if name in (self.taken if number else self.found):
            return
        side = self.after if number else self.before
        node = side.outline.nodes[name]
        for place in (
            (True, side.alike(node), where, beside, index),
            (False, (node.op, len(node.scope)), where, beside, index),
        ):
            candidates = self.places[place]
            (candidates.theirs if number else candidates.ours)[name] = None
            self.where[number][name].append(place)
            self.look_at(place)

    def leave(self, name: str, other: str) -> None:
        """Take two nodes that have been matched out of their places."""
        for number, node in enumerate((name, other)):
            for place in self.where[number].pop(node, ()):
                candidates = self.places[place]
                (candidates.theirs if number else candidates.ours).pop(node, None)
                self.look_at(place)

    def look_at(self, place: _Place) -> None:
        """Look at a place when its turn comes."""
        (self.alike if place[0] else self.others).append(place)
