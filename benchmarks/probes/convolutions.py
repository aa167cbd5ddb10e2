"""Conv and ConvTranspose: schemes of data, weights and bias; shapes; who reads the result."""

from __future__ import annotations

from typing import Any, Literal

from benchmarks.probes.catalogue import S8, S8_SYMMETRIC, U8, Build, add, probe
from benchmarks.probes.net import Net
from graphopt.targets import Bias

SAME: dict[str, Any] = {"pads": [1, 1, 1, 1]}


def conv(
    *shape: int,
    data: tuple[int, ...] = (1, 8, 10, 10),
    low: float = -1.0,
    axis: int | None = 0,
    zero: int = 0,
    dtype: str = "int8",
    bias: Bias | Literal["none"] | None = None,
    rank: int = 0,
    quantized_result: bool = True,
    op: str = "Conv",
    **attributes: Any,
) -> Build:
    """Input → Q/DQ → convolution with weights of `shape` → Q/DQ; `bias`: its kind, None for the style's."""

    def build(net: Net) -> None:
        x = net.input(*data, low=low)
        a = net.qdq(x, net.scale_of(x, rank=rank))
        w, scale = net.weight(net.noise(*shape), axis, zero=zero, dtype=dtype)
        channels = shape[0] if op == "Conv" else shape[1] * attributes.get("group", 1)
        b = [] if bias == "none" else [net.bias(net.noise(channels), a, scale, bias)]
        y = net.add(op, a, w, *b, subject=True, **attributes)
        net.result(net.qdq(y, net.scale_of(y, rank=rank)) if quantized_result else y)

    return build


W = (8, 8, 3, 3)

add("conv", "Conv", conv(*W, **SAME))
add("conv 1x1 with strides", "Conv", conv(8, 8, 1, 1, strides=[2, 2]))
add("conv, static batch", "Conv", conv(*W, **SAME), batch=1)
add("conv, no padding", "Conv", conv(*W))
add("conv, result not quantized", "Conv", conv(*W, quantized_result=False, **SAME))
for name, scheme in (("u8", U8), ("s8", S8), ("s8 zero point 0", S8_SYMMETRIC)):
    add(f"conv, {name} activations", "Conv", conv(*W, **SAME), activation=scheme)
    add(f"conv, {name} activations from 0 on", "Conv", conv(*W, low=0.0, **SAME), activation=scheme)
    add(
        f"conv, {name} activations, asymmetric pads",
        "Conv",
        conv(*W, pads=[0, 0, 1, 1], strides=[2, 2]),
        activation=scheme,
    )
    add(f"depthwise, {name} activations", "Conv", conv(8, 1, 3, 3, group=8, **SAME), activation=scheme)
    add(
        f"conv transpose, {name} activations",
        "ConvTranspose",
        conv(*W, op="ConvTranspose", axis=1, strides=[2, 2]),
        activation=scheme,
    )
    add(
        f"conv transpose, {name} activations from 0 on",
        "ConvTranspose",
        conv(*W, low=0.0, op="ConvTranspose", axis=1, strides=[2, 2]),
        activation=scheme,
    )
add("conv, weights per tensor", "Conv", conv(*W, axis=None, **SAME))
add("conv, s8 weights with a zero point", "Conv", conv(*W, zero=10, **SAME))
add("conv, s8 weights per tensor with a zero point", "Conv", conv(*W, axis=None, zero=10, **SAME))
add("conv, u8 weights with zero point 128", "Conv", conv(*W, zero=128, dtype="uint8", **SAME))
add("conv, no bias", "Conv", conv(*W, bias="none", **SAME))
add("conv, float bias", "Conv", conv(*W, bias="float", **SAME))
add("conv, int32 bias", "Conv", conv(*W, bias="int32", **SAME))
add("conv, groups", "Conv", conv(8, 4, 3, 3, group=2, **SAME))
add("conv, depth multiplier", "Conv", conv(16, 1, 3, 3, group=8, **SAME))
add("conv, dilations", "Conv", conv(*W, dilations=[2, 2]))
add("conv, strides", "Conv", conv(*W, strides=[2, 2], **SAME))
add("conv, auto_pad", "Conv", conv(*W, strides=[2, 2], auto_pad="SAME_UPPER"))
add("conv, 3 channels in", "Conv", conv(8, 3, 3, 3, data=(1, 3, 10, 10), **SAME))
add("conv, 1 channel out", "Conv", conv(1, 8, 3, 3, **SAME))
add("conv, 1x1", "Conv", conv(8, 8, 1, 1))
add("conv, one axis", "Conv", conv(8, 8, 3, data=(1, 8, 20)))
add("conv, one axis, depthwise", "Conv", conv(8, 1, 3, data=(1, 8, 20), group=8))
add("conv, three axes", "Conv", conv(8, 8, 3, 3, 3, data=(1, 8, 5, 6, 7)))
add("conv, scales of rank 1", "Conv", conv(*W, rank=1, **SAME))

