"""Rules about which integers activations, weights and biases are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from graphopt.analysis.legality.grid import EIGHT_BITS, INT32, Grid
from graphopt.analysis.legality.scene import Found, Scene
from graphopt.ir import Constant, Node, Tensor, fixed_value
from graphopt.ir.linear import Linear, bias_add, bias_operand
from graphopt.ir.operands import static_shape

# Tools compute s_x · s_w in float32 or float64, and store it in float32.
_SCALE_TOLERANCE = 1e-4


def check_activations(scene: Scene) -> Iterator[Found]:
    """Type, zero point and granularity of every activation that is read in integers, each pair once."""
    weights = {(linear.node, linear.weight_index) for linear in scene.placement.linears}
    biases = {slot for linear in scene.placement.linears if (slot := bias_slot(scene, linear)) is not None}
    pairs: dict[Node, _Pair] = {}
    for node in scene.inner.nodes:
        for index, tensor in node.present_inputs():
            grids = scene.skeleton.read(node, index)
            if not grids or (node, index) in weights | biases or grids[-1].dtype == INT32:
                continue
            if isinstance(tensor, Constant) and index > 0 and node not in scene.placement.quantized:
                continue  # the weight of a layer that can't run in integers anyway
            # Several DequantizeLinear may read one QuantizeLinear.
            pairs.setdefault(grids[0].node, _Pair(grids[-1], tensor, [])).readers.append(node)
    for position, grids in scene.skeleton.outputs.items():
        pairs.setdefault(grids[0].node, _Pair(grids[-1], scene.inner.outputs[position], [])).readers.append(None)
    for pair in pairs.values():
        yield from _activation(scene, pair)


@dataclass(frozen=True)
class _Pair:
    """An activation's grid and the nodes of the float model that read it so; None stands for the model's output."""

    grid: Grid
    tensor: Tensor
    readers: list[Node | None]


def _activation(scene: Scene, pair: _Pair) -> Iterator[Found]:
    grid, name, wanted = pair.grid, pair.tensor.name, scene.scheme_of(pair.tensor, pair.grid)
    nodes = [n for n in pair.readers if n is not None]
    by = (
        f"read by {nodes[0]}" + (f" and {len(pair.readers) - 1} more" if len(pair.readers) > 1 else "") if nodes else ""
    )
    by = by or "an output of the model"

    def found(rule: str, text: str) -> Found:
        return Found(rule, grid.node, text, name, (*nodes, *pair.tensor.inputs))

    if grid.dtype not in EIGHT_BITS and str(grid.dtype) != wanted.dtype:
        yield found("activation-bits", f"'{name}' is {grid.dtype}, {by}; expected {wanted.dtype}")
    elif str(grid.dtype) != wanted.dtype and "activation-type" in scene.target.breaches:
        shared = len(pair.readers) > 1 and "activation-type-shared" in scene.target.breaches
        rule = "activation-type-shared" if shared else "activation-type"
        yield found(rule, f"'{name}' is {grid}, {by}; expected {wanted.dtype}")
    elif wanted.symmetric and grid.zero_point is not None and grid.zero_point.any():
        yield found("activation-zero-point", f"'{name}' is {grid}, {by}; expected zero point 0")
    if grid.axis is not None and grid.scale is not None:
        yield found("activation-per-channel", f"'{name}' has {grid.scale.size} scales along axis {grid.axis}")


def check_weights(scene: Scene) -> Iterator[Found]:
    """Weights of layers that the target can run in integers."""
    for linear in scene.placement.linears:
        grid = scene.data_grid(linear.node, linear.weight_index)
        if grid is not None:
            yield from _weight(scene, linear, grid)


def _weight(scene: Scene, linear: Linear, grid: Grid) -> Iterator[Found]:
    name = grid.data

    def found(rule: str, text: str) -> Found:
        return Found(rule, linear.node, text, name, (linear.node,))

    if str(grid.dtype) != scene.target.weight.dtype:
        yield found("weight-type", f"its weight '{name}' is {grid.dtype}; expected {scene.target.weight.dtype}")
    elif grid.zero_point is not None and grid.zero_point.any():
        yield found("weight-zero-point", f"its weight '{name}' has zero points up to {np.abs(grid.zero_point).max():g}")
    if grid.axis is not None and linear.kind == "MatMul" and len(linear.weight.shape) > 2:
        yield found("weight-stack", f"its weight '{name}' of shape {list(linear.weight.shape)} has a scale per channel")
    elif grid.axis is not None and not scene.target.weight_per_channel:
        yield found("weight-axis", f"its weight '{name}' has scales along axis {grid.axis}; expected one for all of it")
    elif grid.axis is not None and grid.axis != linear.out_axis:
        text = f"its weight '{name}' has scales along axis {grid.axis}; its output channels are axis {linear.out_axis}"
        yield found("weight-axis", text)
    if scene.target.weight.narrow and "weight-narrow" in scene.target.breaches:
        stored = scene.skeleton.stored.get(linear.weight)
        if stored is not None and stored.dtype == np.dtype(np.int8) and bool((stored == -128).any()):
            yield found("weight-narrow", f"its weight '{name}' holds −128")


def bias_slot(scene: Scene, linear: Linear) -> tuple[Node, int] | None:
    """Where a layer's bias is: its own input, or the Add behind a MatMul."""
    if linear.bias_index is not None:
        return None if linear.node.input(linear.bias_index) is None else (linear.node, linear.bias_index)
    add = bias_add(scene.inner, linear)
    return None if add is None else (add, 1 - bias_operand(add, linear.output))


