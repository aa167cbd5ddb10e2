"""Blocks of newer architectures: windows, rotary embeddings, shared keys, shuffles of six axes, scores of channels."""

from __future__ import annotations

import numpy as np

from tests.support.network_writer import Block, Network, Value, conv, layer, like, linear


def _heads(net: Network, rows: str, ins: int, count: int, heads: int, size: int) -> str:
    """[N, L, ins] → [N, heads, L, size]."""
    split = net.reshape(linear(net, rows, ins, heads * size), 0, count, heads, size)
    return net.op("Transpose", split, perm=[0, 2, 1, 3])


def _rotated(net: Network, x: str, count: int, size: int) -> str:
    """x · cos + (−second half, first half) · sin."""
    half = size // 2
    first = net.listed("Slice", [x], 10, starts=[0], ends=[half], axes=[3])
    second = net.listed("Slice", [x], 10, starts=[half], ends=[2**31 - 1], axes=[3])
    turned = net.op("Concat", net.op("Neg", second), first, axis=3)
    return net.op("Add", net.op("Mul", x, net.noise(count, size)), net.op("Mul", turned, net.noise(count, size)))


def _attended(net: Network, q: str, k: str, v: str, mask: str) -> str:
    scores = net.op("Add", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), mask)
    return net.op("MatMul", net.op("Softmax", scores, axis=3), v)


def rotary_attention(net: Network, x: Value) -> Value:
    """A causal decoder block with rotary embeddings, perhaps one key and value for all heads."""
    count, heads, size = x.height * x.width, 2, 4
    rows = net.op("Transpose", net.reshape(x.name, 0, x.channels, count), perm=[0, 2, 1])
    shared = 1 if net.rng.random() < 0.5 else heads
    q, k, v = (_heads(net, rows, x.channels, count, h, size) for h in (heads, shared, shared))
    q, k = (_rotated(net, part, count, size) for part in (q, k))
    if shared == 1 and net.opset >= 8 and net.rng.random() < 0.5:
        k, v = (net.op("Expand", part, net.ints(1, heads, 1, 1)) for part in (k, v))
    mask = net.stored_as(np.triu(np.full((1, 1, count, count), -1e4, dtype=np.float32), 1), "m")
    mixed = _attended(net, q, k, v, mask)
    merged = net.reshape(net.op("Transpose", mixed, perm=[0, 2, 1, 3]), 0, count, heads * size)
    out = net.op("Transpose", linear(net, merged, heads * size, 8), perm=[0, 2, 1])
    return like(x, net.reshape(out, 0, 8, x.height, x.width), 8)


def window_attention(net: Network, x: Value) -> Value:
    """Attention within windows of 2 × 2 that are rolled by one, with a bias for each head."""
    if x.height % 2 or x.width % 2:
        return layer(net, x, 8)
    c, h, w = x.channels, x.height // 2, x.width // 2
    rolled = net.op("Transpose", x.name, perm=[0, 2, 3, 1])
    front = net.listed("Slice", [rolled], 10, starts=[0], ends=[1], axes=[1])
    back = net.listed("Slice", [rolled], 10, starts=[1], ends=[99], axes=[1])
    windows = net.reshape(net.op("Concat", back, front, axis=1), -1, h, 2, w, 2, c)
    windows = net.reshape(net.op("Transpose", windows, perm=[0, 1, 3, 2, 4, 5]), -1, 4, c)
    q, k, v = (_heads(net, windows, c, 4, 2, 3) for _ in range(3))
    mixed = _attended(net, q, k, v, net.noise(1, 2, 4, 4))
    merged = linear(net, net.reshape(net.op("Transpose", mixed, perm=[0, 2, 1, 3]), 0, 4, 6), 6, 8)
    grid = net.op("Transpose", net.reshape(merged, -1, h, w, 2, 2, 8), perm=[0, 5, 1, 3, 2, 4])
    return like(x, net.reshape(grid, -1, 8, x.height, x.width), 8)


def pixel_shuffle(net: Network, x: Value) -> Value:
    """DepthToSpace and its inverse as Reshape and Transpose of six axes."""
    y = layer(net, x, 16, stride=2)
    six = net.op("Transpose", net.reshape(y.name, -1, 4, 2, 2, y.height, y.width), perm=[0, 1, 4, 2, 5, 3])
    up = layer(net, Value(net.reshape(six, -1, 4, 2 * y.height, 2 * y.width), 4, 2 * y.height, 2 * y.width), 4)
    six = net.op("Transpose", net.reshape(up.name, -1, 4, y.height, 2, y.width, 2), perm=[0, 3, 5, 1, 2, 4])
    return layer(net, Value(net.reshape(six, -1, 16, y.height, y.width), 16, y.height, y.width), 8, 1)


