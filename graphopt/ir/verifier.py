"""Is this graph a valid model? Run on what the user gave, and after every pass that changed something.

    structure (names, single assignment, definitions, links, order)  →  types against inference  →  plan and Q/DQ
    →  onnx.checker

Cheap: one skeleton without the weights serves inference and onnx.checker, and what `fill_types` found just before is
used again. A violation before any pass has run is the input's fault; after a pass it is a bug of that pass.
"""

from __future__ import annotations

from graphopt.ir.check import complaint
from graphopt.ir.graph import Graph
from graphopt.ir.shapes import run_inference
from graphopt.ir.verify_quantization import plan_violations, quantization_violations
from graphopt.ir.verify_structure import structure_violations
from graphopt.ir.verify_types import type_violations
from graphopt.ir.violation import Violation

__all__ = ["Violation", "verify"]


def verify(graph: Graph) -> list[Violation]:
    """What is wrong with the (sorted) graph, the most basic first; empty when it is valid. Changes nothing."""
    broken = structure_violations(graph)
    if broken:
        return broken  # nothing below can be relied upon
    inferred = graph.facts.inference or run_inference(graph, stated=True)
    found = type_violations(graph) if inferred.failure else []
    found += plan_violations(graph)
    found += quantization_violations(graph)
    problem = complaint(inferred.skeleton)
    if problem is not None:
        found.append(Violation("onnx", graph.name, problem))
    return found
