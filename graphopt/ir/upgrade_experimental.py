"""Rules for operators that were never standard, which onnxruntime runs below opset 10. All yield opset 13."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir.elements import Node
from graphopt.ir.upgrade_rewrite import Rewrite, Rule


def _affine(node: Node) -> Rewrite:
    """The affine function y = alpha · x + beta."""
    rewrite = Rewrite()
    scaled = rewrite.add("Mul", ["i0", _scalar(rewrite, node, "alpha", 1.0)], "scaled")
    rewrite.add("Add", [scaled, _scalar(rewrite, node, "beta", 0.0)], "o0")
    return rewrite


def _image_scaler(node: Node) -> Rewrite:
    """Per channel y = scale · x + bias[channel], x: [N, C, H, W]."""
    rewrite = Rewrite()
    scaled = rewrite.add("Mul", ["i0", _scalar(rewrite, node, "scale", 1.0)], "scaled")
    bias = np.asarray(node.attr("bias"), _float_type(node)).reshape(-1, 1, 1)
    rewrite.add("Add", [scaled, rewrite.constant(bias, "bias")], "o0")
    return rewrite


def _scale(node: Node) -> Rewrite:
    """The product y = scale · x."""
    rewrite = Rewrite()
    rewrite.add("Mul", ["i0", _scalar(rewrite, node, "scale", 1.0)], "o0")
    return rewrite


def _crop(node: Node) -> Rewrite:
    """Cut [left, top, right, bottom] off x: [N, C, H, W]; or keep scale = [height, width] from the left top corner."""
    left, top, right, bottom = (int(b) for b in node.attr("border"))
    size = node.attr("scale")
    if size is not None:
        ends = [top + int(size[0]), left + int(size[1])]
    else:
        # An end of −0 would cut off everything: "to the last" is the largest integer.
        ends = [-cut if cut else np.iinfo(np.int64).max for cut in (bottom, right)]
    rewrite = Rewrite()
    starts = rewrite.constant(np.array([top, left], np.int64), "starts")
    stops = rewrite.constant(np.array(ends, np.int64), "ends")
    rewrite.add("Slice", ["i0", starts, stops, rewrite.constant(np.array([2, 3], np.int64), "axes")], "o0")
    return rewrite


def _parametric_softplus(node: Node) -> Rewrite:
    """The function y = alpha · ln(exp(beta · x) + 1)."""
    return _scaled_function(node, "Softplus")


def _scaled_tanh(node: Node) -> Rewrite:
    """The function y = alpha · tanh(beta · x)."""
    return _scaled_function(node, "Tanh")


def _scaled_function(node: Node, function: str) -> Rewrite:
    rewrite = Rewrite()
    rewrite.add("Mul", ["i0", _scalar(rewrite, node, "beta", 1.0)], "scaled")
    rewrite.add(function, ["scaled"], "bent")
    rewrite.add("Mul", ["bent", _scalar(rewrite, node, "alpha", 1.0)], "o0")
    return rewrite


def _scalar(rewrite: Rewrite, node: Node, attr: str, default: float) -> str:
    return rewrite.constant(np.asarray(node.attr(attr, default), _float_type(node)), attr)


def _float_type(node: Node) -> np.dtype[Any]:
    return node.inputs[0].dtype or np.dtype(np.float32)


EXPERIMENTAL: dict[str, Rule] = {
    "Affine": _affine,
    "ImageScaler": _image_scaler,
    "Scale": _scale,
    "Crop": _crop,
    "ParametricSoftplus": _parametric_softplus,
    "ScaledTanh": _scaled_tanh,
}
"""Operator → rule, for every opset below 10."""
