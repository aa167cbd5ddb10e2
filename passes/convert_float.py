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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from graphopt.analysis.precision.narrowing import narrowed
from graphopt.calibration.float_fit import misfits
from graphopt.errors import ConfigError
from graphopt.ir import Graph, Node, fill_types
from graphopt.ir.float_parameters import LOW_FLOATS, FloatParameters
from graphopt.ir.ops import QUANTIZE
from graphopt.passes._cast_islands import insert_casts
from graphopt.pipeline import Context, Pass
from graphopt.quant.node_patterns import any_names_node

_FLOAT32 = np.dtype(np.float32)


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
        dtype = LOW_FLOATS[self.dtype]
        low: dict[Node, FloatParameters] = {}
        stays: dict[Node, str] = dict(_integer_kernels(graph))
        for node in graph.nodes:
            if node in stays or not _has_float(node):
                continue
            found = self._parameters(graph, ctx, node, dtype)
            if isinstance(found, str):
                stays[node] = found
            elif found.inputs or found.outputs:
                low[node] = found
        if low and ctx.calibration is None:
            ctx.remarks.note(None, "no samples: whether activations fit is not known; give --calibration-data")
        for node, reason in misfits(graph, low, dtype, ctx.calibration, threads=ctx.threads).items():
            stays[node] = reason
            del low[node]
        for node, reason in stays.items():
            ctx.remarks.declined(node, f"stays in float32: {reason}")
        if low:
            shielded = ctx.target is not None and ctx.target.fuses_casts
            done = insert_casts(graph, low, dtype, keep_io=self.keep_io, shielded=shielded)
            ctx.remarks.note(None, f"{len(low)} nodes compute in {self.dtype}, with {done.casts} Casts at the borders")

    def _parameters(self, graph: Graph, ctx: Context, node: Node, dtype: np.dtype[Any]) -> FloatParameters | str:
        if any_names_node(self.keep_float, node.name, node.op):
            return "the user keeps it"
        rule = ctx.target.precisions.get(self.dtype) if ctx.target is not None else None
        if ctx.target is not None and rule is not None and node.op in rule.without:
            return f"{ctx.target.title} has no {node.op} in {self.dtype}"
        return narrowed(graph, node, dtype)


def _has_float(node: Node) -> bool:
    return any(t.dtype == _FLOAT32 for t in (*node.inputs, *node.outputs) if not t.is_empty())


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
