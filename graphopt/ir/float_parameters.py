"""Which inputs and outputs of a node are of its floating-point type: what follows when the node computes in another.

    Conv(x: T, w: T, b: T) → y: T                    all of them
    Resize(x: T1, roi: T2, scales: float)            x and y: `scales` stays float32 in whatever type x is
    LSTM(…, sequence_lens: int32, …)                 all but the lengths

From onnx's own schemas, so right for every operator and opset. An operator without a schema, or whose result's type is
an attribute (Cast, RandomNormal), has no answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx

from graphopt.ir.dtypes import onnx_dtype
from graphopt.ir.elements import Constant, Node, Tensor

LOW_FLOATS: Mapping[str, np.dtype[Any]] = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
"""The 16-bit floating-point types, by name."""
_FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True)
class FloatParameters:
    """Positions of a node's inputs and outputs that have its float type; both empty for one without."""

    inputs: frozenset[int]
    outputs: frozenset[int]


def float_parameters(node: Node, opset: int, dtype: np.dtype[Any]) -> FloatParameters | str:
    """What would be `dtype` if the float32 node computed in it, or why it can't, as a clause.

    Args:
        node: its tensors' element types filled in.
        opset: of the operator's domain.
        dtype: float16 or bfloat16.
    """
    if any(True for _ in node.bodies()):
        return "it has nested graphs"
    if any(t.dtype is None and not t.is_empty() for t in (*node.inputs, *node.outputs)):
        return "the types of its tensors aren't known"
    try:
        schema = onnx.defs.get_schema(node.op, opset, node.domain)
    except onnx.defs.SchemaError:
        return "onnx has no schema of it"
    given = _types(node.inputs, schema.inputs)
    made = _types(node.outputs, schema.outputs)
    variables = {c.type_param_str: frozenset(c.allowed_type_strs) for c in schema.type_constraints}
    # Values of the model's own may be converted at will: a parameter that is only ever such a value decides nothing.
    moving = {
        kind
        for tensor, kind in ((node.inputs[i], kind) for i, kind in given.items())
        if kind in variables and not isinstance(tensor, Constant)
    } | {kind for kind in made.values() if kind in variables}
    if not moving:
        return FloatParameters(frozenset(), frozenset())
    wanted = f"tensor({onnx.TensorProto.DataType.Name(onnx_dtype(dtype)).lower()})"
    for kind in moving:
        if wanted not in variables[kind]:
            return f"{node.op} of opset {schema.since_version} isn't defined for {dtype}"
    if any(kind not in given.values() for kind in moving & set(made.values())):
        return "its result's type is an attribute"
    return FloatParameters(
        frozenset(i for i, kind in given.items() if kind in moving),
        frozenset(i for i, kind in made.items() if kind in moving),
    )


def _types(tensors: Sequence[Tensor], formal: Sequence[Any]) -> dict[int, str]:
    """Position → type parameter (or type) of each float32 tensor; what a variadic parameter takes is alike."""
    return {
        i: str(formal[min(i, len(formal) - 1)].type_str)
        for i, tensor in enumerate(tensors)
        if not tensor.is_empty() and tensor.dtype == _FLOAT32 and formal
    }
