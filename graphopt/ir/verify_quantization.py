"""QuantizeLinear and DequantizeLinear nodes, and the quantization plan.

Rules from the ONNX operator specification, QuantizeLinear and DequantizeLinear, versions 10 to 25.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graphopt.ir.block_weights import FOUR_BITS, is_block_weight
from graphopt.ir.elements import Node, Shape, Tensor, is_fixed
from graphopt.ir.graph import Graph
from graphopt.ir.violation import Violation

_PER_AXIS_OPSET = 13
_WIDE_OPSET = 21
_EIGHT_BIT = frozenset({np.dtype(np.int8), np.dtype(np.uint8)})
_WIDE = frozenset({np.dtype(np.int16), np.dtype(np.uint16)}) | FOUR_BITS


def quantization_violations(graph: Graph) -> list[Violation]:
    """Illegal Q/DQ nodes in the model, nested graphs included."""
    return [
        Violation("quantization", node.name, f"{node}: {problem}")
        for scope in graph.walk()
        for node in scope.nodes
        if node.is_op("QuantizeLinear", "DequantizeLinear")
        for problem in _problems(node, graph.opset)
    ]


def plan_violations(graph: Graph) -> list[Violation]:
    """Entries of the plan that name tensors, nodes or uses which aren't there."""
    plan = graph.plan
    if not plan and not plan.quantized_nodes and not plan.float_nodes:
        return []
    tensors = {name: tensor for scope in graph.walk() for name, tensor in scope.tensors().items()}
    nodes = {node.name: node for scope in graph.walk() for node in scope.nodes}
    found: list[Violation] = []
    for entry in plan:
        tensor = tensors.get(entry.tensor)
        if tensor is None:
            found.append(Violation("plan", entry.tensor, f"the plan quantizes '{entry.tensor}', which isn't there"))
            continue
        for edge in entry.edges:
            node = nodes.get(edge.node)
            if node is None or node.input(edge.index) is not tensor:
                found.append(
                    Violation("plan", edge.node, f"the plan says that {edge} reads '{entry.tensor}': it doesn't")
                )
        if entry.is_output and not graph.is_output(tensor):
            found.append(Violation("plan", entry.tensor, f"the plan takes '{entry.tensor}' for a graph output"))
    found.extend(
        Violation("plan", name, f"the plan speaks of a node '{name}', which isn't there")
        for name in (*plan.quantized_nodes, *plan.float_nodes)
        if name not in nodes
    )
    return found


def _problems(node: Node, opset: int) -> Iterator[str]:
    scale, zero_point = node.input(1), node.input(2)
    if scale is None or node.input(0) is None:
        yield "has no input or no scale"
        return
    data = node.inputs[0]
    integers = node.outputs[0] if node.op == "QuantizeLinear" else data
    yield from _scale_problems(scale, signed=is_block_weight(node))
    yield from _layout_problems(node, data.shape, scale.shape, opset)
    yield from _type_problems(integers, opset)
    if zero_point is not None:
        yield from _zero_point_problems(integers, scale, zero_point)


def _scale_problems(scale: Tensor, *, signed: bool) -> Iterator[str]:
    if scale.dtype is not None and np.dtype(scale.dtype).kind in "iub":
        yield f"its scale '{scale.name}' is {scale.dtype}, not a float type"
    if not is_fixed(scale):
        return
    values = scale.values.astype(np.float64)
    if signed:
        # Weights in blocks of 4 bits: a negative scale turns the grid −8 … 7 into −7 … 8.
        values = np.abs(values)
    if not np.isfinite(values).all() or not (values > 0).all():
        yield f"its scale '{scale.name}' must be positive and finite, and ranges from {values.min()} to {values.max()}"


def _layout_problems(node: Node, data: Shape | None, scale: Shape | None, opset: int) -> Iterator[str]:
    if data is None or scale is None or len(scale) == 0 or scale == (1,):
        return
    if node.attr("block_size", 0):
        yield from _block_problems(node, data, scale, opset)
        return
    if opset < _PER_AXIS_OPSET:
        yield f"a scale per channel needs opset {_PER_AXIS_OPSET}; the model has {opset}"
    axis = int(node.attr("axis", 1))
    if len(scale) != 1 or not -len(data) <= axis < len(data):
        yield f"scales of shape {list(scale)} along axis {axis} of data of shape {list(data)}"
        return
    channels, scales = data[axis], scale[0]
    if isinstance(channels, int) and isinstance(scales, int) and channels != scales:
        yield f"{scales} scales for {channels} channels (axis {axis} of {list(data)})"


def _block_problems(node: Node, data: Shape, scale: Shape, opset: int) -> Iterator[str]:
    if opset < _WIDE_OPSET:
        yield f"blocks need opset {_WIDE_OPSET}; the model has {opset}"
    axis, size = int(node.attr("axis", 1)), int(node.attr("block_size", 0))
    if len(scale) != len(data) or not -len(data) <= axis < len(data) or size < 0:
        yield f"scales of shape {list(scale)} for blocks of {size} along axis {axis} of data of shape {list(data)}"
        return
    for k, (length, count) in enumerate(zip(data, scale, strict=True)):
        if not isinstance(length, int) or not isinstance(count, int):
            continue
        wanted = -(-length // size) if k == axis % len(data) else length
        if count != wanted:
            yield f"{count} scales for {length} values along axis {k}, in blocks of {size} along axis {axis}"


def _type_problems(integers: Tensor, opset: int) -> Iterator[str]:
    if integers.dtype in _WIDE and opset < _WIDE_OPSET:
        yield f"{integers.dtype} needs opset {_WIDE_OPSET}; the model has {opset}"


def _zero_point_problems(integers: Tensor, scale: Tensor, zero_point: Tensor) -> Iterator[str]:
    name = zero_point.name
    if zero_point.dtype is not None and integers.dtype is not None and zero_point.dtype != integers.dtype:
        yield f"its zero point '{name}' is {zero_point.dtype}, but '{integers.name}' is {integers.dtype}"
    shapes = {shape or (1,) for shape in (zero_point.shape, scale.shape) if shape is not None}  # rank 0 is like [1]
    if len(shapes) > 1 and zero_point.shape is not None and scale.shape is not None:
        yield f"its zero point '{name}' has shape {list(zero_point.shape)}, its scale {list(scale.shape)}"
    if not is_fixed(zero_point):
        return
    if integers.dtype == np.dtype(np.int32) and np.any(zero_point.values):
        yield f"its zero point '{name}' must be 0 for int32 (the specification has no other)"
