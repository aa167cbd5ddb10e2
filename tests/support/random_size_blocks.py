"""Blocks that compute sizes from shapes while the model runs, as tracing exporters write them for dynamic axes."""

from __future__ import annotations

import numpy as np
import onnx

from tests.support.network_writer import Block, Network, Value, conv, layer, like, linear


def _size(net: Network, x: str, axis: int) -> str:
    """[1]: the size of an axis, picked in one of the ways that exporters have."""
    shape = net.op("Shape", x)
    if net.rng.random() < 0.5:
        return net.op("Gather", shape, net.ints(axis), axis=0)
    if net.rng.random() < 0.5:
        single = net.op("Gather", shape, net.stored_as(np.array(axis, dtype=np.int64), "i"), axis=0)
        return net.listed("Unsqueeze", [single], 13, axes=[0])
    return net.listed("Slice", [shape], 10, starts=[axis], ends=[axis + 1], axes=[0])


def _joined(net: Network, *parts: str) -> str:
    return net.op("Concat", *parts, axis=0)


def computed_reshape(net: Network, x: Value) -> Value:
    """[N, C, H, W] → [N, C, H·W] → and back."""
    y = layer(net, x, 8)
    channels = _size(net, y.name, 1) if net.rng.random() < 0.5 else net.ints(8)
    flat = net.op("Reshape", y.name, _joined(net, _size(net, y.name, 0), channels, net.ints(-1)))
    flat = net.op("Relu", flat)
    back = [_size(net, x.name, axis) for axis in (0, 2, 3)]
    name = net.op("Reshape", flat, _joined(net, back[0], net.ints(8), *back[1:]))
    net.stated.append(net.described(like(y, name)))  # inference can't tell, and tracing exporters do
    return like(y, name)


def computed_shuffle(net: Network, x: Value) -> Value:
    y = layer(net, x, 8, 1, group=2)
    batch, height, width = (_size(net, y.name, axis) for axis in (0, 2, 3))
    part = net.op("Div", _size(net, y.name, 1), net.ints(2)) if net.rng.random() < 0.5 else net.ints(4)
    name = net.op("Reshape", y.name, _joined(net, batch, net.ints(2), part, height, width))
    name = net.op("Transpose", name, perm=[0, 2, 1, 3, 4])
    name = net.op("Reshape", name, _joined(net, batch, net.ints(-1), height, width))
    net.stated.append(net.described(like(y, name)))
    return layer(net, like(y, name), 8, 3, group=8)


def computed_resize(net: Network, x: Value) -> Value:
    """Up to twice the size, as F.interpolate is exported."""
    y = layer(net, x, 8, stride=2)
    up = Value("", 8, 2 * y.height, 2 * y.width)
    if net.opset < 11:
        return plain_shape(net, x)
    shape = net.op("Shape", y.name)
    front = net.op("Slice", shape, net.ints(0), net.ints(2), net.ints(0))
    places = net.op("Cast", net.op("Slice", shape, net.ints(2), net.ints(4), net.ints(0)), to=onnx.TensorProto.FLOAT)
    doubled = net.op("Floor", net.op("Mul", places, net.stored_as(np.float32(2), "s")))
    sizes = _joined(net, front, net.op("Cast", doubled, to=onnx.TensorProto.INT64))
    empty = [net.stored_as(np.zeros(0, dtype=np.float32), "r") for _ in range(2)]
    name = net.op("Resize", y.name, *(empty if net.opset < 13 else ["", ""]), sizes, mode="nearest")
    up = Value(name, 8, up.height, up.width)
    net.stated.append(net.described(up))
    return layer(net, up, 8, 1)


def computed_scale(net: Network, x: Value) -> Value:
    """Features over the root of how many there are."""
    y = layer(net, x, 8)
    pooled = net.op("Flatten", net.op("GlobalAveragePool", y.name))
    key = linear(net, pooled, 8, 6)
    count = net.op("Cast", _size(net, key, 1), to=onnx.TensorProto.FLOAT)
    gate = linear(net, net.op("Div", key, net.op("Sqrt", count)), 6, 8)
    return like(y, net.op("Mul", y.name, net.op("Sigmoid", net.listed("Unsqueeze", [gate], 13, axes=[2, 3]))))


def plain_shape(net: Network, x: Value) -> Value:
    """Ones in a tensor's shape, times a row, and a row expanded to that shape."""
    y = layer(net, x, 8)
    if net.opset < 9:
        return y
    shape = net.op("Shape", y.name)
    one = onnx.helper.make_tensor("one", onnx.TensorProto.FLOAT, [1], [1.0])
    ones = net.op("ConstantOfShape", shape, value=one)
    name = net.op("Add", y.name, net.op("Mul", ones, net.noise(8, 1, 1, scale=0.3)))
    name = net.op("Add", name, net.op("Expand", net.noise(1, 8, 1, 1, scale=0.3), shape))
    return layer(net, like(y, name), 8, 1)


