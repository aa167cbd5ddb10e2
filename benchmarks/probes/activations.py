"""What follows a convolution: fused into it (Q behind), or with Q between the two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.probes.catalogue import Build, add
from benchmarks.probes.net import Net

Activation = Callable[[Net, str, bool], str]


def unary(op: str, **attributes: Any) -> Activation:
    return lambda net, x, subject: net.add(op, x, subject=subject, **attributes)


def clip(low: float, high: float) -> Activation:
    return lambda net, x, subject: net.add("Clip", x, net.constant(low), net.constant(high), subject=subject)


def prelu(net: Net, x: str, subject: bool) -> str:
    return net.add("PRelu", x, net.constant(abs(net.noise(8, 1, 1))), subject=subject)


def gate(op: str, **attributes: Any) -> Activation:
    """The product x · op(x), as SiLU and decomposed HardSwish are exported."""
    return lambda net, x, subject: net.add("Mul", x, net.add(op, x, subject=subject, **attributes), subject=subject)


def mish(net: Net, x: str, subject: bool) -> str:
    return net.add("Mul", x, net.add("Tanh", net.add("Softplus", x, subject=subject), subject=subject), subject=subject)


def quantized_gate(op: str, **attributes: Any) -> Activation:
    """The same with Q/DQ between the two."""

    def build(net: Net, x: str, subject: bool) -> str:
        return net.add("Mul", x, net.qdq(net.add(op, x, subject=subject, **attributes)), subject=subject)

    return build


ACTIVATIONS: dict[str, tuple[str, Activation]] = {
    "relu": ("Relu", unary("Relu")),
    "clip 0 to 6": ("Clip", clip(0, 6)),
    "clip 0 to 1": ("Clip", clip(0, 1)),
    "clip -1 to 1": ("Clip", clip(-1, 1)),
    "leaky relu": ("LeakyRelu", unary("LeakyRelu", alpha=0.1)),
    "prelu": ("PRelu", prelu),
    "sigmoid": ("Sigmoid", unary("Sigmoid")),
    "tanh": ("Tanh", unary("Tanh")),
    "hard swish": ("HardSwish", unary("HardSwish")),
    "hard sigmoid": ("HardSigmoid", unary("HardSigmoid", alpha=1 / 6, beta=0.5)),
    "elu": ("Elu", unary("Elu")),
    "selu": ("Selu", unary("Selu")),
    "softplus": ("Softplus", unary("Softplus")),
    "softsign": ("Softsign", unary("Softsign")),
    "erf": ("Erf", unary("Erf")),
    "silu": ("Sigmoid", gate("Sigmoid")),
    "hard swish in two": ("HardSigmoid", gate("HardSigmoid", alpha=1 / 6, beta=0.5)),
    "mish": ("Softplus", mish),
}


def behind(activation: Activation) -> Build:
    """Conv → activation → Q/DQ → Conv; the convolutions are asked about."""

    def build(net: Net) -> None:
        t = net.conv(net.qdq(net.input(1, 8, 10, 10)), subject=True)
        net.closing(net.qdq(activation(net, t, False)), subject=True)

    return build


def between(activation: Activation) -> Build:
    """Conv → Q/DQ → activation → Q/DQ → Conv; the activation is asked about, too."""

    def build(net: Net) -> None:
        t = net.qdq(net.conv(net.qdq(net.input(1, 8, 10, 10)), subject=True))
        net.closing(net.qdq(activation(net, t, True)), subject=True)

    return build


def same_scale(activation: Activation) -> Build:
    """Conv → Q/DQ → activation → Q/DQ of the same scale → Conv."""

    def build(net: Net) -> None:
        y = net.conv(net.qdq(net.input(1, 8, 10, 10)), subject=True)
        scale = net.scale_of(y)
        net.closing(net.qdq(activation(net, net.qdq(y, scale), True), scale), subject=True)

    return build


for _name, (_op, _activation) in ACTIVATIONS.items():
    add(f"conv → {_name}, Q behind", _op, behind(_activation))
    add(f"conv → Q → {_name} → Q", _op, between(_activation))
for _name in ("relu", "leaky relu", "prelu", "clip -1 to 1"):
    add(f"conv → Q → {_name} → Q of the same scale", ACTIVATIONS[_name][0], same_scale(ACTIVATIONS[_name][1]))
add("conv → Q → silu with Q inside → Q", "Sigmoid", between(quantized_gate("Sigmoid")))
add("conv → silu with Q inside, Q behind", "Sigmoid", behind(quantized_gate("Sigmoid")))
