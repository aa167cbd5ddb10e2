"""Types and shapes: what is stated agrees with what inference finds by itself, and operators can take their inputs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from graphopt.ir.graph import Graph
from graphopt.ir.shapes import Inferred, inferred_tensors, run_inference
from graphopt.ir.tensor_types import TensorType, agrees
from graphopt.ir.violation import Violation

# One complaint of inference among several: "(op_type:MatMul, node name: m): [ShapeInferenceError] why".
_COMPLAINT = re.compile(r"\(op_type:(\w+), node name: (.*?)\): (?:\[\w+\] )?(.*?)(?= \(op_type:|$)")
# Said of operators behind one at fault, or behind a custom one; and of those around the one at fault.
_NOT_THEIRS = re.compile(r"expected to have type but instead is null|^Inference error\(s\):$")


def type_violations(graph: Graph) -> list[Violation]:
    """Known element types and sizes that contradict inference, and operators that inference says can't take theirs."""
    # Without the stated types, so that a wrong one isn't believed.
    inferred = run_inference(graph, stated=False)
    contradictions = [
        Violation("types", tensor.name, f"tensor '{tensor.name}' is stated as {stated}, but inference finds {found}")
        for tensor, found in inferred_tensors(graph, inferred)
        if not agrees(tensor, found)
        for stated in [TensorType(tensor.dtype, tensor.shape, tensor.type_proto)]
    ]
    return contradictions + list(_misfits(graph, inferred))


def _misfits(graph: Graph, inferred: Inferred) -> Iterator[Violation]:
    """What inference objects to in single nodes.

    Not inside functions: onnx 1.23 fails on the body of some standard ones (MeanVarianceNormalization's has a Constant
    whose value is an attribute of the function).
    """
    names = {node.name for scope in graph.walk() for node in scope.nodes}
    for op, name, why in _COMPLAINT.findall(inferred.failure):
        if name in names and not _NOT_THEIRS.search(why):
            yield Violation("types", name, f"{op} '{name}' doesn't fit its inputs: {why}")
