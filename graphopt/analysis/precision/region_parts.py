"""Which nodes of the main graph go into one region, and which only move values between regions.

    Conv ─▶ Add(skip) ─▶ Relu ─▶ MaxPool ─▶ Reshape ─▶ Softmax ─▶ Mul
    └───────kernel──────────┘    └───movers──────┘     └float┘   └float┘

Kernels and movers are what `analysis.placement` found. Everything else is a part of its own, but for elementwise float
operators: one joins the part before it when that is elementwise, can have the same precisions and is read by it alone.
Of a part nobody reads anything but the results of its last node: parts never form a cycle, and their last nodes are in
topological order.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from graphopt.analysis.placement import Placement
from graphopt.ir import Constant, Graph, Node, Tensor
from graphopt.ir.linear import reads_shape_only
from graphopt.ir.ops import ELEMENTWISE_BINARY, ELEMENTWISE_UNARY

_ELEMENTWISE = ELEMENTWISE_UNARY | ELEMENTWISE_BINARY


@dataclass(frozen=True)
class Parts:
    """The nodes of a main graph, but for those that make constants, in parts.

    Attributes:
        nodes: main node → the nodes of its part, in graph order; in the order of the parts' last nodes.
        carried: main node → the movers that belong to its part, in graph order.
        main: each node that is no mover → the main node of its part.
        roots: what a mover writes → the tensors whose values those are, in front of all movers.
    """

    nodes: dict[Node, list[Node]]
    carried: dict[Node, list[Node]]
    main: dict[Node, Node]
    roots: dict[Tensor, tuple[Tensor, ...]]

    def seen_through(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Where the values of `tensor` come from, in front of what moves them; constants aside."""
        return self.roots.get(tensor, () if isinstance(tensor, Constant) else (tensor,))


def find_parts(graph: Graph, placement: Placement, alike: Callable[[Node], Hashable | None]) -> Parts:
    """The parts of the main graph. `alike`: what an elementwise node may share a part by; None: it has its own."""
    nodes = [node for node in graph.nodes if not node.is_op("Constant")]
    owners = _owners_of_movers(graph, placement)
    main: dict[Node, Node] = {}
    for node in nodes:
        if node in owners:
            continue
        kernel = placement.kernels.get(node)
        main[node] = node if kernel is None else main[kernel]
        before = _chained(graph, node, main) if kernel is None else None
        if before is not None and alike(node) is not None and alike(main[before]) == alike(node):
            main[node] = main[before]
    members: dict[Node, list[Node]] = {}
    for node, head in main.items():
        members.setdefault(head, []).append(node)
    position = {node: k for k, node in enumerate(nodes)}
    ordered = sorted(members, key=lambda head: position[members[head][-1]])
    parts = Parts({head: members[head] for head in ordered}, {}, main, {})
    for node in nodes:
        if node in owners:
            parts.carried.setdefault(main[owners[node]], []).append(node)
            found = dict.fromkeys(root for t in placement.movers[node] for root in parts.seen_through(t))
            parts.roots.update(dict.fromkeys(node.present_outputs(), tuple(found)))
    return parts


def reads(graph: Graph, node: Node) -> list[Tensor]:
    """Tensors of the main graph whose values the node reads, or a nested graph of it."""
    own = [] if reads_shape_only(node) else [t for _, t in node.present_inputs()]
    return [*own, *graph.captured(node)]


def _chained(graph: Graph, node: Node, main: dict[Node, Node]) -> Node | None:
    """The first elementwise node before an elementwise `node` that nobody else reads."""
    if node.op not in _ELEMENTWISE:
        return None
    for tensor in node.inputs:
        before = graph.producer(tensor)
        if (
            before is not None
            and before in main
            and main[before].op in _ELEMENTWISE
            and graph.sole_consumer(tensor) is node
        ):
            return before
    return None


def _owners_of_movers(graph: Graph, placement: Placement) -> dict[Node, Node]:
    """Each mover → a node of the part that it belongs to: what writes its values, or else first reads them.

    One that has neither moves an input of the model to an output, and isn't among them.
    """
    owners: dict[Node, Node] = {}
    readers: dict[Tensor, Node] = {}
    for node in reversed(graph.nodes):
        owner = node
        if node in placement.movers:
            found = [readers[t] for t in node.present_outputs() if t in readers]
            if not found:
                continue
            owner = owners[node] = found[0]
        # Walking backwards, what comes first in the graph stays.
        readers.update(dict.fromkeys(reads(graph, node), owner))
    for node, moved in placement.movers.items():
        for tensor in moved:
            before = graph.producer(tensor)
            writer = owners.get(before) if before is not None and before in placement.movers else before
            if writer is not None and not writer.is_op("Constant"):
                owners[node] = writer
                break
    return owners
