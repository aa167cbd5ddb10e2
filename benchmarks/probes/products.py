"""Gemm and MatMul."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from benchmarks.probes.catalogue import S8, U8, Build, add, probe
from benchmarks.probes.net import Net
from graphopt.targets import Bias


def gemm(
    *,
    transposed: bool = False,
    bias: Bias | Literal["none"] | None = None,
    quantized_result: bool = True,
    axis: int | None = 1,
    **attributes: Any,
) -> Build:
    """Input → Q/DQ → Gemm → Q/DQ; `bias`: its kind, None for the style's."""

    def build(net: Net) -> None:
        a = net.qdq(net.input(1, 16))
        values = net.noise(16, 8)
        w, scale = net.weight(
            values.T if transposed else values, None if axis is None else 1 - axis if transposed else axis
        )
        b = [] if bias == "none" else [net.bias(net.noise(8), a, scale, bias)]
        y = net.add("Gemm", a, w, *b, subject=True, transB=int(transposed), **attributes)
        net.result(net.qdq(y) if quantized_result else y)

    return build


add("gemm", "Gemm", gemm())
add("gemm, result not quantized", "Gemm", gemm(quantized_result=False))
add("gemm, static batch", "Gemm", gemm(), batch=1)
add("gemm, transB", "Gemm", gemm(transposed=True))
add("gemm, weights per tensor", "Gemm", gemm(axis=None))
add("gemm, no bias", "Gemm", gemm(bias="none"))
add("gemm, float bias", "Gemm", gemm(bias="float"))
add("gemm, int32 bias", "Gemm", gemm(bias="int32"))
add("gemm, float bias, result not quantized", "Gemm", gemm(bias="float", quantized_result=False))
add("gemm, alpha", "Gemm", gemm(alpha=0.5, bias="float"))
add("gemm, alpha without bias", "Gemm", gemm(alpha=0.5, bias="none"))
add("gemm, beta", "Gemm", gemm(beta=0.5, bias="float"))


def activated(apart: bool) -> Build:
    """Input → Q/DQ → Gemm (→ a LeakyRelu that changes nothing) → Relu → Softmax."""

    def build(net: Net) -> None:
        a = net.qdq(net.input(1, 16))
        w, scale = net.weight(net.noise(16, 8), 1)
        y = net.add("Gemm", a, w, net.bias(net.noise(8), a, scale), subject=True)
        net.result(net.add("Softmax", net.add("Relu", net.add("LeakyRelu", y, alpha=1.0) if apart else y)))

    return build


add("gemm and relu, result not quantized", "Gemm", activated(apart=False))
add("gemm and relu, kept apart, result not quantized", "Gemm", activated(apart=True))


def matmul(*data: int, stack: tuple[int, ...] = (), quantized_result: bool = True, added: Bias | None = None) -> Build:
    """Input → Q/DQ → MatMul with a constant (→ Add of a bias) → Q/DQ."""

    def build(net: Net) -> None:
        a = net.qdq(net.input(*data))
        w, scale = net.weight(net.noise(*stack, data[-1], 8), None if stack else 1)
        y = net.add("MatMul", a, w, subject=True)
        if added:
            y = net.add("Add", y, net.bias(net.noise(8), a, scale, added))
        net.result(net.qdq(y) if quantized_result else y)

    return build


add("matmul", "MatMul", matmul(1, 16))
add("matmul, result not quantized", "MatMul", matmul(1, 16, quantized_result=False))
add("matmul, tokens", "MatMul", matmul(1, 7, 16))
add("matmul, tokens, float bias", "MatMul", matmul(1, 7, 16, added="float"))
add("matmul, tokens, int32 bias", "MatMul", matmul(1, 7, 16, added="int32"))
add("matmul, stack of weights", "MatMul", matmul(2, 7, 16, stack=(2,)), batch=2)
add(
    "matmul, stack of weights, result not quantized",
    "MatMul",
    matmul(2, 7, 16, stack=(2,), quantized_result=False),
    batch=2,
)


@probe("matmul, weights of rank 1", "MatMul")
def _(net: Net) -> None:
    a = net.qdq(net.input(1, 7, 16))
    w, _ = net.weight(net.noise(16), None)
    net.result(net.qdq(net.add("MatMul", a, w, subject=True)))


@probe("matmul, constant on the left", "MatMul")
def _(net: Net) -> None:
    a = net.qdq(net.input(1, 16, 7))
    w, _ = net.weight(net.noise(8, 16), None)
    net.result(net.qdq(net.add("MatMul", w, a, subject=True)))


def two_activations(quantized_result: bool = True, right: str = "same") -> Build:
    """Scores of an attention: queries · keys, then a softmax."""

    def build(net: Net) -> None:
        q, k = net.qdq(net.input(1, 7, 16)), net.input(1, 16, 7)
        scheme = {"same": net.style.activation, "s8": S8, "u8": U8}[right]
        y = net.add("MatMul", q, net.qdq(k, net.scale_of(k, scheme=scheme)), subject=True)
        net.result(net.qdq(y) if quantized_result else y)

    return build


add("matmul of two activations", "MatMul", two_activations())
add("matmul of two activations, result not quantized", "MatMul", two_activations(quantized_result=False))
add("matmul of two activations, s8 on the right", "MatMul", two_activations(right="s8"))


@probe("attention", "MatMul")
def _(net: Net) -> None:
    x = net.qdq(net.input(1, 7, 16))
    projected: list[str] = []
    for _ in range(3):
        w, scale = net.weight(net.noise(16, 16), 1)
        projected.append(net.add("Add", net.add("MatMul", x, w, subject=True), net.bias(net.noise(16), x, scale)))
    q, k, v = projected
    keys = net.add("Transpose", net.qdq(k), perm=[0, 2, 1])
    scores = net.add("MatMul", net.qdq(q), net.qdq(keys), subject=True)
    weights = net.add("Softmax", net.add("Mul", net.qdq(scores), net.constant(np.float32(0.25))), axis=-1)
    net.result(net.qdq(net.add("MatMul", net.qdq(weights), net.qdq(v), subject=True)))
