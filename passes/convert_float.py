"""Let a float32 model compute in float16 or bfloat16 wherever that is defined and its values fit.

    x: f32 → Conv → Softmax → y        →        x → Cast → Conv: f16 → Cast → Softmax: f32 → y

A node stays in float32 where

- the operator isn't defined for the type in this opset, or is a Cast, whose type is its meaning;
- a constant of it would become 0 or infinite (an epsilon of 1e-12 in front of a Sqrt: 0/0);
- the samples show a value that the type can't hold with room to spare, or values too small for it, or a sum over so
  many and so large values that it may overflow on the way (LayerNormalization, ReduceMean, GlobalAveragePool);
- it is part of an 8-bit kernel: a Cast between Q/DQ and what they belong to would break that up;
- the user keeps it there.

TensorRT is built strongly typed: it computes in the types that the model has. Without samples no ranges are looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

import ml_dtypes
import numpy as np

from graphopt.calibration import collect
from graphopt.calibration.statistics import MinMax
from graphopt.calibration.weights import detached
from graphopt.errors import ConfigError
from graphopt.ir import Constant, Graph, Node, fill_types
from graphopt.ir.float_parameters import FloatParameters, float_parameters
from graphopt.ir.operands import static_shape
from graphopt.ir.ops import QUANTIZE
from graphopt.passes._cast_islands import insert_casts
from graphopt.pipeline import Context, Pass

DTYPES: Mapping[str, np.dtype[Any]] = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_FLOAT32 = np.dtype(np.float32)
# Inputs that the samples don't show may be larger.
_HEADROOM = 2.0
# Sums over axes that engines may add up in the node's own type.
_SUMS = frozenset(
    {"AveragePool", "CumSum", "GlobalAveragePool", "ReduceL1", "ReduceLogSumExp", "ReduceMean", "ReduceSum"}
)
_SUMS_OF_SQUARES = frozenset(
    {"GroupNormalization", "InstanceNormalization", "LayerNormalization", "RMSNormalization"}
    | {"ReduceL2", "ReduceSumSquare"}
)


@dataclass(frozen=True)
class ConvertFloat(Pass):
    """Convert what can be converted.

    Attributes:
        dtype: the type to compute in.
        keep_io: inputs and outputs of the model stay float32.
        keep_float: nodes to leave in float32: patterns of names, or operators.
    """

    name: ClassVar[str] = "convert-float"
    summary: ClassVar[str] = "compute in float16 or bfloat16 where values fit, with Casts at the borders"

    dtype: Literal["float16", "bfloat16"] = "float16"
    keep_io: bool = True
    keep_float: tuple[str, ...] = ()

    def run(self, graph: Graph, ctx: Context) -> None:
        """Convert the main graph.

        Raises:
            ConfigError: 8 bits are planned and not materialised yet.
            CalibrationError: a sample fails.
        """
        if graph.plan:
            raise ConfigError("convert-float comes behind insert-qdq: tensors of the plan can't change their type")
        fill_types(graph)
        dtype = DTYPES[self.dtype]
        low: dict[Node, FloatParameters] = {}
        stays: dict[Node, str] = dict(_integer_kernels(graph))
        for node in graph.nodes:
            if node in stays or not _has_float(node):
                continue
            found = self._parameters(graph, node, dtype)
            if isinstance(found, str):
                stays[node] = found
            elif found.inputs or found.outputs:
                low[node] = found
        for node, reason in self._misfits(graph, ctx, low, dtype).items():
            stays[node] = reason
            del low[node]
        for node, reason in stays.items():
            ctx.remarks.declined(node, f"stays in float32: {reason}")
        if low:
            casts = insert_casts(graph, low, dtype, keep_io=self.keep_io)
            ctx.remarks.note(None, f"{len(low)} nodes compute in {self.dtype}, with {casts} Casts at the borders")

    def _parameters(self, graph: Graph, node: Node, dtype: np.dtype[Any]) -> FloatParameters | str:
        if any(fnmatchcase(node.name, p) or node.op == p for p in self.keep_float):
            return "the user keeps it"
        if node.is_op("Cast", "CastLike"):
            return "a Cast's type is what it is for"
        if any(graph.is_output(t) and all(t is not o for o in graph.outputs) for t in node.outputs):
            return "a nested graph hands its result on"
        found = float_parameters(node, graph.facts.opset_imports.get(node.domain, 1), dtype)
        if isinstance(found, str):
            return found
        for position in sorted(found.inputs):
            tensor = node.inputs[position]
            if isinstance(tensor, Constant):
                reason = _constant_misfit(tensor, dtype)
                if reason is not None:
                    return reason
        return found

    def _misfits(
        self, graph: Graph, ctx: Context, low: Mapping[Node, FloatParameters], dtype: np.dtype[Any]
    ) -> dict[Node, str]:
        """Nodes whose values don't fit, as the samples show them."""
        if ctx.calibration is None or not low:
            if low:
                ctx.remarks.note(None, "no samples: whether activations fit is not known; give --calibration-data")
            return {}
        read = {
            t.name: t
            for node, parameters in low.items()
            for t in (*(node.inputs[i] for i in parameters.inputs), *(node.outputs[i] for i in parameters.outputs))
            if not isinstance(t, Constant) and not t.is_empty()
        }
        seen = collect(detached(graph), list(read), ctx.calibration, kind="minmax", threads=ctx.threads)
        largest = {name: _largest(found) for name, found in seen.items()}
        limits = ml_dtypes.finfo(dtype)
        found: dict[Node, str] = {}
        for node, parameters in low.items():
            reason = _value_misfit(node, parameters, largest, float(limits.max), float(limits.smallest_normal))
            if reason is not None:
                found[node] = reason
        return found