def inverted_bottleneck(net: Network, x: Value) -> Value:
    """ConvNeXt: depthwise, rows, two products with a GELU, a scale for each channel, residual."""
    y = conv(net, x, x.channels, 3, group=x.channels)
    rows = net.op("Transpose", y.name, perm=[0, 2, 3, 1])
    if net.opset >= 17:
        rows = net.op("LayerNormalization", rows, net.noise(x.channels, around=1), net.noise(x.channels), axis=-1)
    hidden = linear(net, rows, x.channels, 12)
    hidden = net.op("Gelu", hidden) if net.opset >= 20 else net.op("Mul", hidden, net.op("Sigmoid", hidden))
    rows = net.op("Mul", linear(net, hidden, 12, x.channels), net.noise(x.channels, scale=0.3))
    return like(x, net.op("Add", x.name, net.op("Transpose", rows, perm=[0, 3, 1, 2])))


def ghost(net: Network, x: Value) -> Value:
    """Channels and cheap copies of them, cut to the number that is wanted."""
    y = layer(net, x, 6, 1)
    both = net.op("Concat", y.name, layer(net, y, 6, 3, group=6).name, axis=1)
    return layer(net, like(x, net.listed("Slice", [both], 10, starts=[0], ends=[10], axes=[1]), 10), 8, 1)


def partial_stage(net: Network, x: Value) -> Value:
    """CSP: two halves, one of which collects what each of its residual blocks gives."""
    parts = [layer(net, x, 4, 1), layer(net, x, 4, 1)]
    for _ in range(2):
        y = layer(net, parts[-1], 4)
        parts.append(like(x, net.op("Add", y.name, parts[-1].name), 4))
    return layer(net, like(x, net.op("Concat", *(p.name for p in parts), axis=1), 16), 8, 1)


def channel_attention(net: Network, x: Value) -> Value:
    """ECA: a convolution over the channels themselves, so that all of them stay; or scores of channels by channels."""
    y = layer(net, x, 8)
    if net.rng.random() < 0.5:
        line = net.reshape(net.op("GlobalAveragePool", y.name), 0, 1, 8)
        gate = net.op("Sigmoid", net.op("Conv", line, net.noise(1, 1, 3), pads=[1, 1]))
        return like(y, net.op("Mul", y.name, net.reshape(gate, 0, 8, 1, 1)))
    flat = net.reshape(y.name, 0, 8, -1)
    scores = net.op("Softmax", net.op("MatMul", flat, net.op("Transpose", flat, perm=[0, 2, 1])), axis=2)
    return like(y, net.op("Add", net.reshape(net.op("MatMul", scores, flat), 0, 8, y.height, y.width), y.name))


def global_context(net: Network, x: Value) -> Value:
    """Positions weighed by a Softmax, a bottleneck, and its result added everywhere."""
    y = layer(net, x, 8)
    weights = net.op("Softmax", net.reshape(conv(net, y, 1, 1).name, 0, 1, -1), axis=2)
    flat = net.reshape(y.name, 0, 8, -1)
    context = net.op("MatMul", flat, net.op("Transpose", weights, perm=[0, 2, 1]))
    hidden = layer(net, Value(net.listed("Unsqueeze", [context], 13, axes=[3]), 8), 4, 1)
    return like(y, net.op("Add", y.name, conv(net, hidden, 8, 1).name))


def maxout(net: Network, x: Value) -> Value:
    """The larger of two halves, as a pool over pairs of channels, or of two slices."""
    y = layer(net, x, 8)
    if net.rng.random() < 0.5:
        pairs = net.reshape(y.name, 0, 4, 2, y.height, y.width)
        name = net.listed("ReduceMax", [pairs], 18, axes=[2])
        name = net.listed("Squeeze", [name], 13, axes=[2])
    else:
        halves = [net.listed("Slice", [y.name], 10, starts=[s], ends=[s + 4], axes=[1]) for s in (0, 4)]
        name = net.op("Max", *halves)
    return layer(net, like(y, name, 4), 8, 1)


def class_token(net: Network, x: Value) -> Value:
    """A stored row in front of all others, positions added to all, the first one read at the end."""
    if net.opset < 8:
        return layer(net, x, 8)
    count = x.height * x.width
    rows = net.op("Transpose", net.reshape(x.name, 0, x.channels, count), perm=[0, 2, 1])
    rows = linear(net, rows, x.channels, 6)
    one = net.op(
        "Mul", net.listed("Slice", [rows], 10, starts=[0], ends=[1], axes=[1]), net.stored_as(np.float32(0), "o")
    )
    rows = net.op("Concat", net.op("Add", one, net.noise(1, 1, 6)), rows, axis=1)
    rows = net.op("Add", rows, net.noise(1, count + 1, 6, scale=0.3))
    scores = net.op("Softmax", net.op("MatMul", rows, net.op("Transpose", rows, perm=[0, 2, 1])), axis=2)
    mixed = net.op("MatMul", scores, rows)
    first = net.op("Gather", mixed, net.stored_as(np.array(0, dtype=np.int64), "i"), axis=1)
    gate = net.listed("Unsqueeze", [linear(net, first, 6, x.channels)], 13, axes=[2, 3])
    return like(x, net.op("Mul", x.name, net.op("Sigmoid", gate)))


MODERN_BLOCKS: tuple[Block, ...] = (
    *(rotary_attention, window_attention, pixel_shuffle, inverted_bottleneck, ghost, partial_stage),
    *(channel_attention, global_context, maxout, class_token),
)
