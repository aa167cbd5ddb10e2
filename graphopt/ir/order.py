"""Topological order that moves nothing that needn't move."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt.errors import InternalError
from graphopt.ir.elements import Node

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph


def sorted_nodes(graph: Graph) -> list[Node]:
    """The nodes of one graph, each behind those it depends on, and otherwise where it stands.

    Depth-first post-order from each node in its present place, without recursion.

    Raises:
        InternalError: the nodes form a cycle.
    """
    ordered: list[Node] = []
    state: dict[Node, int] = {}  # 1: on the path, 2: placed
    for start in graph.nodes:
        stack = [start]
        while stack:
            node = stack[-1]
            if state.get(node) == 2:
                stack.pop()
                continue
            waiting: list[Node] = []
            if state.get(node) is None:
                state[node] = 1
                for tensor in (*node.inputs, *graph.captured(node)):
                    producer = tensor.inputs[0] if tensor.inputs else None
                    if producer is None or producer.scope is not graph or state.get(producer) == 2:
                        continue
                    if state.get(producer) == 1:
                        raise InternalError(f"{node} and {producer} depend on each other (a cycle)")
                    waiting.append(producer)
            if waiting:
                stack.extend(reversed(waiting))
                continue
            state[node] = 2
            ordered.append(node)
            stack.pop()
    return ordered
