"""Move the contents of a nested graph into the graph around it."""

from __future__ import annotations

from graphopt.ir.elements import Node, Tensor
from graphopt.ir.graph import Graph


def inline_body(graph: Graph, node: Node, body: Graph) -> list[Node]:
    """Replace `node`, an If of `graph`, by the contents of `body`, one of its branches, which has no inputs.

    Names are unique over the model, so nothing is renamed; an output of the model keeps its name. The moved nodes are
    returned in their order; they stand at the end of `graph` until `sort()`.
    """
    results: list[Tensor] = list(body.outputs)
    moved = list(body.nodes)
    constants = body.constants
    body.set_interface([], [])
    body.gs.nodes = []
    for constant in constants:
        graph.adopt_constant(constant)
    for inner in moved:
        graph.adopt_node(inner)
        for output in inner.outputs:
            output.scope = graph
        for _, nested in inner.bodies():
            nested.parent = graph
    added: list[Node] = []
    for output, result in zip(list(node.outputs), results, strict=True):
        if output.is_empty() or not (output.outputs or graph.is_output(output)):
            continue
        if not graph.replace_uses(output, result):
            # The output's name is part of the interface and the result can't take it: it has a name of its own
            # (a constant, an input of the model, a tensor of an enclosing graph, or a second output).
            renamed = graph.variable_like(output)
            added.append(graph.add_node("Identity", [result], [renamed]))
            graph.replace_uses(output, renamed)
    graph.remove(node)
    return [*moved, *added]
