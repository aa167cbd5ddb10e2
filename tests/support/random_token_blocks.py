"""Blocks that work on rows of features or change the rank, as `random_blocks` has them for feature maps."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from tests.support.network_writer import Block, Network, Value, layer, like, linear


def _rows(net: Network, x: Value) -> str:
    """[N, C, H, W] as [N, H·W, C]."""
    return net.op("Transpose", net.reshape(x.name, 0, x.channels, -1), perm=[0, 2, 1])


def _map(net: Network, x: Value, rows: str, channels: int) -> Value:
    """And back."""
    return like(x, net.reshape(net.op("Transpose", rows, perm=[0, 2, 1]), 0, channels, x.height, x.width), channels)


def fused_attention(net: Network, x: Value) -> Value:
    """Query, key and value from one product: [N, L, 3, heads, size], split by Gather, Split or Slice."""
    count, heads, size = x.height * x.width, 2, int(net.rng.choice([2, 3]))
    fused = linear(net, _rows(net, x), x.channels, 3 * heads * size)
    kind = net.rng.integers(3)
    if kind == 0:
        five = net.op("Transpose", net.reshape(fused, 0, count, 3, heads, size), perm=[2, 0, 3, 1, 4])
        index = [net.stored_as(np.array(i, dtype=np.int64), "i") for i in range(3)]
        q, k, v = (net.op("Gather", five, i, axis=0) for i in index)
    else:
        width = heads * size
        if kind == 1 and net.opset < 13:
            parts = net.several("Split", fused, outputs=3, axis=2, split=[width] * 3)
        elif kind == 1:
            parts = net.several("Split", fused, net.ints(width, width, width), outputs=3, axis=-1)
        else:
            bounds = [(i * width, (i + 1) * width) for i in range(3)]
            parts = [net.listed("Slice", [fused], 10, starts=[a], ends=[b], axes=[2]) for a, b in bounds]
        split = [net.reshape(part, 0, count, heads, size) for part in parts]
        q, k, v = (net.op("Transpose", part, perm=[0, 2, 1, 3]) for part in split)
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    scores = net.op("Div", scores, net.stored_as(np.float32(size**0.5), "s"))
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=3), v)
    merged = net.reshape(net.op("Transpose", mixed, perm=[0, 2, 1, 3]), 0, count, heads * size)
    return _map(net, x, linear(net, merged, heads * size, 8), 8)


def einsum_attention(net: Network, x: Value) -> Value:
    if net.opset < 12:
        return fused_attention(net, x)
    rows, c = _rows(net, x), x.channels
    q, k, v = (net.op("Einsum", rows, net.noise(c, 2, 3, scale=c**-0.5), equation="nlc,chd->nhld") for _ in range(3))
    scores = net.op("Softmax", net.op("Einsum", q, k, equation="nhld,nhmd->nhlm"), axis=3)
    mixed = net.op("Einsum", scores, v, equation="nhlm,nhmd->nlhd")
    return _map(net, x, net.op("Einsum", mixed, net.noise(2, 3, 8, scale=0.4), equation="nlhd,hdc->nlc"), 8)


def decomposed_layer_norm(net: Network, x: Value) -> Value:
    """A transformer's feed-forward part behind a LayerNorm written out; the hidden width can go, the stream can't."""
    rows = _rows(net, x)
    mean = net.listed("ReduceMean", [rows], 18, axes=[-1] if net.opset >= 11 else [2])
    centred = net.op("Sub", rows, mean)
    square = net.op("Pow", centred, net.stored_as(np.float32(2), "p"))
    variance = net.listed("ReduceMean", [square], 18, axes=[-1] if net.opset >= 11 else [2])
    deviation = net.op("Sqrt", net.op("Add", variance, net.stored_as(np.float32(1e-5), "e")))
    normal = net.op("Mul", net.op("Div", centred, deviation), net.noise(x.channels, scale=0.2, around=1))
    gelu = linear(net, normal, x.channels, 16)
    gate = net.op("Erf", gelu) if net.opset >= 9 else net.op("Tanh", gelu)
    hidden = net.op("Mul", gelu, net.op("Add", gate, net.stored_as(np.float32(1), "o")))
    return _map(net, x, net.op("Add", linear(net, hidden, 16, x.channels), rows), x.channels)


def gated_linear_unit(net: Network, x: Value) -> Value:
    """SwiGLU over one product of double width, halved by stepping Slices."""
    wide = linear(net, _rows(net, x), x.channels, 16)
    if net.opset < 10:
        left, right = net.several("Split", wide, outputs=2, axis=2)
    else:
        step = [16, 1, 2][int(net.rng.integers(3))]
        bounds = ([0, 2], [1, 2]) if step == 2 else ([0, 1], [8, 1])
        ends = (16, 16) if step == 2 else (8, 16)
        left, right = (
            net.op("Slice", wide, net.ints(b[0]), net.ints(e), net.ints(2), net.ints(b[1]))
            for b, e in zip(bounds, ends, strict=True)
        )
    return _map(net, x, linear(net, net.op("Mul", left, net.op("Sigmoid", right)), 8, 8), 8)


def merged_height(net: Network, x: Value) -> Value:
    """[N, C, H, W] → [W, N, C·H], a recurrent layer's input, its sum over time, and back to a map."""
    y = layer(net, x, 4)
    rows = net.op("Transpose", net.reshape(y.name, 0, 4 * y.height, y.width), perm=[2, 0, 1])
    kind, gates = (("GRU", 3), ("LSTM", 4), ("RNN", 1))[int(net.rng.integers(3))]
    weights = net.noise(2, gates * 4, 4 * y.height, scale=0.2), net.noise(2, gates * 4, 4, scale=0.3)
    out = net.op(kind, rows, *weights, hidden_size=4, direction="bidirectional")  # [W, 2, N, 4]
    both = net.reshape(net.op("Transpose", out, perm=[2, 1, 3, 0]), 0, 8, 1, y.width)
    return like(y, net.op("Add", layer(net, Value(both, 8, 1, y.width), 8, 1).name, layer(net, y, 8).name), 8)


