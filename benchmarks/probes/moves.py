"""Operators that join, move or select values, between two convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.probes.catalogue import S8, S8_SYMMETRIC, Build, add
from benchmarks.probes.net import Net

Operator = Callable[[Net, str], str]


def plain(op: str, **attributes: Any) -> Operator:
    return lambda net, x: net.add(op, x, subject=True, **attributes)


def with_integers(op: str, *constants: list[int], **attributes: Any) -> Operator:
    """Further inputs are constants of int64."""
    return lambda net, x: net.add(op, x, *(net.constant(c, "int64") for c in constants), subject=True, **attributes)


def resize(mode: str, transform: str, scale: float = 2.0) -> Operator:
    def build(net: Net, x: str) -> str:
        scales = net.constant([1, 1, scale, scale])
        extra: dict[str, Any] = {"nearest_mode": "floor"} if mode == "nearest" else {}
        return net.add(
            "Resize", x, "", scales, subject=True, mode=mode, coordinate_transformation_mode=transform, **extra
        )

    return build


def resize_to_computed(net: Net, x: str) -> str:
    """Batch and channels of the input, as exporters write the sizes of a Resize where the batch is symbolic."""
    sizes = net.add("Concat", net.add("Shape", x, end=2), net.constant([20, 20], "int64"), axis=0)
    given: dict[str, Any] = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return net.add("Resize", x, "", "", sizes, subject=True, **given)


def pad(value: float | None, mode: str = "constant") -> Operator:
    def build(net: Net, x: str) -> str:
        given = [] if value is None else [net.constant(np.float32(value))]
        return net.add("Pad", x, net.constant([0, 0, 1, 1, 0, 0, 1, 1], "int64"), *given, subject=True, mode=mode)

    return build


def split(net: Net, x: str) -> str:
    left, right = net.add_many("Split", x, outputs=2, subject=True, axis=1, num_outputs=2)
    scale = net.scale_of(x)
    return net.add("Concat", net.qdq(right, scale), net.qdq(left, scale), axis=1)


def there_and_back(op: Callable[[Net, str], str], back: Callable[[Net, str], str]) -> Operator:
    """An operator that changes the rank, and one that restores it behind a Q/DQ pair of the same scale."""
    return lambda net, x: back(net, net.qdq(op(net, x), net.scale_of(x)))


OPERATORS: dict[str, tuple[str, Operator]] = {
    "max pool": ("MaxPool", plain("MaxPool", kernel_shape=[2, 2], strides=[2, 2])),
    "max pool, pads": ("MaxPool", plain("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])),
    "average pool of one scale": ("AveragePool", plain("AveragePool", kernel_shape=[2, 2], strides=[2, 2])),
    "global max pool": ("GlobalMaxPool", plain("GlobalMaxPool")),
    "resize nearest": ("Resize", resize("nearest", "asymmetric")),
    "resize nearest, computed sizes": ("Resize", resize_to_computed),
    "resize nearest, half pixel": ("Resize", resize("nearest", "half_pixel")),
    "resize linear": ("Resize", resize("linear", "half_pixel")),
    "resize linear, align corners": ("Resize", resize("linear", "align_corners")),
    "resize linear, asymmetric": ("Resize", resize("linear", "asymmetric")),
    "reshape": ("Reshape", with_integers("Reshape", [0, 8, 20, 5])),
    "flatten": (
        "Flatten",
        there_and_back(plain("Flatten"), lambda net, x: net.add("Reshape", x, net.constant([-1, 8, 10, 10], "int64"))),
    ),
    "squeeze and unsqueeze": (
        "Squeeze",
        there_and_back(with_integers("Unsqueeze", [1]), with_integers("Squeeze", [1])),
    ),
    "transpose": ("Transpose", plain("Transpose", perm=[0, 1, 3, 2])),
    "slice": ("Slice", with_integers("Slice", [1, 2], [9, 9], [2, 3])),
    "slice with steps": ("Slice", with_integers("Slice", [0, 0], [10, 10], [2, 3], [2, 2])),
    "split": ("Split", split),
    "pad with 0": ("Pad", pad(None)),
    "pad with 0.5": ("Pad", pad(0.5)),
    "pad by reflection": ("Pad", pad(None, "reflect")),
    "pad by the edge": ("Pad", pad(None, "edge")),
    "gather channels": ("Gather", with_integers("Gather", [7, 6, 5, 4, 3, 2, 1, 0], axis=1)),
    "depth to space": ("DepthToSpace", plain("DepthToSpace", blocksize=2)),
    "depth to space, CRD": ("DepthToSpace", plain("DepthToSpace", blocksize=2, mode="CRD")),
    "space to depth": ("SpaceToDepth", plain("SpaceToDepth", blocksize=2)),
    "expand": (
        "Expand",
        lambda net, x: with_integers("Expand", [1, 8, 10, 10])(
            net, net.qdq(net.add("ReduceMax", x, net.constant([2], "int64")), net.scale_of(x))
        ),
    ),
    "tile": ("Tile", with_integers("Tile", [1, 1, 2, 2])),
}


def both_sides(operator: Operator) -> Build:
    """Conv → Q/DQ → operator → Q/DQ of the same scale → Conv."""

    def build(net: Net) -> None:
        t = net.opening()
        scale = net.scale_of(t)
        net.closing(net.qdq(operator(net, net.qdq(t, scale)), scale), subject=True)

    return build


def before_only(operator: Operator) -> Build:
    """Conv → Q/DQ → operator → Conv."""
    return lambda net: net.closing(operator(net, net.qdq(net.opening())), subject=True)


def behind_only(operator: Operator) -> Build:
    """Conv → operator → Q/DQ → Conv."""
    return lambda net: net.closing(net.qdq(operator(net, net.opening())), subject=True)


for _name, (_op, _operator) in OPERATORS.items():
    add(f"{_name}, Q on both sides", _op, both_sides(_operator))
    add(f"{_name}, Q before only", _op, before_only(_operator))
for _name in ("max pool", "resize nearest", "transpose"):
    add(f"{_name}, Q behind only", OPERATORS[_name][0], behind_only(OPERATORS[_name][1]))


def concat(scales: str, quantized_result: bool = True) -> Build:
    """Two convolutions joined. `scales`: equal, unequal, or none on the second operand (one)."""

    def build(net: Net) -> None:
        a = net.qdq(net.input(1, 8, 10, 10))
        left, right = net.conv(a, relu=True), net.conv(a, kernel=1, relu=True)
        shared = net.scale_of(left, right)
        if scales == "equal":
            operands = net.qdq(left, shared), net.qdq(right, shared)
        else:
            operands = net.qdq(left), net.qdq(right) if scales == "unequal" else right
        y = net.add("Concat", *operands, subject=True, axis=1)
        net.closing(net.qdq(y, shared) if quantized_result else y, subject=True)

    return build


for _scales in ("equal", "unequal"):
    add(f"concat, {_scales} scales, Q on both sides", "Concat", concat(_scales))
    add(f"concat, {_scales} scales, Q before only", "Concat", concat(_scales, quantized_result=False))
add("concat, Q on one operand", "Concat", concat("one"))
for _name, _scheme in (("s8", S8), ("s8 zero point 0", S8_SYMMETRIC)):
    add(f"concat of {_name}, Q on both sides", "Concat", concat("equal"), activation=_scheme)
    add(f"concat of {_name}, Q before only", "Concat", concat("equal", quantized_result=False), activation=_scheme)


def _inputs_joined(net: Net) -> None:
    first, second = net.input(1, 8, 10, 10), net.input(1, 8, 10, 10)
    scale = net.scale_of(first, second)
    joined = net.add("Concat", net.qdq(first, scale), net.qdq(second, scale), subject=True, axis=1)
    net.closing(joined, subject=True)


add("concat of s8 inputs, static batch", "Concat", _inputs_joined, activation=S8_SYMMETRIC, batch=1)
