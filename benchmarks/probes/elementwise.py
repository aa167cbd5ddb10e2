"""Operators that compute on activations, between two convolutions: Q on both sides, and none behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.probes.catalogue import Build, add, probe
from benchmarks.probes.net import Net

Operator = Callable[[Net, str], str]


def unary(op: str, **attributes: Any) -> Operator:
    return lambda net, x: net.add(op, x, subject=True, **attributes)


def reduction(op: str, axes: list[int], keep: int = 1) -> Operator:
    return lambda net, x: net.add(op, x, net.constant(axes, "int64"), subject=True, keepdims=keep)


def attribute_reduction(op: str, axes: list[int], keep: int = 1) -> Operator:
    return lambda net, x: net.add(op, x, subject=True, axes=axes, keepdims=keep)


def with_constant(op: str, *shape: int) -> Operator:
    """With a constant operand, on a grid of its own."""

    def build(net: Net, x: str) -> str:
        values = net.constant(abs(net.noise(*shape)) + 0.5)
        return net.add(op, x, net.qdq(values), subject=True)

    return build


def with_float_constant(op: str, *shape: int) -> Operator:
    return lambda net, x: net.add(op, x, net.constant(abs(net.noise(*shape)) + 0.5), subject=True)


def both_sides(operator: Operator, relu: bool = True) -> Build:
    """Conv → Q/DQ → operator → Q/DQ → Conv."""
    return lambda net: net.closing(net.qdq(operator(net, net.qdq(net.opening(relu=relu)))))


def before_only(operator: Operator) -> Build:
    """Conv → Q/DQ → operator → float result."""
    return lambda net: net.result(operator(net, net.qdq(net.opening())))


OPERATORS: dict[str, tuple[str, Operator]] = {
    "sqrt": ("Sqrt", unary("Sqrt")),
    "exp": ("Exp", unary("Exp")),
    "neg": ("Neg", unary("Neg")),
    "abs": ("Abs", unary("Abs")),
    "softmax over channels": ("Softmax", unary("Softmax", axis=1)),
    "softmax over the last axis": ("Softmax", unary("Softmax", axis=-1)),
    "log softmax": ("LogSoftmax", unary("LogSoftmax", axis=-1)),
    "pow 2": ("Pow", lambda net, x: net.add("Pow", x, net.constant(np.float32(2)), subject=True)),
    "average pool": ("AveragePool", unary("AveragePool", kernel_shape=[2, 2], strides=[2, 2])),
    "average pool, pads": ("AveragePool", unary("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1])),
    "average pool, pads counted": (
        "AveragePool", unary("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)
    ),
    "average pool, ceil mode": (
        "AveragePool", unary("AveragePool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    ),
    "global average pool": ("GlobalAveragePool", unary("GlobalAveragePool")),
    "reduce mean over the picture": ("ReduceMean", reduction("ReduceMean", [2, 3])),
    "reduce mean over channels": ("ReduceMean", reduction("ReduceMean", [1])),
    "reduce sum over channels": ("ReduceSum", reduction("ReduceSum", [1])),
    "reduce max over channels": ("ReduceMax", reduction("ReduceMax", [1])),
    "add, constant": ("Add", with_constant("Add", 8, 1, 1)),
    "add, float constant": ("Add", with_float_constant("Add", 8, 1, 1)),
    "mul, constant": ("Mul", with_constant("Mul", 8, 1, 1)),
    "mul, float constant": ("Mul", with_float_constant("Mul", 8, 1, 1)),
    "sub, constant": ("Sub", with_constant("Sub", 8, 1, 1)),
    "div, constant": ("Div", with_constant("Div", 8, 1, 1)),
}  # fmt: skip


@probe("reduce max, opset 18", "ReduceMax")
def _(net: Net) -> None:
    net.closing(net.qdq(reduction("ReduceMax", [2, 3])(net, net.qdq(net.opening()))))


def last_axis_closing(operator: Operator) -> Build:
    """For operators that reduce channels away: the closing convolution reads what is left."""
    return lambda net: net.result(net.qdq(operator(net, net.qdq(net.opening()))))


for _name, (_op, _operator) in OPERATORS.items():
    _build = (
        last_axis_closing(_operator) if "over channels" in _name and "softmax" not in _name else both_sides(_operator)
    )
    add(f"{_name}, Q on both sides", _op, _build)
for _name in ("global average pool", "average pool", "reduce mean over the picture", "softmax over the last axis"):
    add(f"{_name}, Q before only", OPERATORS[_name][0], before_only(OPERATORS[_name][1]))


_name = "average pool, pads counted"
add(f"{_name}, Q before only", "AveragePool", before_only(OPERATORS[_name][1]))
add(
    "average pool of signed values, pads counted, Q on both sides",
    "AveragePool",
    both_sides(OPERATORS[_name][1], relu=False),
)


def one_side(operator: Operator, before: bool) -> Build:
    """Conv → Q/DQ → operator → Conv, or Conv → operator → Q/DQ → Conv."""

    def build(net: Net) -> None:
        x = net.opening(relu=False)
        net.closing(operator(net, net.qdq(x)) if before else net.qdq(operator(net, x)), subject=True)

    return build


for _name, _op, _operator in (
    ("global max pool", "GlobalMaxPool", unary("GlobalMaxPool")),
    ("reduce max over the picture", "ReduceMax", reduction("ReduceMax", [2, 3])),
    ("reduce min over the picture", "ReduceMin", reduction("ReduceMin", [2, 3])),
):
    add(f"{_name}, signed, Q before only", _op, one_side(_operator, before=True))
    add(f"{_name}, signed, Q behind only", _op, one_side(_operator, before=False))


def prescribed(operator: Operator) -> Build:
    """Conv → Q/DQ → operator → Q/DQ with a scale of 1/256 from 0 on → Conv, as LiteRT prescribes it."""

    def build(net: Net) -> None:
        result = operator(net, net.qdq(net.opening(relu=False)))
        lowest = int(np.iinfo(net.style.activation.dtype).min)
        net.closing(net.qdq(result, net.scale(1 / 256, lowest, net.style.activation.dtype)))

    return build


add("softmax over the last axis, Q of 1/256", "Softmax", prescribed(unary("Softmax", axis=-1)))
add("sigmoid, Q of 1/256", "Sigmoid", prescribed(unary("Sigmoid")))


def binary(op: str, where: str, relu: bool = False) -> Build:
    """Two convolutions meet in an operator. `where`: which of its operands have Q/DQ: both, first, none."""

    def build(net: Net) -> None:
        a = net.qdq(net.input(1, 8, 10, 10))
        first, second = net.conv(a, relu=True), net.conv(a, relu=op == "Div")
        if op == "Div":
            second = net.add("Add", second, net.constant(np.float32(0.5)))
        operands = net.qdq(first) if where != "none" else first, net.qdq(second) if where == "both" else second
        y = net.add(op, *operands, subject=where == "both")
        net.closing(net.qdq(net.add("Relu", y) if relu else y), subject=True)

    return build


for _op in ("Add", "Sub", "Mul", "Div", "Max", "Min"):
    add(f"{_op.lower()} of two convolutions, Q on both", _op, binary(_op, "both"))
    add(f"{_op.lower()} of two convolutions, no Q", _op, binary(_op, "none"))
add("add of two convolutions, Q on one", "Add", binary("Add", "first"))


def residual(where: str) -> Build:
    """Input → Conv → Add(x) → Relu → Conv: which operands of the Add have Q/DQ."""

    def build(net: Net) -> None:
        skip = net.qdq(net.opening())
        branch = net.conv(skip, subject=True)
        left = net.qdq(branch) if where in ("both", "branch") else branch
        y = net.add(
            "Add", left, skip if where in ("both", "skip") else net.opening(), subject=where in ("both", "skip")
        )
        net.closing(net.qdq(net.add("Relu", y)), subject=True)

    return build


for _where in ("both", "skip", "branch", "none"):
    add(f"residual add, Q on {_where}", "Add", residual(_where))


@probe("residual add, Q on skip, result not quantized", "Add")
def _(net: Net) -> None:
    skip = net.qdq(net.opening())
    net.result(net.add("Relu", net.add("Add", net.conv(skip, subject=True), skip, subject=True)))


@probe("add of two results that others read, Q before only", "Add")
def _(net: Net) -> None:
    a = net.qdq(net.input(1, 8, 10, 10))
    first, second = net.conv(a, relu=True), net.conv(a, relu=True)
    net.result(net.add("Add", net.qdq(first), net.qdq(second), subject=True), first, second)


@probe("squeeze and excite, mul with Q on both", "Mul")
def _(net: Net) -> None:
    _squeeze(net, True)


@probe("squeeze and excite, mul with no Q", "Mul")
def _(net: Net) -> None:
    _squeeze(net, False)


def _squeeze(net: Net, quantized: bool) -> None:
    t = net.opening()
    a = net.qdq(t)
    pooled = net.qdq(net.add("GlobalAveragePool", a, subject=True))
    inner = net.qdq(net.conv(pooled, kernel=1, relu=True, subject=True))
    gate = net.add("Sigmoid", net.conv(inner, kernel=1, subject=True))
    y = net.add("Mul", a if quantized else t, net.qdq(gate) if quantized else gate, subject=quantized)
    net.closing(net.qdq(y), subject=True)


@probe("layer normalization, Q on both sides", "LayerNormalization")
def _(net: Net) -> None:
    a = net.qdq(net.input(1, 7, 16))
    ones, zeros = net.constant(np.ones(16)), net.constant(np.zeros(16))
    net.result(net.qdq(net.add("LayerNormalization", a, ones, zeros, subject=True, axis=-1)))


@probe("instance normalization, Q on both sides", "InstanceNormalization")
def _(net: Net) -> None:
    a = net.qdq(net.opening())
    net.closing(
        net.qdq(net.add("InstanceNormalization", a, net.constant(np.ones(8)), net.constant(np.zeros(8)), subject=True))
    )
