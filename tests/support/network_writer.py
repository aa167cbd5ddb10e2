"""Write small models node by node, with seeded noise for weights, in the form that each opset wants.

Values stay near 1 in size, so that differences aren't drowned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


@dataclass(frozen=True)
class Value:
    """A tensor of the network: its name, and channels, height and width of [N, C, H, W] or [N, C]."""

    name: str
    channels: int
    height: int = 1
    width: int = 1


class Network:
    """A model that is being written. Values are [N, C, H, W] unless a method says otherwise."""

    def __init__(self, opset: int, batch: int | str, seed: int, *, any_size: bool = False) -> None:
        """With `any_size` nothing is stated of height and width, and what a `Value` says of them must not be used."""
        self.opset = opset
        self.batch = batch
        self.any_size = any_size
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.stated: list[onnx.ValueInfoProto] = []

    def name(self, hint: str) -> str:
        return f"{hint}{len(self.nodes) + len(self.stored)}"

    def stored_as(self, values: NDArray[Any], hint: str) -> str:
        name = self.name(hint)
        self.stored.append(numpy_helper.from_array(values, name))
        return name

    def noise(self, *shape: int, scale: float = 1.0, around: float = 0.0) -> str:
        values = around + scale * self.rng.standard_normal(shape)
        return self.stored_as(values.astype(np.float32), "w")

    def ints(self, *values: int) -> str:
        return self.stored_as(np.array(values, dtype=np.int64), "i")

    def op(self, op: str, *inputs: str, outputs: int = 1, **attrs: Any) -> str:
        """Append a node; its (first) output."""
        names = [self.name(op.lower()) + f"_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attrs))
        return names[0]

    def several(self, op: str, *inputs: str, outputs: int, **attrs: Any) -> list[str]:
        self.op(op, *inputs, outputs=outputs, **attrs)
        return list(self.nodes[-1].output)

    def listed(self, op: str, inputs: Sequence[str], since: int, **lists: Sequence[int]) -> str:
        """A node with lists that are attributes before opset `since`, and inputs from then on, in the given order."""
        if self.opset < since:
            return self.op(op, *inputs, **{key: list(values) for key, values in lists.items()})
        return self.op(op, *inputs, *(self.ints(*values) for values in lists.values()))

    def reshape(self, x: str, *target: int) -> str:
        return self.op("Reshape", x, self.ints(*target))

    def model(self, x: Value) -> onnx.ModelProto:
        """The finished model. Shapes of inner tensors are left to inference, but for those in `stated`."""
        inputs = [self.described(x)]
        graph = helper.make_graph(self.nodes, "random", inputs, self.outputs, self.stored, value_info=self.stated)
        imports = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=8 if self.opset <= 18 else 10)
        onnx.checker.check_model(model)
        return model

    def described(self, x: Value) -> onnx.ValueInfoProto:
        places = [None, None] if self.any_size and x.height > 1 else [x.height, x.width]
        return self.typed(x.name, x.channels, *places)

    def typed(self, name: str, *shape: int | None) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [self.batch, *shape])


Block = Callable[[Network, Value], Value]


def conv(net: Network, x: Value, out: int, kernel: int = 3, group: int = 1, stride: int = 1) -> Value:
    weight = net.noise(out, x.channels // group, kernel, kernel, scale=(x.channels // group * kernel**2) ** -0.5)
    bias = [net.noise(out, scale=0.3)] if net.rng.random() < 0.7 else []
    pads = [kernel // 2] * 4
    name = net.op("Conv", x.name, weight, *bias, pads=pads, group=group, strides=[stride, stride])
    size = [(s - 1) // stride + 1 for s in (x.height, x.width)]
    return Value(name, out, *size)


def batch_norm(net: Network, x: Value) -> Value:
    parameters = [net.noise(x.channels, scale=0.2, around=1.0), *(net.noise(x.channels, scale=0.3) for _ in range(2))]
    parameters.append(net.stored_as(net.rng.uniform(0.5, 1.5, x.channels).astype(np.float32), "v"))
    return Value(net.op("BatchNormalization", x.name, *parameters), x.channels, x.height, x.width)


def activation(net: Network, x: Value) -> Value:
    kind = net.rng.integers(9)
    if kind <= 1:
        name = net.op("Relu", x.name)
    elif kind == 2:
        name = net.op("LeakyRelu", x.name, alpha=0.1)
    elif kind == 3:
        name = net.op("Mul", x.name, net.op("Sigmoid", x.name))
    elif kind == 4:
        name = net.op("PRelu", x.name, net.noise(x.channels, 1, 1, scale=0.2))
    elif kind == 5:
        name = net.op("PRelu", x.name, net.noise(1, scale=0.2))
    elif kind == 6 and net.opset >= 14:
        name = net.op("HardSwish", x.name)
    elif kind == 7 and net.opset >= 11:
        name = net.op("Clip", x.name, net.stored_as(np.float32(-1.0), "c"), net.stored_as(np.float32(1.0), "c"))
    elif kind == 8:
        name = net.op("Elu", net.op("Add", x.name, net.noise(x.channels, 1, 1, scale=0.3)))
    else:
        name = net.op("Tanh", x.name)
    return Value(name, x.channels, x.height, x.width)


def layer(net: Network, x: Value, out: int, kernel: int = 3, group: int = 1, stride: int = 1) -> Value:
    """Convolution, perhaps a normalization, activation."""
    y = conv(net, x, out, kernel, group, stride)
    return activation(net, batch_norm(net, y) if net.rng.random() < 0.4 else y)


def like(x: Value, name: str, channels: int | None = None) -> Value:
    return Value(name, channels or x.channels, x.height, x.width)


def linear(net: Network, x: str, ins: int, outs: int) -> str:
    """A MatMul on the last axis, and its bias."""
    name = net.op("MatMul", x, net.noise(ins, outs, scale=ins**-0.5))
    return net.op("Add", name, net.noise(outs, scale=0.3)) if net.rng.random() < 0.7 else name
