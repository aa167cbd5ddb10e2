"""Blocks that real networks are made of, written as exporters do: each takes a value [N, C, H, W] and gives another."""

from __future__ import annotations

import numpy as np

from tests.support.network_writer import Block, Network, Value, activation, conv, layer, like, linear


def plain(net: Network, x: Value) -> Value:
    return layer(net, x, int(net.rng.choice([4, 8, 12])), int(net.rng.choice([1, 3])))


def residual(net: Network, x: Value) -> Value:
    inner = conv(net, layer(net, x, 8), x.channels)
    if net.rng.random() < 0.3:
        return activation(net, like(x, net.op("Sum", x.name, inner.name, conv(net, x, x.channels, 1).name)))
    return activation(net, like(x, net.op("Add", x.name, inner.name)))


def inverted_residual(net: Network, x: Value) -> Value:
    wide = layer(net, layer(net, x, 2 * x.channels, 1), 2 * x.channels, 3, group=2 * x.channels)
    return like(x, net.op("Add", conv(net, wide, x.channels, 1).name, x.name))


def concatenated(net: Network, x: Value) -> Value:
    parts = [layer(net, x, 4, 1), layer(net, x, 8, 3), *([x] if net.rng.random() < 0.5 else [])]
    return like(x, net.op("Concat", *(p.name for p in parts), axis=1), sum(p.channels for p in parts))


