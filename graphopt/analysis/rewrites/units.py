"""What one pass changed, in the smallest parts that can be applied without the others.

    x → Conv → y        insert-qdq        x → Q → DQ ↘
                                    DQ(integers of W) → Conv → y        two parts: the pair at x, and the weight

A tensor that only one of the graphs has ties together whoever makes and reads it, and so does one that has another
element type or size in the other graph; a tensor that different nodes make in them ties these nodes together. Nothing
else does: unlike a `Rewrite`, which shows what belongs together, parts may depend on each other by their values (two
layers with a factor moved between them).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from graphopt.analysis.graph_diff import ChangedNode
from graphopt.ir.outline import NodeOutline

Item: TypeAlias = tuple[str, str, int]
"""(kind, name of the node in the first graph, or the second for added ones; input, or −1 for the whole node)."""

REMOVED, ADDED, CHANGED = "removed", "added", "changed"
WHOLE = -1


@dataclass(frozen=True)
class PartlyChanged:
    """A node of both graphs: all that has changed, or some of its inputs alone."""

    node: ChangedNode
    inputs: tuple[int, ...] | None

    @property
    def what(self) -> tuple[str, ...]:
        """What has changed, in words."""
        if self.inputs is None:
            return self.node.what
        return tuple(w for w in self.node.what if any(w.startswith(f"input {i}:") for i in self.inputs))

    @property
    def reads(self) -> tuple[str, ...]:
        """What it read, of the inputs that it is about."""
        inputs = self.node.before.inputs
        return inputs if self.inputs is None else tuple(inputs[k] for k in self.inputs)

    def concerns(self, node: str, index: int) -> bool:
        """Whether it is about this input of this node of the first graph."""
        return node == self.node.before.name and (self.inputs is None or index in self.inputs)


@dataclass(frozen=True)
class Unit:
    """Changes that only make sense together.

    Attributes:
        removed: nodes of the first graph.
        added: nodes of the second.
        changed: nodes of both.
        items: the same as keys.
    """

    removed: tuple[NodeOutline, ...]
    added: tuple[NodeOutline, ...]
    changed: tuple[PartlyChanged, ...]
    items: frozenset[Item]

    @property
    def before(self) -> tuple[NodeOutline, ...]:
        """The nodes of the first graph that it concerns."""
        return (*self.removed, *(c.node.before for c in self.changed))


@dataclass(frozen=True)
class Division:
    """The units, in the order of the graphs.

    Attributes:
        units: them.
        renamed: tensor in the second graph → its name in the first, where matched nodes make both.
        moved: nodes (name in the first graph) that are in another body.
        retyped: tensors of both graphs that have another element type or size in the second.
    """

    units: tuple[Unit, ...]
    renamed: Mapping[str, str]
    moved: frozenset[str]
    retyped: frozenset[str]
