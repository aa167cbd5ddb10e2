"""Remove nodes whose results reach no output.

    y = Conv(x, W); z = Relu(x); return z      →      z = Relu(x); return z

Works in nested graphs too. ONNX operators have no side effects, so a node nobody reads can't be observed. Declines
nothing; a node of a custom domain is kept, because only its owner knows whether it has effects (a print, a counter).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Graph, Node
from graphopt.pipeline import Context, Pass

STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})


@dataclass(frozen=True)
class RemoveDead(Pass):
    """Remove nodes whose results reach no output."""

    name: ClassVar[str] = "remove-dead"
    summary: ClassVar[str] = "remove nodes whose results reach no output"
    lossless: ClassVar[bool] = True

    def run(self, graph: Graph, ctx: Context) -> None:
        """Sweep each graph from unread nodes upwards, nested graphs first: what they no longer read goes too."""
        for scope in reversed(list(graph.walk())):
            sweep(scope.live_nodes(), ctx)


def sweep(candidates: Iterable[Node], ctx: Context) -> None:
    """Remove those of `candidates` that nothing reads, each followed by what only it read."""
    for candidate in candidates:
        pending = [candidate]
        while pending:
            pending.extend(_remove_unread(pending.pop(), ctx))


def _remove_unread(node: Node, ctx: Context) -> list[Node]:
    """Remove `node` if nothing reads it; the nodes that it read."""
    graph = node.scope
    if graph is None or any(t.outputs or graph.is_output(t) for t in node.outputs):
        return []
    if node.domain not in STANDARD_DOMAINS:
        ctx.remarks.declined(node, f"nobody reads it, but operators of '{node.domain}' may have effects")
        return []
    feeding = [*node.inputs, *graph.captured(node)]
    graph.remove(node)
    ctx.remarks.applied(node, "nothing reads its outputs")
    return [t.inputs[0] for t in feeding if t.inputs]