def one_dimensional(net: Network, x: Value) -> Value:
    """Convolutions over [N, C, L], a BatchNormalization of features, Squeeze and Unsqueeze."""
    line = net.reshape(x.name, 0, x.channels, -1)
    line = net.op("Conv", line, net.noise(8, x.channels, 3, scale=0.2), pads=[1, 1])
    line = net.op("Relu", net.op("Conv", line, net.noise(8, 2, 3, scale=0.4), group=4, pads=[2, 2], dilations=[2]))
    parameters = [net.noise(8, scale=0.1, around=1), net.noise(8, scale=0.2), net.noise(8, scale=0.2)]
    line = net.op("BatchNormalization", line, *parameters, net.stored_as(np.ones(8, dtype=np.float32), "v"))
    pooled = net.op("GlobalAveragePool", line)
    features = net.listed("Squeeze", [pooled], 13, axes=[2])
    scale = net.listed("Unsqueeze", [linear(net, features, 8, 8)], 13, axes=[2, 3])
    return like(x, net.op("Mul", net.reshape(line, 0, 8, x.height, x.width), scale), 8)


def three_dimensional(net: Network, x: Value) -> Value:
    y = layer(net, x, 8)
    cube = net.listed("Unsqueeze", [y.name], 13, axes=[2])
    cube = net.op("Relu", net.op("Conv", cube, net.noise(6, 8, 1, 3, 3, scale=0.12), pads=[0, 1, 1, 0, 1, 1]))
    cube = net.op("ConvTranspose", cube, net.noise(6, 8, 1, 1, 1, scale=0.4), net.noise(8, scale=0.2))
    return like(y, net.listed("Squeeze", [cube], 13, axes=[2]))


def weights_on_the_left(net: Network, x: Value) -> Value:
    """Products of [C, C] with [N, C, H·W], and a Gemm of transposed operands."""
    y = layer(net, x, 8)
    line = net.op("MatMul", net.noise(12, 8, scale=0.3), net.reshape(y.name, 0, 8, -1))
    line = net.op("Relu", net.op("Add", line, net.noise(12, 1, scale=0.3)))
    line = net.op("MatMul", net.noise(8, 12, scale=0.3), line)
    mixed = like(y, net.reshape(line, 0, 8, y.height, y.width))
    flat = net.op("Transpose", net.op("Flatten", net.op("GlobalMaxPool", mixed.name)), perm=[1, 0])  # [C, N]
    scores = net.op("Gemm", net.noise(8, 6, scale=0.3), flat, net.noise(6, 1, scale=0.3), transA=1)  # [6, N]
    gate = net.op("Gemm", scores, net.noise(8, 6, scale=0.3), net.noise(8, scale=0.2), transA=1, transB=1)
    return like(y, net.op("Add", mixed.name, net.listed("Unsqueeze", [gate], 13, axes=[2, 3])))


def unit_vectors(net: Network, x: Value) -> Value:
    """Features over their length: a sum over channels, which may lose some of them."""
    y = layer(net, x, 8)
    if net.rng.random() < 0.5:
        length = net.listed("ReduceL2", [y.name], 18, axes=[1])
    else:
        length = net.op("Sqrt", net.listed("ReduceSum", [net.op("Mul", y.name, y.name)], 13, axes=[1]))
    length = net.op("Add", length, net.stored_as(np.float32(0.5), "e"))
    return layer(net, like(y, net.op("Div", y.name, length)), 8, 1)


