"""Small Q/DQ networks as text, with int8 weights from noise; and what a build says of their nodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from graphopt.backends.precision import NodePrecision, Planned
from graphopt.backends.tensorrt import precision

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
PAD = "pads=[1,1,1,1]"


def network(body: str, inputs: str, outputs: str, opset: int = 13, **constants: np.ndarray) -> onnx.ModelProto:
    """A model of `body`; nodes are named after their first output."""
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["":{opset}]> g ({inputs}) => ({outputs}) {{{body}}}'
    )
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    for node in model.graph.node:
        node.name = node.output[0]
    return model


def qdq(x: str, y: str, scale: str = "s", zero: str = "z") -> str:
    """Text: y = x through Q/DQ."""
    return f"{y}_q = QuantizeLinear({x}, {scale}, {zero})\n{y} = DequantizeLinear({y}_q, {scale}, {zero})\n"


def weight(y: str, scale: str | None = None, axis: int = 0) -> str:
    """Text: the int8 constant {y}_q dequantized with scales {y}_s, per channel of `axis`."""
    return f"{y} = DequantizeLinear<axis={axis}>({y}_q, {scale or f'{y}_s'})\n"


def integers(y: str, *shape: int, axis: int | None = 0, seed: int = 0) -> dict[str, np.ndarray]:
    """The constants that `weight` reads; `axis` None: one scale for all."""
    rng = np.random.default_rng([seed, *map(ord, y)])
    scales = np.float32(0.02) if axis is None else rng.uniform(0.01, 0.03, shape[axis]).astype(np.float32)
    return {f"{y}_q": rng.integers(-127, 128, shape, dtype=np.int8), f"{y}_s": scales}


SCALARS = {"s": np.float32(0.05), "t": np.float32(0.03), "z": np.int8(0)}


def plan_all(model: onnx.ModelProto, ops: Sequence[str] = LINEAR) -> list[Planned]:
    """Every node of these operators as if it were planned: what the engine says is on trial, not the plan."""
    return [Planned(n.name, n.op_type, n.output[0], n.op_type in LINEAR) for n in model.graph.node if n.op_type in ops]


def judge(model: onnx.ModelProto, ops: Sequence[str] = LINEAR, capability: str = "SM86") -> dict[str, NodePrecision]:
    """What the engine makes of each of these nodes, by name."""
    return {n.planned.name: n for n in precision(model, plan_all(model, ops), capability=capability).nodes}
