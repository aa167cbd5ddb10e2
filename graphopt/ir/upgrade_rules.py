"""Rules for operators that onnx's version converter gets wrong. All yield opset 13.

Experimental operators, which were never standard, are in `upgrade_experimental`.

Measured against onnxruntime 1.31, which still runs the old definitions: the converter of onnx 1.23 leaves Resize-10
at the new default coordinates (half pixel instead of asymmetric) and Hardmax at the new axis meaning, and gives the
mask of Dropout-7 the wrong type.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper

from graphopt.errors import UnsupportedError
from graphopt.ir.elements import Node, fixed_value
from graphopt.ir.upgrade_experimental import EXPERIMENTAL
from graphopt.ir.upgrade_rewrite import Rewrite, Rule

RULES_OPSET = 13


def rule_for(node: Node, opset: int) -> Rule | None:
    """The rule for an operator at `opset`, or None when it has none."""
    for until, rules in _RULES.items():
        if opset < until and node.op in rules:
            return rules[node.op]
    return None


def _dropout(node: Node) -> Rewrite:
    """Dropout never drops at inference; its mask output became bool in opset 10."""
    if any(t.outputs or node.scope is None or node.scope.is_output(t) for t in node.outputs[1:]):
        raise UnsupportedError(f"{node}: its mask output is read, and meant something else before opset 12")
    rewrite = Rewrite()
    rewrite.add("Identity", ["i0"], "o0")
    return rewrite


def _softmax(node: Node) -> Rewrite:
    """Before opset 13: over all axes from `axis` (default 1) on, together. Since then: over that one axis."""
    rewrite = Rewrite()
    shape = node.inputs[0].shape
    axis = int(node.attr("axis", 1))
    if axis < 0 and shape is not None:
        axis += len(shape)
    if axis == -1 or (shape is not None and all(d == 1 for d in shape[axis + 1 :])):
        rewrite.add(node.op, ["i0"], "o0", axis=axis)
        return rewrite
    rewrite.add("Shape", ["i0"], "shape")
    rewrite.add("Flatten", ["i0"], "flat", axis=axis)
    rewrite.add(node.op, ["flat"], "flat_result", axis=1)
    rewrite.add("Reshape", ["flat_result", "shape"], "o0")
    return rewrite


def _resize(node: Node) -> Rewrite:
    """Upsample and Resize-10: x_in = x_out / scale; nearest rounds down when growing and up when shrinking."""
    rewrite = Rewrite()
    if len(node.inputs) > 1:
        scales_name, values = "i1", fixed_value(node.inputs[1])
    else:
        values = np.asarray(node.attr("scales"), np.float32)
        scales_name = rewrite.constant(values, "scales")
    mode = node.attr("mode", "nearest")
    attrs = {"mode": "linear" if mode == "bilinear" else mode, "coordinate_transformation_mode": "asymmetric"}
    if mode == "nearest":
        shrinks = values is not None and bool((values < 1).any())
        if shrinks and values is not None and bool((values > 1).any()):
            raise UnsupportedError(
                f"{node}: shrinks one axis and enlarges another by nearest neighbour, which rounds differently per "
                "axis before opset 11; export the model with opset 11 or newer"
            )
        attrs["nearest_mode"] = "ceil" if shrinks else "floor"
    rewrite.add("Resize", ["i0", "", scales_name], "o0", **attrs)
    return rewrite


def _mean_variance_normalization(node: Node) -> Rewrite:
    """The default axes, said out loud: onnx 1.23 can't infer the shape without them.

    Before opset 9 it was experimental and named its axes by two flags.
    """
    rewrite = Rewrite()
    axes = node.attr("axes", [0, 2, 3])
    if "across_channels" in node.attrs or "normalize_variance" in node.attrs:
        if not node.attr("normalize_variance", 1):
            raise UnsupportedError(f"{node}: normalize_variance=0 has no standard form; export the model with opset 9")
        axes = [0, 1, 2, 3] if node.attr("across_channels", 0) else [0, 2, 3]  # as onnxruntime had it
    rewrite.add(node.op, ["i0"], "o0", axes=axes)
    return rewrite


def _binary(node: Node) -> Rewrite:
    """Before opset 7 an operand was stretched only where `broadcast` said so, its first axis at `axis` of the other."""
    rewrite = Rewrite()
    second = "i1"
    if node.attr("broadcast", 0) and "axis" in node.attrs:
        a, b = (tensor.shape for tensor in node.inputs)
        if a is None or b is None:
            raise UnsupportedError(f"{node}: broadcasts along an axis of a tensor of unknown rank; export it again")
        axis = int(node.attr("axis"))
        trailing = len(a) - (axis + len(a) if axis < 0 else axis) - len(b)
        if trailing > 0:
            axes = rewrite.constant(np.arange(len(b), len(b) + trailing, dtype=np.int64), "axes")
            second = rewrite.add("Unsqueeze", ["i1", axes], "stretched")
    rewrite.add(node.op, ["i0", second], "o0")
    return rewrite


def _prelu(node: Node) -> Rewrite:
    """Before opset 7 a slope per channel was a vector [C]; since then it broadcasts like any operand: [C, 1, …]."""
    rewrite = Rewrite()
    rank = len(node.inputs[0].shape or ())
    slope = "i1"
    if rank > 2 and len(node.inputs[1].shape or ()) == 1:
        shape = rewrite.constant(np.array([-1] + [1] * (rank - 2), np.int64), "slope_shape")
        slope = rewrite.add("Reshape", ["i1", shape], "slope")
    rewrite.add("PRelu", ["i0", slope], "o0")
    return rewrite


def _scan(node: Node) -> Rewrite:
    """Scan-8 runs its body once per item of a batch (axis 0 of everything); a batch of one is Scan-9 in reshapes."""
    batches = {tensor.shape[0] if tensor.shape else None for _, tensor in node.present_inputs()}
    if node.input(0) is not None or batches != {1}:
        raise UnsupportedError(
            f"{node}: Scan of opset 8 with sequence lengths, or over a batch other than 1, has no newer form; "
            "export the model with opset 9 or newer"
        )
    rewrite = Rewrite()
    axis = rewrite.constant(np.array([0], np.int64), "batch_axis")
    inputs = [rewrite.add("Squeeze", [f"i{i}", axis], f"item{i}") for i, _ in node.present_inputs()]
    outputs = [f"result{i}" if not t.is_empty() else "" for i, t in enumerate(node.outputs)]
    attrs: dict[str, Any] = {"num_scan_inputs": int(node.attr("num_scan_inputs"))}
    if "directions" in node.attrs:
        attrs["scan_input_directions"] = node.attr("directions")
    rewrite.nodes.append(helper.make_node("Scan", inputs, outputs, **attrs))
    for i, name in enumerate(outputs):
        if name:
            rewrite.add("Unsqueeze", [name, axis], f"o{i}")
    return rewrite


_OLD_BROADCASTING = ("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less")

# Opset that the definition ends with → operator → rule.
_RULES: dict[int, dict[str, Rule]] = {
    7: {"PRelu": _prelu} | dict.fromkeys(_OLD_BROADCASTING, _binary),
    9: {"Scan": _scan},
    10: EXPERIMENTAL | {"Upsample": _resize},
    11: {"Resize": _resize},
    12: {"Dropout": _dropout},
    13: {
        "Softmax": _softmax,
        "LogSoftmax": _softmax,
        "Hardmax": _softmax,
        "MeanVarianceNormalization": _mean_variance_normalization,
    },
}
