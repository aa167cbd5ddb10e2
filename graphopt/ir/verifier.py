"""Is this graph a valid model? Run on what the user gave, and after every pass that changed something.

    structure (names, single assignment, definitions, links, order)  →  types against inference  →  plan and Q/DQ
    →  onnx.checker

Cheap: one skeleton without the weights serves inference and onnx.checker. A violation before any pass has run is the
input's fault; after a pass it is a bug of that pass.
"""

from __future__ import annotations

from graphopt.ir.check import complaint
from graphopt.ir.graph import Graph
from graphopt.ir.shapes import inferred_tensors, merge, run_inference
from graphopt.ir.verify_quantization import plan_violations, quantization_violations
from graphopt.ir.verify_structure import structure_violations
from graphopt.ir.verify_types import agrees, type_violations
from graphopt.ir.violation import Violation

__all__ = ["Violation", "check_and_infer", "verify"]


def verify(graph: Graph) -> list[Violation]:
    """What is wrong with the (sorted) graph, the most basic first; empty when it is valid. Changes nothing."""
    return _check(graph, fill=False)


def check_and_infer(graph: Graph) -> list[Violation]:
    """`verify`, and fill in what inference found out about unknown types and shapes on the way."""
    return _check(graph, fill=True)


def _check(graph: Graph, *, fill: bool) -> list[Violation]:
    broken = structure_violations(graph)
    if broken:
        return broken  # nothing below can be relied upon
    inferred = run_inference(graph, stated=False)
    found = type_violations(graph, inferred)
    if fill:
        for tensor, kind in inferred_tensors(graph, inferred):
            if agrees(tensor, kind):
                merge(graph, tensor, kind)
    found += plan_violations(graph)
    found += quantization_violations(graph)
    problem = complaint(inferred.skeleton)
    if problem is not None:
        found.append(Violation("onnx", graph.name, problem))
    return found
