"""Take out operators that don't change their input, and merge pairs that undo or repeat each other.

    a = Identity(x); b = Dropout(a); y = Relu(b)                       →      y = Relu(x)
    a = Transpose(x, [0,2,3,1]); b = Relu(Transpose(a, [0,3,1,2]))     →      b = Relu(x)
    a = Reshape(x, [2,-1]); b = Reshape(a, [4,6])                      →      b = Reshape(x, [4,6])

Whether one operator does nothing is in `_noop_rules`, what two in a row come to in `_noop_pairs`. Both compare shapes
and types only where they are known. x + 0 turns −0 into +0 and Clip without bounds turns infinities into the largest
number; both are equal as far as float comparison of finite values goes.

Declines: a second output that is read (Dropout's mask, MaxPool's indices); an output of the model whose name the input
can't take, because the input is a model input, a constant, or an output itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Graph, Node, Tensor, Variable
from graphopt.passes._noop_pairs import MERGES
from graphopt.passes._noop_rules import FIRST_INPUT, SECOND_INPUT
from graphopt.passes.remove_dead import sweep
from graphopt.pipeline import Context, Pass


@dataclass(frozen=True)
class RemoveNoops(Pass):
    """Take out operators that change nothing."""

    name: ClassVar[str] = "remove-noops"
    summary: ClassVar[str] = "take out operators that change nothing, and pairs that undo each other"
    lossless: ClassVar[bool] = True

    def run(self, graph: Graph, ctx: Context) -> None:
        """In graph order: when a node's turn comes, what is before it is simplified already."""
        for scope in graph.walk():
            for node in scope.live_nodes():
                if not node.is_standard:
                    continue
                merge = MERGES.get(node.op)
                source = merge(scope, node, ctx) if merge else None
                if source is not None:
                    _bypass(scope, node, source, "it undoes what those before it did", ctx)
                    continue
                for index, rules in enumerate((FIRST_INPUT, SECOND_INPUT)):
                    reason = rules[node.op](node, scope.opset) if node.op in rules else None
                    if reason is not None:
                        _bypass(scope, node, node.inputs[index], reason, ctx)
                        break


def _bypass(graph: Graph, node: Node, source: Tensor, reason: str, ctx: Context) -> None:
    """Give the readers of the node's first output `source` instead, and remove the node and what only it read."""
    output = node.outputs[0]
    read = next((t for t in node.outputs[1:] if t.outputs or graph.is_output(t)), None)
    if read is not None:
        ctx.remarks.declined(node, f"{reason}, but its output '{read.name}' is read too")
        return
    if not graph.can_replace_uses(output, source):
        kind = "an output too" if graph.is_output(source) else "an input, a constant or from outside"
        ctx.remarks.declined(node, f"{reason}, but output '{output.name}' has its name; '{source.name}' is {kind}")
        return
    if isinstance(source, Variable) and (graph.is_output(output) or source.shape is None or source.dtype is None):
        # The same tensor: what the model says of its output stays said.
        dtype = source.dtype if output.dtype is None else output.dtype
        graph.set_type(source, dtype, source.shape if output.shape is None else output.shape)
    graph.replace_uses(output, source)
    before = [producer for t in node.inputs for producer in t.inputs]
    graph.remove(node)
    ctx.remarks.applied(node, reason)
    sweep(before, ctx)  # the other half of a pair, the computation of a parameter
