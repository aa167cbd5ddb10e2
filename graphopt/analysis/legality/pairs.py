"""Rules about how single Q/DQ nodes are written, in nested graphs too."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graphopt.analysis.legality.grid import EIGHT_BITS, INT32, SIXTEEN_BITS, Grid, constant_value, read_grid
from graphopt.analysis.legality.scene import Found, Scene
from graphopt.ir import Graph, Node
from graphopt.ir.block_weights import is_block_weight
from graphopt.targets import Target

_PER_CHANNEL_OPSET = 13
_WIDE_OPSET = 21
_SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
_INTEGER_OPERATORS = frozenset(
    {"ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"}
)


def check_nodes(scene: Scene) -> Iterator[Found]:
    """Each QuantizeLinear and DequantizeLinear by itself, and integer operators."""
    for scope in scene.graph.walk():
        for node in scope.nodes:
            if is_block_weight(node):
                continue  # see `blocks`
            if node.is_op("QuantizeLinear", "DequantizeLinear") and node.input(0) is not None:
                yield from _node(scope, node, scene.target)
                if scope is not scene.graph:
                    yield from _nested(scene.target, node)
            elif node.is_op(*_INTEGER_OPERATORS):
                yield Found("integer-operator", node, f"{node.op} computes with integers itself")
            elif _is_quantized_contrib(node):
                yield Found("contrib-operator", node, f"{node.domain}.{node.op} is onnxruntime's own")


def _node(graph: Graph, node: Node, target: Target) -> Iterator[Found]:
    grid = read_grid(node)
    affects = _around(graph, node)
    scale = node.inputs[1]
    if grid.scale is None or grid.zero_point is None:
        yield Found("scale-constant", node, f"'{scale.name}' isn't a constant", scale.name, affects)
        return
    if grid.is_block:
        yield Found("block-scale", node, f"blocks of {node.attr('block_size')}", scale.name, affects)
    yield from _rank(node, grid, affects)
    if bad := _bad_scale(grid):
        yield Found("scale-value", node, f"its scale '{scale.name}' {bad}", scale.name, affects)
    if grid.axis is not None and graph.opset < _PER_CHANNEL_OPSET:
        text = f"a scale per channel in opset {graph.opset}; {_PER_CHANNEL_OPSET} is the first with it"
        yield Found("opset", node, text, scale.name, affects)
    if grid.dtype in SIXTEEN_BITS and graph.opset < _WIDE_OPSET:
        text = f"{grid.dtype} in opset {graph.opset}; {_WIDE_OPSET} is the first with it"
        yield Found("opset", node, text, node.inputs[0].name, affects)
    if node.op == "QuantizeLinear":
        dtype = node.inputs[0].dtype
        if dtype is not None and np.dtype(dtype).kind in "iub":
            yield Found("float-input", node, f"'{node.inputs[0].name}' is {dtype}", node.inputs[0].name, affects)
    else:
        yield from _source(graph, node, grid, affects, target)


def _nested(target: Target, node: Node) -> Iterator[Found]:
    """Types in nested graphs, where nothing is planned, so that --fix changes none."""
    grid, name = read_grid(node), node.inputs[0].name
    is_stored = constant_value(node.inputs[0]) is not None
    if grid.dtype not in EIGHT_BITS or is_stored != (node.op == "DequantizeLinear"):
        return  # a pair is judged once, at its QuantizeLinear
    wanted, kind = (target.weight, "weight") if is_stored else (target.activation, "activation")
    if str(grid.dtype) != wanted.dtype:
        yield Found(f"{kind}-type", node, f"'{name}' is {grid}; expected {wanted.dtype}", name, fixable=False)
    elif wanted.symmetric and grid.zero_point is not None and grid.zero_point.any():
        yield Found(f"{kind}-zero-point", node, f"'{name}' is {grid}; expected zero point 0", name, fixable=False)


def _rank(node: Node, grid: Grid, affects: tuple[Node, ...]) -> Iterator[Found]:
    if grid.axis is not None or grid.is_block or grid.dtype == INT32:
        return  # int32 is a bias, which is a vector
    for tensor in (node.input(1), node.input(2)):
        if tensor is not None and tensor.shape not in (None, ()):
            text = f"'{tensor.name}' of one value has shape {list(tensor.shape or ())}"
            yield Found("scale-rank", node, text, tensor.name, affects)
            return


def _bad_scale(grid: Grid) -> str:
    assert grid.scale is not None
    scale = grid.scale
    bad = ~(np.isfinite(scale) & (scale >= _SMALLEST_NORMAL))
    if not bad.any():
        return ""
    value = float(scale[bad].reshape(-1)[0])
    return f"is {value:g}" + (f" in {int(bad.sum())} of {scale.size} channels" if scale.size > 1 else "")


def _source(graph: Graph, node: Node, grid: Grid, affects: tuple[Node, ...], target: Target) -> Iterator[Found]:
    """Where a DequantizeLinear has its integers from."""
    data = node.inputs[0]
    producer = graph.producer(data)
    if producer is None or constant_value(data) is not None:
        if grid.dtype == INT32 and constant_value(data) is not None:
            yield Found("bias-int32", node, f"'{data.name}' is int32", data.name, affects)
        return
    if not producer.is_op("QuantizeLinear"):
        if not producer.is_op(*_INTEGER_OPERATORS) and producer.is_standard:
            yield Found("loose-integers", node, f"'{data.name}' comes from {producer}", data.name, affects)
        return
    written = read_grid(producer)
    if written.scale is not None and not written.same_as(grid):
        yield Found("pair-mismatch", node, f"{producer} writes {written}; it reads {grid}", data.name, affects)
    before = graph.producer(producer.inputs[0])
    if before is not None and before.is_op("DequantizeLinear") and constant_value(before.inputs[0]) is None:
        first = read_grid(before)
        if target.wide is not None and SIXTEEN_BITS & {first.dtype, grid.dtype} and first.dtype != grid.dtype:
            return  # a conversion between kernels of 8 and 16 bits
        again = "on the same grid again" if first.same_as(grid) else f"{first}, then {grid}"
        yield Found("double-pair", node, f"'{producer.inputs[0].name}' is quantized already: {again}",
                    producer.inputs[0].name, affects)  # fmt: skip


def _around(graph: Graph, node: Node) -> tuple[Node, ...]:
    """The operators on both sides of a Q/DQ node, through other Q/DQ nodes."""
    found: dict[Node, None] = {}
    before = graph.producer(node.inputs[0])
    if before is not None and before.is_op("QuantizeLinear"):
        before = graph.producer(before.inputs[0])
    if before is not None:
        found[before] = None
    for reader in graph.consumers(node.outputs[0]):
        inner = graph.consumers(reader.outputs[0]) if reader.is_op("DequantizeLinear") else [reader]
        found.update(dict.fromkeys(inner))
    return tuple(n for n in found if not n.is_op("QuantizeLinear", "DequantizeLinear"))


def _is_quantized_contrib(node: Node) -> bool:
    """Integer operators of onnxruntime's own, and its Q/DQ for types that older opsets lack."""
    own = node.op.startswith("QLinear") or node.op in ("QGemm", "QuantizeLinear", "DequantizeLinear")
    return node.domain == "com.microsoft" and own
