"""The value of one node whose inputs are all known, and how big it would be.

The numpy kernels come first, the onnx reference implementation second. The reference knows the newest meaning of
each operator; operators that meant something else before opset 13 (Softmax's axis, Clip's attributes …) are
therefore evaluated from opset 13 on only, elementwise ones from 7 on (broadcasting as in numpy).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from graphopt.errors import one_line
from graphopt.ir.elements import Constant, Node
from graphopt.ir.kernels import KERNELS, NotEvaluableError
from graphopt.ir.operands import static_shape
from graphopt.ir.ops import ELEMENTWISE_BINARY, ELEMENTWISE_UNARY, ENGINE_DEFINED
from graphopt.ir.process_wide import NO_WARNINGS
from graphopt.ir.protos import tensor_proto

Array = NDArray[Any]

REFERENCE_OPSET = 13


def evaluate(node: Node, inputs: Sequence[Array | None], opset: int) -> list[Array]:
    """The outputs of `node` that aren't omitted; `inputs` are by position, None where omitted.

    Raises:
        NotEvaluableError: with the reason, whatever went wrong; also when the model declares another type or shape.
    """
    values = compute(node, inputs, opset)
    for output, value in zip(node.present_outputs(), values, strict=True):
        declared = static_shape(output.shape)
        if output.dtype not in (None, value.dtype) or declared not in (None, value.shape):
            raise NotEvaluableError(
                f"its value is {value.dtype}{list(value.shape)}, but the model says {output.dtype}{output.shape}"
            )
    return values


def compute(node: Node, inputs: Sequence[Array | None], opset: int) -> list[Array]:
    """Like `evaluate`, on inputs of any shape, not only of those that the model declares.

    Raises:
        NotEvaluableError: with the reason, whatever went wrong.
    """
    if not node.is_standard:
        raise NotEvaluableError(f"operators of '{node.domain}' aren't evaluated here")
    if any(value is not None and value.dtype == object for value in inputs):
        raise NotEvaluableError("strings aren't evaluated here")
    try:
        with NO_WARNINGS, np.errstate(all="ignore"):
            kernel = KERNELS.get(node.op)
            return [np.asarray(kernel(node, inputs))] if kernel else _reference(node, inputs, opset)
    except NotEvaluableError:
        raise
    # Any error of the reference implementation means only that this node stays as it is.
    except Exception as error:
        raise NotEvaluableError(f"evaluating it failed: {one_line(error)}") from error


def output_bytes(node: Node, inputs: Sequence[Array | None]) -> int | None:
    """Bytes of all outputs, told without computing them; None when that can't be told."""
    if node.op == "ConstantOfShape" and inputs[0] is not None:
        fill = node.attr("value")
        size = fill.dtype.itemsize if isinstance(fill, Constant) else 4
        return size * math.prod(int(d) for d in inputs[0])
    if node.op == "Expand" and inputs[0] is not None and inputs[1] is not None:
        shape = np.broadcast_shapes(inputs[0].shape, tuple(int(d) for d in inputs[1]))
        return inputs[0].itemsize * math.prod(shape)
    if node.op == "Tile" and len(inputs) == 2 and inputs[0] is not None and inputs[1] is not None:
        return inputs[0].nbytes * math.prod(int(r) for r in inputs[1])
    if node.op == "Range" and all(value is not None for value in inputs):
        start, limit, delta = (value.reshape(-1)[0] for value in inputs if value is not None)
        return start.itemsize * max(0, math.ceil((float(limit) - float(start)) / float(delta))) if delta else None
    total = 0
    for output in node.present_outputs():
        shape = static_shape(output.shape)
        if shape is None or output.dtype is None:
            return None
        total += output.dtype.itemsize * math.prod(shape)
    return total


def _reference(node: Node, inputs: Sequence[Array | None], opset: int) -> list[Array]:
    if node.op in ENGINE_DEFINED:
        raise NotEvaluableError(f"engines differ in what {node.op} gives")
    if opset < REFERENCE_OPSET and not (opset >= 7 and node.op in ELEMENTWISE_UNARY | ELEMENTWISE_BINARY):
        raise NotEvaluableError(f"{node.op} is evaluated from opset {REFERENCE_OPSET} on, the model has {opset}")
    feeds = {f"i{k}": value for k, value in enumerate(inputs) if value is not None}
    names = [f"o{k}" for k, output in enumerate(node.outputs) if not output.is_empty()]
    proto = onnx.NodeProto(
        op_type=node.op,
        input=[f"i{k}" if value is not None else "" for k, value in enumerate(inputs)],
        output=["" if output.is_empty() else f"o{k}" for k, output in enumerate(node.outputs)],
    )
    for name, value in node.attrs.items():
        if isinstance(value, onnx.AttributeProto):
            proto.attribute.append(value)
        else:
            constant = tensor_proto(value) if isinstance(value, Constant) else value
            proto.attribute.append(helper.make_attribute(name, constant))
    graph = onnx.GraphProto(name="node", node=[proto])
    graph.input.extend(onnx.ValueInfoProto(name=name) for name in feeds)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    evaluator: Any = ReferenceEvaluator(model)  # its stubs are partly untyped
    results: list[Any] = list(evaluator.run(names, feeds))
    if not all(isinstance(value, (np.ndarray, np.generic)) for value in results):
        raise NotEvaluableError("its result is not a tensor")
    return [np.asarray(value) for value in results]