def group_norm(net: Network, x: Value) -> Value:
    """GroupNormalization as the exporters write it: [N, g, −1] through InstanceNormalization; or the operator."""
    y = layer(net, x, 8)
    if net.opset >= 21:
        name = net.op("GroupNormalization", y.name, net.noise(8, around=1), net.noise(8), num_groups=4)
        net.stated.append(net.described(like(y, name)))
        return layer(net, like(y, name), 8, 1)
    ones, zeros = (net.stored_as(np.full(4, v, dtype=np.float32), "k") for v in (1, 0))
    name = net.op("InstanceNormalization", net.reshape(y.name, 0, 4, -1), ones, zeros)
    name = net.reshape(name, 0, 8, y.height, y.width)
    name = net.op("Add", net.op("Mul", name, net.noise(8, 1, 1, around=1)), net.noise(8, 1, 1))
    return layer(net, like(y, name), 8, 1)


def quantized_weight(net: Network, x: Value) -> Value:
    """A weight in integers with a scale for each output channel, and an activation with one scale."""
    if net.opset < 13:
        return layer(net, x, 8)
    whole = net.stored_as(net.rng.integers(-90, 90, (8, x.channels, 1, 1)).astype(np.int8), "q")
    scale = net.stored_as(net.rng.uniform(0.002, 0.006, 8).astype(np.float32), "s")
    weight = net.op("DequantizeLinear", whole, scale, net.stored_as(np.zeros(8, np.int8), "z"), axis=0)
    y = like(x, net.op("Conv", x.name, weight, net.noise(8, scale=0.2)), 8)
    step, zero = net.stored_as(np.float32(0.02), "s"), net.stored_as(np.uint8(117), "z")
    whole_y = net.op("QuantizeLinear", y.name, step, zero)
    return layer(net, like(y, net.op("DequantizeLinear", whole_y, step, zero)), 8)


def constant_nodes(net: Network, x: Value) -> Value:
    """Constants that are nodes, and a mask of booleans."""
    y = layer(net, x, 8)
    values = onnx.numpy_helper.from_array(net.rng.standard_normal((8, 1, 1)).astype(np.float32))
    name = net.op("Add", y.name, net.op("Constant", value=values))
    if net.opset < 9:
        return layer(net, like(y, name), 8, 1)
    mask = net.op("And", net.op("Greater", name, net.noise(1)), net.op("Not", net.op("Less", name, net.noise(8, 1, 1))))
    floats = net.op("Cast", mask, to=onnx.TensorProto.FLOAT)
    return layer(net, like(y, net.op("Mul", floats, net.op("Where", mask, name, net.noise(1)))), 8, 1)


def branches_of_if(net: Network, x: Value) -> Value:
    """A nested graph reads one tensor; what it reads stays, what is beside it may go."""
    y = layer(net, x, 8)
    z = layer(net, y, 8)
    shape = ["n", 8, y.height, y.width]
    bodies = [
        helper.make_graph(
            [helper.make_node(op, [y.name], [f"{z.name}_{op}"])],
            op,
            [],
            [helper.make_tensor_value_info(f"{z.name}_{op}", onnx.TensorProto.FLOAT, shape)],
        )
        for op in ("Relu", "Neg")
    ]
    condition = net.stored_as(np.array(bool(net.rng.integers(2))), "c")
    name = net.op("If", condition, then_branch=bodies[0], else_branch=bodies[1])
    net.stated.append(net.described(like(y, name)))
    return like(y, net.op("Add", name, z.name))


def looked_over(net: Network, x: Value) -> Value:
    """What is compared along positions, not channels: TopK, ArgMax, CumSum."""
    y = layer(net, x, 8)
    line = net.reshape(y.name, 0, 8, -1)
    if net.opset < 11:
        best = net.op("ReduceMax", line, axes=[2])
    else:
        best = net.op("TopK", line, net.ints(3), outputs=2, axis=2)
        best = net.op("CumSum", best, net.stored_as(np.array(1, dtype=np.int64), "a")) if net.opset >= 14 else best
        best = net.listed("ReduceMax", [best], 18, axes=[2])
    return like(y, net.op("Add", y.name, net.listed("Unsqueeze", [best], 13, axes=[3])))


TOKEN_BLOCKS: tuple[Block, ...] = (
    *(fused_attention, einsum_attention, decomposed_layer_norm, gated_linear_unit, merged_height, one_dimensional),
    *(three_dimensional, weights_on_the_left, unit_vectors, group_norm, quantized_weight, constant_nodes),
    *(branches_of_if, looked_over),
)