def check_biases(scene: Scene) -> Iterator[Found]:
    """Biases of layers that read integers on both sides."""
    for linear in scene.placement.linears:
        data = scene.in_integers(linear.node, linear.data_index)
        weight = scene.data_grid(linear.node, linear.weight_index)
        slot = bias_slot(scene, linear)
        if data is None or weight is None or slot is None:
            continue
        grid = scene.data_grid(*slot)
        if grid is None:
            yield from _float_bias(scene, linear, slot)
        elif grid.dtype != INT32:
            text = f"its bias '{grid.data}' is {grid.dtype}"
            yield Found("bias-bits", linear.node, text, grid.data, slot[:1])
        else:
            yield from _int32_bias(linear, slot[0], grid, data, weight)


def _float_bias(scene: Scene, linear: Linear, slot: tuple[Node, int]) -> Iterator[Found]:
    bias = slot[0].inputs[slot[1]]
    values, attrs = fixed_value(bias), linear.node.attr
    if (
        scene.table(linear.node).bias != "int32"
        or values is None
        or attrs("alpha", 1.0) != 1.0
        or attrs("beta", 1.0) != 1.0
    ):
        return
    if values.size != linear.out_channels or values.shape[-1:] != (values.size,):
        return  # the kernel has no slot for it: it stays an addition in float
    yield Found("bias-float", linear.node, f"its bias '{bias.name}' is {values.dtype}", bias.name, slot[:1])


def _int32_bias(linear: Linear, reader: Node, grid: Grid, data: Grid, weight: Grid) -> Iterator[Found]:
    name = grid.data
    if grid.zero_point is not None and grid.zero_point.any():
        yield Found("bias-zero-point", linear.node, f"its bias '{name}' has a zero point", name, (reader,))
    if grid.scale is None or data.scale is None or weight.scale is None or data.scale.size != 1:
        return
    expected = data.scale.reshape(()) * weight.scale.reshape(-1)
    actual = grid.scale.reshape(-1)
    if actual.size % expected.size and expected.size % actual.size:
        return
    size = max(actual.size, expected.size)
    actual, expected = np.resize(actual, size), np.resize(expected, size)
    with np.errstate(invalid="ignore", divide="ignore"):
        off = np.abs(actual - expected) > _SCALE_TOLERANCE * np.abs(expected)
    if off.any():
        channel = int(np.argmax(off))
        text = f"its bias '{name}' has scale {actual[channel]:.6g}; s_x · s_w is {expected[channel]:.6g}"
        text += f" (channel {channel}, and {int(off.sum()) - 1} more)" if off.sum() > 1 else ""
        yield Found("bias-scale", linear.node, text, name, (reader,))


def check_missing_biases(scene: Scene) -> Iterator[Found]:
    """Convolutions that need a bias because their result is read more than once, where the batch isn't fixed."""
    if scene.target.shared_result_bias is None:
        return
    nodes = {node.name: node for node in scene.graph.nodes}
    for linear in scene.placement.linears:
        node = nodes[linear.node.name]
        if not linear.is_conv or scene.graph.sole_consumer(node.outputs[0]) is not None:
            continue
        if scene.in_integers(linear.node, linear.data_index) is None:
            continue
        bias = linear.node.input(2)
        values = fixed_value(bias)
        shape = node.outputs[0].shape
        if (bias is not None and (values is None or values.any())) or static_shape(shape and shape[:1]) is not None:
            continue
        text = f"its result '{node.outputs[0].name}' has several readers, and it has no bias"
        yield Found("bias-missing", linear.node, text, node.outputs[0].name)