T: dict[str, Any] = {"op": "ConvTranspose", "axis": 1, "low": 0.0}
add("conv transpose", "ConvTranspose", conv(*W, strides=[2, 2], **T))
add("conv transpose, stride 1", "ConvTranspose", conv(*W, **T))
add("conv transpose, 2x2", "ConvTranspose", conv(8, 8, 2, 2, strides=[2, 2], **T))
add("conv transpose, pads", "ConvTranspose", conv(8, 8, 4, 4, strides=[2, 2], **SAME, **T))
add("conv transpose, output padding", "ConvTranspose", conv(*W, strides=[2, 2], output_padding=[1, 1], **SAME, **T))
add("conv transpose, no bias", "ConvTranspose", conv(*W, bias="none", strides=[2, 2], **T))
add(
    "conv transpose, groups",
    "ConvTranspose",
    conv(8, 4, 3, 3, group=2, strides=[2, 2], op="ConvTranspose", axis=None, low=0.0),
)
add(
    "conv transpose, depthwise",
    "ConvTranspose",
    conv(8, 1, 3, 3, group=8, strides=[2, 2], op="ConvTranspose", axis=None, low=0.0),
)
add(
    "conv transpose, weights per tensor",
    "ConvTranspose",
    conv(*W, strides=[2, 2], op="ConvTranspose", axis=None, low=0.0),
)
add("conv transpose, one axis", "ConvTranspose", conv(8, 8, 3, data=(1, 8, 20), strides=[2], **T))
add("conv transpose, three axes", "ConvTranspose", conv(8, 8, 3, 3, 3, data=(1, 8, 5, 6, 7), strides=[2, 2, 2], **T))


def two_readers(bias: bool) -> Build:
    """A convolution whose result two others read: one through Q/DQ, one in float."""

    def build(net: Net) -> None:
        a = net.qdq(net.input(1, 8, 10, 10))
        w, scale = net.weight(net.noise(8, 8, 3, 3))
        b = [net.bias(net.noise(8), a, scale, "float")] if bias else []
        y = net.add("Conv", a, w, *b, subject=True, **SAME)
        gate = net.add("Sigmoid", y)
        net.closing(net.qdq(net.add("Mul", y, gate)))

    return build


add("conv, two readers", "Conv", two_readers(True))
add("conv without bias, two readers", "Conv", two_readers(False))
add("conv without bias, two readers, static batch", "Conv", two_readers(False), batch=1)


@probe("conv, one DQ for two readers", "Conv")
def _(net: Net) -> None:
    a = net.qdq(net.input(1, 8, 10, 10))
    left, right = net.conv(a, subject=True, relu=True), net.conv(a, kernel=1, subject=True, relu=True)
    net.result(net.qdq(left), net.qdq(right))


@probe("conv, one Q and a DQ for each of two readers", "Conv")
def _(net: Net) -> None:
    x = net.input(1, 8, 10, 10)
    scale = net.scale_of(x)
    q = net.quantize(x, scale)
    left = net.conv(net.dequantize(q, scale), subject=True, relu=True)
    right = net.conv(net.dequantize(q, scale), kernel=1, subject=True, relu=True)
    net.result(net.qdq(left), net.qdq(right))


@probe("conv, DQ read by a convolution and a float operator", "Conv")
def _(net: Net) -> None:
    a = net.qdq(net.opening())
    y = net.conv(a, subject=True, relu=True)
    net.result(net.qdq(net.add("Erf", a)), net.qdq(y))


@probe("conv, float tensor read by Q and a float operator", "Conv")
def _(net: Net) -> None:
    t = net.opening()
    y = net.conv(net.qdq(t), subject=True, relu=True)
    net.result(net.add("Erf", t), net.qdq(y))


@probe("conv, DQ is also a graph output", "Conv")
def _(net: Net) -> None:
    a = net.qdq(net.opening())
    y = net.qdq(net.conv(a, subject=True, relu=True))
    net.result(a, y)


def float_weights(apart: bool) -> Build:
    """Input → Q/DQ → Conv with float weights (→ a LeakyRelu that changes nothing) → Relu → Q/DQ."""

    def build(net: Net) -> None:
        a = net.qdq(net.input(1, 8, 10, 10))
        weight, bias = net.constant(net.noise(*W)), net.constant(net.noise(8))
        y = net.add("Conv", a, weight, bias, subject=True, **SAME)
        net.result(net.qdq(net.add("Relu", net.add("LeakyRelu", y, alpha=1.0) if apart else y)))

    return build


add("conv, float weights", "Conv", float_weights(apart=False))
add("conv, float weights, kept apart", "Conv", float_weights(apart=True))


@probe("conv 1x1, strides in front", "Conv")
def _(net: Net) -> None:
    a = net.qdq(net.input(1, 8, 10, 10))
    net.result(net.conv(net.add("MaxPool", a, kernel_shape=[1, 1], strides=[2, 2]), kernel=1, subject=True))


@probe("conv 1x1 with strides, another reader", "Conv")
def _(net: Net) -> None:
    a = net.qdq(net.input(1, 8, 10, 10))
    w, scale = net.weight(net.noise(8, 8, 1, 1))
    net.result(net.add("Conv", a, w, net.bias(net.noise(8), a, scale), subject=True, strides=[2, 2]))
    net.result(net.conv(a, subject=True))
