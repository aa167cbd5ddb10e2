"""Run a .tflite in LiteRT on the CPU, and say in which precision it computes each node of the model it was made from.

LiteRT rewrites nothing: an operator computes in the types that the file gives its tensors, or preparing it fails. So
precisions are read from the file, after LiteRT has prepared it. The writer names each tensor after the one in the
ONNX model that it stores; that is how a node finds its operator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from onnx import ModelProto, NodeProto

from graphopt.backends.litert_model import LiteModel, LiteOperator, LiteTensor, read_model
from graphopt.backends.litert_run import prepare, run
from graphopt.backends.precision import EnginePrecision, NodePrecision, Planned

__all__ = ["inner_floats", "precision", "run"]

# LiteRT's matrix products, with the position of their data, weight and bias.
_LINEAR = {
    "CONV_2D": (0, 1, 2),
    "DEPTHWISE_CONV_2D": (0, 1, 2),
    "FULLY_CONNECTED": (0, 1, 2),
    "CONV_3D": (0, 1, 2),
    "TRANSPOSE_CONV": (2, 1, 3),
    "BATCH_MATMUL": (0, 1, 2),
}
# What stands between a kernel's result and the tensor that other operators read: nothing is computed there.
_CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE"})
# What may stand between a matrix product and the tensor that other operators read.
_BEHIND_LINEAR = _CONVERSIONS | {"CONCATENATION", "EXPAND_DIMS", "RELU", "RELU6", "RESHAPE", "SQUEEZE", "TRANSPOSE"}
_INTEGERS = frozenset({"int8", "uint8", "int16"})
# Activations → what a bias may be.
_BIASES = {"int8": ("int32",), "int16": ("int32", "int64")}
# In the ONNX model: a MatMul's bias and activations run inside the operator, whose result the first Q stores.
_FOLLOWERS = {"MatMul": frozenset({"Add", "Relu", "Clip", "QuantizeLinear"})}
_ACTIVATIONS = frozenset({"Relu", "Clip", "QuantizeLinear"})


def precision(tflite: bytes | Path, planned: Sequence[Planned], model: ModelProto) -> EnginePrecision:
    """What LiteRT computes each planned node in.

    8 bits means: data, weight and result are int8 and the bias, if there is one, is int32; "int16x8": data and result
    are int16, the weight is int8, and the bias int32 or int64. A node that moves values and has no operator of its own,
    because the layout made it needless, counts as the integers that it would move.

    Args:
        tflite: the file's bytes, or its path.
        planned: the nodes of `model` that should be computed in integers.
        model: the Q/DQ model that the .tflite was written from; it says which tensors follow a node's result.

    Raises:
        UnsupportedError: LiteRT is not installed, or can't prepare the model.
        LoadError: the file can't be read, or is no .tflite.
    """
    lite = read_model(tflite)
    prepare(tflite)
    makers = {tensor.name: operator for operator in lite.operators for tensor in operator.outputs}
    after = _Followers(model)
    nodes = [_judge(node, _layer(node, after.names(node), makers)) for node in planned]
    floats = [f"float tensor '{tensor.name}' between integer operators" for tensor in inner_floats(lite)]
    return EnginePrecision("LiteRT", version("ai-edge-litert"), "CPU", nodes, floats)


def inner_floats(lite: LiteModel) -> list[LiteTensor]:
    """The float tensors between the edges: made behind one integer operator and read before another one.

    Conversions at the model's inputs and outputs, and float operators before the first or after the last integer one,
    are edges.
    """
    behind: set[str] = set()
    for operator in lite.operators:
        if _is_integer(operator) or any(t is not None and t.name in behind for t in operator.inputs):
            behind.update(t.name for t in operator.outputs)
    before: set[str] = set()
    found: dict[str, LiteTensor] = {}
    for operator in reversed(lite.operators):
        found.update((t.name, t) for t in operator.outputs if t.is_float and t.name in behind & before)
        if _is_integer(operator) or any(t.name in before for t in operator.outputs):
            before.update(t.name for t in operator.inputs if t is not None and not t.constant)
    return list(reversed(found.values()))


def _is_integer(operator: LiteOperator) -> bool:
    """Whether it computes on integers of 8 or 16 bits, and doesn't just convert."""
    tensors = [t for t in operator.inputs if t is not None] + list(operator.outputs)
    return operator.kind not in _CONVERSIONS and any(t.dtype in _INTEGERS for t in tensors)


class _Followers:
    """Which tensors of a Q/DQ model may hold the result of a node, as the .tflite's operator writes it."""

    def __init__(self, model: ModelProto) -> None:
        self.readers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def names(self, node: Planned) -> list[str]:
        """The node's own output and those of what the kernel takes along, up to the first Q/DQ pair."""
        found, followers = [node.output], _FOLLOWERS.get(node.op_type, _ACTIVATIONS)
        while len(readers := self.readers.get(found[-1], [])) == 1 and readers[0].op_type in followers:
            found.append(readers[0].output[0])
            if readers[0].op_type == "QuantizeLinear":
                return found + [dq.output[0] for dq in self.readers.get(found[-1], [])]
        return found


def _layer(planned: Planned, names: Sequence[str], makers: Mapping[str, LiteOperator]) -> LiteOperator | None:
    """The operator that computes a planned node, or None.

    Behind a matrix product, what only moves or bounds its result is looked through, towards the product.
    """
    passed = _BEHIND_LINEAR if planned.linear else _CONVERSIONS
    for name in names:
        operator = makers.get(name)
        while operator is not None and operator.kind in passed:
            source = next((t for t in operator.inputs if t is not None and not t.constant), None)
            operator = makers.get(source.name) if source is not None else None
        if operator is not None and (operator.kind in _LINEAR or not planned.linear):
            return operator
    return None


def _judge(planned: Planned, layer: LiteOperator | None) -> NodePrecision:
    if layer is None:
        if planned.linear:
            return NodePrecision(planned, "", "unknown", f"no operator of the .tflite makes '{planned.output}'")
        return NodePrecision(planned, "", planned.precision)
    dtype = "int16" if any(t.dtype == "int16" for t in layer.outputs) else "int8"
    reason = _why_float(layer, dtype)
    if reason:
        return NodePrecision(planned, str(layer), "float32", reason)
    precision = "int8" if dtype == "int8" else "int16x8"
    other = "" if precision == planned.precision else f"its result '{layer.outputs[0].name}' is {dtype}"
    return NodePrecision(planned, str(layer), precision, other)


def _why_float(layer: LiteOperator, dtype: str) -> str:
    """Why an operator doesn't compute in integers, of `dtype` but for weights and biases; empty when it does."""
    if layer.kind in _LINEAR:
        data, weight, bias = (_at(layer.inputs, k) for k in _LINEAR[layer.kind])
        stored = dtype if weight is not None and not weight.constant else "int8"
        roles = [("data", data, (dtype,)), ("weight", weight, (stored,)), ("bias", bias, _BIASES[dtype])]
        wrong = [(role, t) for role, t, expected in roles if t is not None and t.dtype not in expected]
    else:
        wrong = [("operand", t) for t in layer.inputs if t is not None and t.is_float]
    wrong += [("result", t) for t in layer.outputs if t.dtype != dtype]
    return "; ".join(f"its {role} '{t.name}' is {t.dtype}" for role, t in wrong)


def _at(tensors: Sequence[LiteTensor | None], index: int) -> LiteTensor | None:
    return tensors[index] if index < len(tensors) else None