def split(net: Network, x: Value) -> Value:
    sizes = [x.channels // 4, x.channels - x.channels // 4] if net.rng.random() < 0.5 else [x.channels // 2] * 2
    if sizes[0] == sizes[1] and net.rng.random() < 0.5:
        count = {"num_outputs": 2} if net.opset >= 18 else {}
        names = net.several("Split", x.name, outputs=2, axis=1, **count)
    elif net.opset < 13:
        names = net.several("Split", x.name, outputs=2, axis=1, split=sizes)
    else:
        names = net.several("Split", x.name, net.ints(*sizes), outputs=2, axis=1)
    left, right = (like(x, name, size) for name, size in zip(names, sizes, strict=True))
    if net.rng.random() < 0.5 and sizes[0] == sizes[1]:  # gated
        gated = like(left, net.op("Mul", left.name, net.op("Sigmoid", right.name)))
        return layer(net, gated, 8, 1)
    right = layer(net, right, right.channels)
    return like(x, net.op("Concat", left.name, right.name, axis=1))


def shuffle(net: Network, x: Value) -> Value:
    y = layer(net, x, x.channels, 1, group=2)
    first = 0 if net.rng.random() < 0.5 or isinstance(net.batch, str) else int(net.batch)
    name = net.reshape(y.name, first, 2, x.channels // 2, x.height, x.width)
    name = net.op("Transpose", name, perm=[0, 2, 1, 3, 4])
    y = like(x, net.reshape(name, -1, x.channels, x.height, x.width))
    return layer(net, layer(net, y, x.channels, 3, group=x.channels), x.channels, 1, group=2)


def grouped(net: Network, x: Value) -> Value:
    group = int(net.rng.choice([2, 4]))
    return layer(net, layer(net, x, 8, 3, group=group), 8, 1, group=1 if net.rng.random() < 0.5 else 2)


def depthwise(net: Network, x: Value) -> Value:
    multiplier = int(net.rng.choice([1, 1, 2]))
    return layer(net, layer(net, x, multiplier * x.channels, 3, group=x.channels), 8, 1)


def squeeze_excite(net: Network, x: Value) -> Value:
    x = layer(net, x, 8)
    if net.rng.random() < 0.5:
        pooled = Value(net.op("GlobalAveragePool", x.name), x.channels)
        gate = conv(net, activation(net, conv(net, pooled, 4, 1)), x.channels, 1).name
    else:
        pooled_name = net.listed("ReduceMean", [x.name], 18, axes=[2, 3])
        flat = net.op("Flatten", pooled_name)
        gate = linear(net, net.op("Relu", linear(net, flat, x.channels, 4)), 4, x.channels)
        gate = net.listed("Unsqueeze", [gate], 13, axes=[2, 3])
    return like(x, net.op("Mul", x.name, net.op("Sigmoid", gate)))


def attention(net: Network, x: Value) -> Value:
    """Multi-head attention over the positions, with a residual connection."""
    c, count = x.channels, x.height * x.width
    heads, size = int(net.rng.choice([2, 4])), int(net.rng.choice([2, 3]))
    tokens = net.op("Transpose", net.reshape(x.name, 0, c, count), perm=[0, 2, 1])
    rows = tokens
    if net.opset >= 17 and net.rng.random() < 0.7:
        rows = net.op("LayerNormalization", tokens, net.noise(c, scale=0.2, around=1), net.noise(c, scale=0.2))
    parts = []
    for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
        part = net.reshape(linear(net, rows, c, heads * size), 0, count, heads, size)
        parts.append(net.op("Transpose", part, perm=perm))
    scaled = net.op("Mul", net.op("MatMul", parts[0], parts[1]), net.stored_as(np.float32(size**-0.5), "s"))
    mixed = net.op("MatMul", net.op("Softmax", scaled, axis=3), parts[2])
    merged = net.reshape(net.op("Transpose", mixed, perm=[0, 2, 1, 3]), 0, count, heads * size)
    rows = net.op("Add", linear(net, merged, heads * size, c), tokens)
    back = net.op("Transpose", rows, perm=[0, 2, 1])
    return like(x, net.reshape(back, 0, c, x.height, x.width))


def conv_transpose(net: Network, x: Value) -> Value:
    group = int(net.rng.choice([1, 2]))
    y = layer(net, x, 8, 1, stride=2)
    weight = net.noise(8, 8 // group, 2, 2, scale=0.4)
    name = net.op("ConvTranspose", y.name, weight, net.noise(8, scale=0.2), strides=[2, 2], group=group)
    return layer(net, Value(name, 8, 2 * y.height, 2 * y.width), 8, 1)


def pool(net: Network, x: Value) -> Value:
    op = str(net.rng.choice(["MaxPool", "AveragePool"]))
    if net.rng.random() < 0.5:
        outputs = 2 if op == "MaxPool" and net.rng.random() < 0.5 else 1  # indices that nobody reads
        return like(x, net.op(op, x.name, outputs=outputs, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1]))
    name = net.op(op, x.name, kernel_shape=[2, 2], strides=[2, 2])
    return Value(name, x.channels, x.height // 2, x.width // 2) if min(x.height, x.width) >= 4 else x


def resize(net: Network, x: Value) -> Value:
    x = layer(net, x, 8, 1, stride=2)
    y = Value("", x.channels, 2 * x.height, 2 * x.width)
    scales = net.stored_as(np.array([1, 1, 2, 2], dtype=np.float32), "s")
    if net.opset <= 8:
        name = net.op("Upsample", x.name, scales=[1.0, 1.0, 2.0, 2.0])
    elif net.opset == 9:
        name = net.op("Upsample", x.name, scales)
    elif net.opset == 10:
        name = net.op("Resize", x.name, scales)
    elif net.opset < 13 or isinstance(net.batch, str) or net.rng.random() < 0.5:
        roi = net.stored_as(np.zeros(0, dtype=np.float32), "r")
        name = net.op("Resize", x.name, roi, scales, mode="nearest")
    else:
        name = net.op("Resize", x.name, "", "", net.ints(int(net.batch), y.channels, y.height, y.width), mode="linear")
    y = Value(name, y.channels, y.height, y.width)
    net.stated.append(net.described(y))
    return y


def instance_norm(net: Network, x: Value) -> Value:
    x = layer(net, x, 8)
    parameters = net.noise(8, scale=0.2, around=1.0), net.noise(8, scale=0.2)
    return like(x, net.op("InstanceNormalization", x.name, *parameters))


def depth_to_space(net: Network, x: Value) -> Value:
    y = conv(net, layer(net, x, 8), 16, stride=2)
    mode = {"mode": str(net.rng.choice(["DCR", "CRD"]))} if net.opset >= 11 else {}
    name = net.op("DepthToSpace", y.name, blocksize=2, **mode)
    up = Value(name, 4, 2 * y.height, 2 * y.width)
    if net.rng.random() < 0.5:
        return layer(net, up, 8, 1)
    down = net.op("SpaceToDepth", up.name, blocksize=2)
    return layer(net, Value(down, 16, y.height, y.width), 8, 1)


def channels_last(net: Network, x: Value) -> Value:
    """A stretch of [N, H, W, C]."""
    rows = net.op("Transpose", x.name, perm=[0, 2, 3, 1])
    rows = net.op("Relu", linear(net, rows, x.channels, 12))
    rows = net.op("Mul", rows, net.noise(12, scale=0.2, around=1.0))
    rows = linear(net, rows, 12, 8)
    return like(x, net.op("Transpose", rows, perm=[0, 3, 1, 2]), 8)


def padded_shortcut(net: Network, x: Value) -> Value:
    """Channels of zeros are added to the shortcut."""
    inner = conv(net, layer(net, x, 8), x.channels + 4)
    added = [0, int(net.rng.integers(5)), 0, 0]
    pads = [*added, 0, 4 - added[1], 0, 0]
    shortcut = net.listed("Pad", [x.name], 11, pads=pads)
    return activation(net, like(x, net.op("Add", inner.name, shortcut), x.channels + 4))


def sliced(net: Network, x: Value) -> Value:
    x = layer(net, x, 8)
    begin, end = (0, 4) if net.rng.random() < 0.5 else (3, 9)
    part = like(x, net.listed("Slice", [x.name], 10, starts=[begin], ends=[end], axes=[1]), min(end, 8) - begin)
    return like(x, net.op("Concat", layer(net, part, 4).name, x.name, axis=1), 12)


def picked(net: Network, x: Value) -> Value:
    """Channels in another order, some of them twice or never."""
    order = net.rng.permutation(x.channels) if net.rng.random() < 0.5 else net.rng.integers(0, x.channels, 6)
    name = net.op("Gather", x.name, net.ints(*order.tolist()), axis=1)
    return layer(net, like(x, name, len(order)), 8)


def expanded(net: Network, x: Value) -> Value:
    """A row for each channel, expanded or tiled over the positions."""
    if net.opset < 8:
        return plain(net, x)
    x = layer(net, x, 8)
    row = net.noise(1, 8, 1, 1, scale=0.5)
    if net.rng.random() < 0.5:
        name = net.op("Expand", row, net.ints(1, 8, x.height, x.width))
    else:
        name = net.op("Tile", row, net.ints(1, 1, x.height, x.width))
    return like(x, net.op("Add", x.name, name))


def shared_weight(net: Network, x: Value) -> Value:
    """One convolution, applied twice."""
    x = layer(net, x, 8)
    weight, bias = net.noise(8, 8, 3, 3, scale=0.12), net.noise(8, scale=0.2)
    for _ in range(2):
        x = activation(net, like(x, net.op("Conv", x.name, weight, bias, pads=[1, 1, 1, 1])))
    return x


def recurrent(net: Network, x: Value) -> Value:
    """An LSTM over the rows, its channels in and its hidden state out."""
    x = layer(net, x, 8)
    rows = net.op(
        "Transpose", net.reshape(net.listed("ReduceMax", [x.name], 18, axes=[3]), 0, 8, x.height), perm=[2, 0, 1]
    )
    weights = net.noise(1, 16, 8, scale=0.3), net.noise(1, 16, 4, scale=0.3), net.noise(1, 32, scale=0.2)
    out = net.op("LSTM", rows, *weights, hidden_size=4)
    out = net.listed("Squeeze", [out], 13, axes=[1])
    name = net.listed("Unsqueeze", [net.op("Transpose", out, perm=[1, 2, 0])], 13, axes=[3])
    return like(x, net.op("Add", conv(net, Value(name, 4, x.height, 1), 8, 1).name, x.name))


def chosen(net: Network, x: Value) -> Value:
    """Minimum, maximum and a choice between two branches."""
    left, right = layer(net, x, 8), layer(net, x, 8)
    if net.opset < 9:
        return like(x, net.op("Max", left.name, right.name), 8)
    picked_ = net.op("Where", net.op("Greater", left.name, right.name), left.name, net.op("Neg", right.name))
    return like(x, net.op("Min", picked_, left.name), 8)


def normalized_over_channels(net: Network, x: Value) -> Value:
    """What has to stay whole: everything here needs all channels."""
    x = layer(net, x, 8)
    kind = net.rng.integers(3)
    if kind == 0:
        return like(x, net.op("LRN", x.name, size=3))
    if kind == 1:
        rows = net.op("Transpose", x.name, perm=[0, 2, 3, 1])
        return like(x, net.op("Transpose", net.op("Softmax", rows, axis=3), perm=[0, 3, 1, 2]))
    mean = net.listed("ReduceMean", [x.name], 18, axes=[1])
    return like(x, net.op("Sub", x.name, mean))


MAP_BLOCKS: tuple[Block, ...] = (
    *(plain, residual, inverted_residual, concatenated, split, shuffle, grouped, depthwise, squeeze_excite, attention),
    *(conv_transpose, pool, resize, instance_norm, depth_to_space, channels_last, padded_shortcut),
    *(sliced, picked, expanded, shared_weight, recurrent, chosen, normalized_over_channels),
)

ANY_SIZE = frozenset(
    {plain, residual, inverted_residual, concatenated, split, grouped, depthwise, squeeze_excite, conv_transpose}
)
ANY_SIZE |= {instance_norm, channels_last, padded_shortcut, sliced, picked, chosen, normalized_over_channels}
"""Those that don't care how high and wide a map is."""
