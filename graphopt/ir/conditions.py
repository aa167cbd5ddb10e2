"""Facts about single nodes that a target's rule may ask for: name → (predicate, what it says when it fails)."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from graphopt.ir.elements import Constant, Node, Tensor, fixed_value, is_fixed
from graphopt.ir.graph import Graph
from graphopt.ir.ops import RESHAPES, is_never_negative
from graphopt.quant.block_scales import LEAST_BLOCK, fitting_block

Predicate = Callable[[Graph, Node], bool]

# Weights to a scale, at most, of the finest 4-bit weights that `quantize-weights` makes by default.
_SMALL_BLOCK = 32


def _sole_output(_graph: Graph, node: Node) -> bool:
    return len(node.present_outputs()) == 1


def _nearest(_graph: Graph, node: Node) -> bool:
    return node.attr("mode", "nearest") == "nearest"


def _fixed_sizes(_graph: Graph, node: Node) -> bool:
    # A symbolic batch alone makes sizes something to compute. Where they are given, scales are left out, or empty.
    return is_fixed(node.input(3) or node.input(2))


def _interpolates(_graph: Graph, node: Node) -> bool:
    # Linear interpolation stays between its inputs, so one scale serves both sides; cubic overshoots.
    return node.attr("mode", "nearest") in ("nearest", "linear")


def _zero_pad(_graph: Graph, node: Node) -> bool:
    if node.attr("mode", "constant") != "constant":
        return True  # reflect, edge and wrap copy values of the input
    value = node.input(2)
    fixed = fixed_value(value)
    return value is None or (fixed is not None and bool(np.all(fixed == 0)))


def _one_group(_graph: Graph, node: Node) -> bool:
    return node.attr("group", 1) == 1


_MOVES = RESHAPES | {
    *("DepthToSpace", "GlobalMaxPool", "MaxPool", "ReduceMax", "ReduceMin", "Resize", "Slice", "SpaceToDepth", "Split"),
    "Transpose",
}


def _unjoined(_graph: Graph, node: Node) -> bool:
    # Values that can be negative are signed integers then, and so is all that they are moved to or joined with.
    if is_never_negative(node.inputs[0]):
        return True
    pending: list[Tensor] = [node.inputs[0]]
    seen: set[Tensor] = set()
    while pending:
        tensor = pending.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        for other in (*tensor.inputs, *tensor.outputs):
            if other.is_op("Concat"):
                return False
            if other.is_op(*_MOVES):
                pending += [other.inputs[0], *other.present_outputs()]
    return True


def _floors(_graph: Graph, node: Node) -> bool:
    return node.attr("ceil_mode", 0) == 0


def _counts_pads(_graph: Graph, node: Node) -> bool:
    return node.attr("count_include_pad", 0) == 1


def _no_zeros_counted(_graph: Graph, node: Node) -> bool:
    return not counts_padding(node) or is_never_negative(node.inputs[0])


def counts_padding(node: Node) -> bool:
    """Whether a pool's averages take padding in."""
    padded = any(node.attr("pads", ())) or node.attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    return padded and node.attr("count_include_pad", 0) == 1


def _inner(graph: Graph, node: Node) -> bool:
    # Behind it values are only moved, as in Softmax → Flatten → output.
    tensors = node.present_outputs()
    while tensors:
        if any(tensor is output for tensor in tensors for output in graph.outputs):
            return False
        tensors = [t for tensor in tensors for n in tensor.outputs if n.is_op(*_MOVES) for t in n.present_outputs()]
    return True


def _column_bias(_graph: Graph, node: Node) -> bool:
    bias = node.input(2)
    if bias is None:
        return True
    values = fixed_value(bias)
    if values is None or node.attr("alpha", 1.0) != 1.0 or node.attr("beta", 1.0) != 1.0:
        return False
    return values.shape[-1:] == (values.size,) or values.size == 1


def _from_zero(_graph: Graph, node: Node) -> bool:
    low, high = (fixed_value(node.input(i)) for i in (1, 2))
    return low is not None and bool(low == 0) and (node.input(2) is None or (high is not None and bool(high > 0)))


def _right_matrix(_graph: Graph, node: Node) -> bool:
    return _matrix(node) is not None


def _matrix(node: Node) -> Constant | None:
    """The constant matrix on the right of a product.

    With one on the left onnxruntime and OpenVINO compute in float, and TensorRT-RTX 1.7.1 crashes.
    """
    weight = node.input(1)
    if not is_fixed(weight) or weight.dtype != np.float32 or len(weight.shape) != 2 or not min(weight.shape):
        return None
    return weight


def _inputs(node: Node) -> int:
    """How many products a MatMul or Gemm with a constant matrix on the right sums up; 0 for others."""
    weight = _matrix(node)
    if weight is None:
        return 0
    return weight.shape[1] if node.op == "Gemm" and node.attr("transB", 0) else weight.shape[0]


