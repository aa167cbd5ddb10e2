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

_PURE_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})


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

    def has_effects(node: Node) -> bool:
        if node.domain in _PURE_DOMAINS:
            return False
        ctx.remarks.declined(node, f"nobody reads it, but operators of '{node.domain}' may have effects")
        return True

    for candidate in candidates:
        if candidate.scope is not None:
            for node in candidate.scope.remove_unused([candidate], has_effects):
                ctx.remarks.applied(node, "nothing reads its outputs")