def initial_state(net: Network, x: Value) -> Value:
    """A GRU over the rows of a pooled map, its first state made of zeros, its last state a gate."""
    y = layer(net, x, 8)
    if net.opset < 9:
        return y
    axes = [net.ints(3)] if net.opset >= 18 else []
    largest = net.op("ReduceMax", y.name, *axes, keepdims=0, **({} if axes else {"axes": [3]}))
    rows = net.op("Transpose", largest, perm=[2, 0, 1])
    zero = onnx.helper.make_tensor("zero", onnx.TensorProto.FLOAT, [1], [0.0])
    state = net.op("ConstantOfShape", _joined(net, net.ints(1), _size(net, y.name, 0), net.ints(5)), value=zero)
    weights = net.noise(1, 15, 8, scale=0.3), net.noise(1, 15, 5, scale=0.3)
    last = net.several("GRU", rows, *weights, "", "", state, outputs=2, hidden_size=5)[1]
    features = linear(net, net.listed("Squeeze", [last], 13, axes=[0]), 5, 8)
    return like(y, net.op("Mul", y.name, net.listed("Unsqueeze", [features], 13, axes=[2, 3])))


def flattened(net: Network, x: Value) -> Value:
    """Pooled, flattened to [N, −1] with a computed batch, and a gate."""
    y = conv(net, layer(net, x, 8), 8, 1)
    pooled = net.op("GlobalMaxPool", y.name)
    flat = net.op("Reshape", pooled, _joined(net, _size(net, y.name, 0), net.ints(-1)))
    net.stated.append(net.typed(flat, 8))
    gate = net.op("Sigmoid", linear(net, flat, 8, 8))
    shaped = net.op("Reshape", gate, _joined(net, _size(net, y.name, 0), _size(net, y.name, 1), net.ints(1, 1)))
    net.stated.append(net.typed(shaped, 8, 1, 1))
    return like(y, net.op("Mul", y.name, shaped))


def computed_crop(net: Network, x: Value) -> Value:
    """The upper half of the rows, a Dropout with its mask, and a Squeeze that doesn't say of what."""
    if net.opset < 10:
        return plain_shape(net, x)
    y = layer(net, x, 8)
    half = net.op("Div", _size(net, y.name, 2), net.ints(2))
    name = net.op("Slice", y.name, net.ints(0), half, net.ints(2))
    top = Value(name, 8, y.height // 2, y.width)
    net.stated.append(net.described(top))
    dropped = net.op("Dropout", layer(net, top, 8).name, outputs=2)
    squeezed = net.op("Squeeze", net.op("GlobalAveragePool", dropped))
    net.stated.append(net.typed(squeezed, 8))
    gate = net.listed("Unsqueeze", [linear(net, squeezed, 8, 8)], 13, axes=[2, 3])
    return like(y, net.op("Mul", y.name, gate))


def numbered(net: Network, x: Value) -> Value:
    """A ramp as long as there are channels, added to another tensor: how long it is can't follow the channels."""
    if net.opset < 11:
        return plain_shape(net, x)
    y = layer(net, x, 8)
    pooled = net.op("Flatten", net.op("GlobalAveragePool", y.name))
    key = net.op("Tanh", linear(net, pooled, 8, 5))
    count = net.op("Gather", net.op("Shape", key), net.stored_as(np.array(1, dtype=np.int64), "i"), axis=0)
    bounds = [net.stored_as(np.array(v, dtype=np.int64), "i") for v in (0, 1)]
    ramp = net.op("Cast", net.op("Range", bounds[0], count, bounds[1]), to=onnx.TensorProto.FLOAT)
    ramp = net.op("Mul", ramp, net.stored_as(np.float32(0.1), "s"))
    for node in net.nodes[-3:]:
        kind = onnx.TensorProto.INT64 if node.op_type == "Range" else onnx.TensorProto.FLOAT
        net.stated.append(onnx.helper.make_tensor_value_info(node.output[0], kind, [5]))
    other = net.op("Add", linear(net, pooled, 8, 5), ramp)
    gate = net.op("Add", linear(net, key, 5, 8), linear(net, other, 5, 8))
    return like(y, net.op("Mul", y.name, net.listed("Unsqueeze", [gate], 13, axes=[2, 3])))


SIZE_BLOCKS: tuple[Block, ...] = (
    *(computed_reshape, computed_shuffle, computed_resize, computed_scale, plain_shape, initial_state, flattened),
    *(computed_crop, numbered),
)