def _has_float(node: Node) -> bool:
    return any(t.dtype == _FLOAT32 for t in (*node.inputs, *node.outputs) if not t.is_empty())


def _largest(found: object) -> float:
    return max(-found.low, found.high) if isinstance(found, MinMax) and not found.is_empty else 0.0


def _constant_misfit(constant: Constant, dtype: np.dtype[Any]) -> str | None:
    """Why a constant can't be converted."""
    values = constant.values
    with np.errstate(over="ignore", under="ignore"):
        converted = values.astype(dtype).astype(np.float32)
    lost = np.isinf(converted) & np.isfinite(values)
    if lost.any():
        return f"'{constant.name}' holds {float(values[lost].flat[0]):.3g}, which is infinite in {dtype}"
    # Of many weights some may vanish; a value that stands alone means something.
    if values.size and not converted.any() and values.any():
        return f"'{constant.name}' is {float(np.abs(values).max()):.3g} at most, which is 0 in {dtype}"
    return None


def _value_misfit(
    node: Node, parameters: FloatParameters, largest: Mapping[str, float], most: float, least: float
) -> str | None:
    """Why the values of a node don't fit."""
    tensors = [node.inputs[i] for i in sorted(parameters.inputs)] + [
        node.outputs[i] for i in sorted(parameters.outputs)
    ]
    for tensor in tensors:
        top = largest.get(tensor.name)
        if top is None:
            continue
        if top * _HEADROOM > most:
            return f"'{tensor.name}' reaches {top:.3g}, and the largest value is {most:.3g}"
        if 0 < top < least:
            return f"'{tensor.name}' is {top:.3g} at most, below the smallest normal value, {least:.3g}"
    data = node.inputs[0] if node.inputs else None
    top = None if data is None else largest.get(data.name)
    count = _summed(node)
    if top is None or count is None:
        return None
    total = count * (top * top if node.op in _SUMS_OF_SQUARES else top)
    if total > most:
        squares = "squares of " if node.op in _SUMS_OF_SQUARES else ""
        return f"it adds up {count:,} {squares}values up to {top:.3g}, which may pass {most:.3g} on the way"
    return None


def _summed(node: Node) -> int | None:
    """How many values a node adds up for each of its results; None where it adds none, or that isn't known."""
    if node.op not in _SUMS | _SUMS_OF_SQUARES:
        return None
    shape = static_shape(node.inputs[0].shape)
    result = static_shape(node.outputs[0].shape)
    if shape is None or result is None:
        known = [d for d in node.inputs[0].shape or () if isinstance(d, int)]
        return math.prod(known[1:]) if known else None
    if math.prod(result) == math.prod(shape):  # a normalization: over all but the batch at most
        return max(1, math.prod(shape[1:]))
    return max(1, math.prod(shape) // max(1, math.prod(result)))


def _integer_kernels(graph: Graph) -> Iterator[tuple[Node, str]]:
    """Q/DQ, what reads a DQ's result, and what only leads to a Q: engines fuse these into one kernel."""
    quantize = {node for node in graph.nodes if node.op in QUANTIZE}
    if not quantize:
        return
    inside: dict[Node, str] = {}
    for node in graph.nodes:
        if node in quantize:
            inside[node] = "its scale is float32"
        elif any(t.inputs and t.inputs[0].op == "DequantizeLinear" for t in node.inputs):
            inside[node] = "it reads integers"
    for node in reversed(graph.nodes):
        if node not in inside and any(r.op == "QuantizeLinear" for t in node.outputs for r in graph.consumers(t)):
            inside[node] = "its result goes into integers"
        readers = [reader for tensor in node.outputs for reader in graph.consumers(tensor)]
        given_out = any(graph.is_output(tensor) for tensor in node.outputs)
        if node not in inside and readers and not given_out and all(reader in inside for reader in readers):
            inside[node] = "its result goes into integers"
    yield from inside.items()