def _many_inputs(_graph: Graph, node: Node) -> bool:
    return _inputs(node) >= LEAST_BLOCK


def _matrix_data(_graph: Graph, node: Node) -> bool:
    # Of a vector OpenVINO 2026.4.1 makes no FullyConnected with compressed weights.
    return node.inputs[0].shape is None or len(node.inputs[0].shape) > 1


def _no_matrix_added(graph: Graph, node: Node) -> bool:
    # onnxruntime 1.31 first makes a Gemm of both (MatMulAddFusion), and of one whose bias is a matrix no MatMulNBits.
    result = node.outputs[0]
    reader = graph.sole_consumer(result)
    if node.op != "MatMul" or reader is None or not reader.is_op("Add") or result.shape is None:
        return True
    other = reader.inputs[1] if reader.inputs[0] is result else reader.inputs[0]
    return len(result.shape) != 2 or other.shape is None or len(other.shape) != 2


def _even_blocks(_graph: Graph, node: Node) -> bool:
    # OpenVINO 2026.4.1 refuses the model otherwise, and TensorRT's documentation asks for it.
    return fitting_block(_inputs(node), _SMALL_BLOCK, divides=True) is not None


def _even_count(_graph: Graph, node: Node) -> bool:
    # TensorRT-RTX 1.7.1: "Sub-byte quantization with odd tensor volume is not supported".
    weight = _matrix(node)
    return weight is not None and prod(weight.shape) % 2 == 0


def _own_weight(graph: Graph, node: Node) -> bool:
    # For other readers the float values would stay in the file, which would grow by the integers.
    weight = node.input(1)
    if weight is None or graph.is_output(weight):
        return False
    return all(reader.is_op("Gemm", "MatMul") and reader.inputs[1] is weight for reader in weight.outputs)


def _plain_gemm(_graph: Graph, node: Node) -> bool:
    # DQMatMulToMatMulNBits of onnxruntime 1.31 takes no other; a MatMul has none of these.
    bias = node.input(2)
    if node.attr("transA", 0) or node.attr("alpha", 1.0) != 1.0 or node.attr("beta", 1.0) != 1.0:
        return False
    return bias is None or (bias.shape is not None and len(bias.shape) == 1 and bias.shape != (1,))


def _gentle(_graph: Graph, node: Node) -> bool:
    # LiteRT 2.3.0 has no PRelu with 16-bit activations: it is written as max(x, slope · x).
    slope = fixed_value(node.input(1))
    return slope is not None and bool((slope <= 1).all())


CONDITIONS: dict[str, tuple[Predicate, str]] = {
    "sole-output": (_sole_output, "its second output is used"),
    "nearest": (_nearest, "its mode isn't 'nearest'"),
    "fixed-sizes": (_fixed_sizes, "its sizes are computed from those of the input"),
    "interpolates": (_interpolates, "cubic interpolation goes beyond its input's range"),
    "unjoined": (_unjoined, "its input can be negative, and a Concat of signed integers would be misread"),
    "floors": (_floors, "its ceil_mode is 1"),
    "counts-pads": (_counts_pads, "its count_include_pad isn't 1"),
    "no-zeros-counted": (_no_zeros_counted, "it counts padding, which stands for 0, among values that can be negative"),
    "inner": (_inner, "it makes a graph output, for which the prescribed scale is too coarse"),
    "one-group": (_one_group, "it has groups"),
    "column-bias": (_column_bias, "its bias isn't one constant per column, or alpha and beta aren't 1"),
    "gentle": (_gentle, "a slope of it isn't a constant of at most 1"),
    "from-zero": (_from_zero, "its lower bound isn't 0"),
    "right-matrix": (_right_matrix, "its weight isn't a constant float32 matrix on the right"),
    "own-weight": (_own_weight, "its weight is read by other operators, too, and would be stored twice"),
    "plain-gemm": (_plain_gemm, "its data is transposed, its alpha or beta isn't 1, or its bias isn't a vector"),
    "many-inputs": (_many_inputs, f"it has fewer than {LEAST_BLOCK} inputs"),
    "matrix-data": (_matrix_data, "it reads a vector"),
    "no-matrix-added": (_no_matrix_added, "a matrix is added to its result, which onnxruntime makes one Gemm of"),
    "even-blocks": (_even_blocks, f"no block of {LEAST_BLOCK} to {_SMALL_BLOCK} weights divides its inputs"),
    "even-count": (_even_count, "its weight has an odd number of values, which can't be stored two in a byte"),
    "zero-pad": (_zero_pad, "it pads with a value other than 0"),
}


def unmet(graph: Graph, node: Node, names: tuple[str, ...]) -> str | None:
    """What the first of the named conditions that `node` doesn't meet says, or None."""
    for name in names:
        holds, message = CONDITIONS[name]
        if not holds(graph, node):
            return message
    return None
