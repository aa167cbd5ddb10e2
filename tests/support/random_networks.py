"""Random small networks: `networks()` is a hypothesis strategy.

A few blocks drawn from `BLOCKS`, one after the other, between a first convolution and a head; opsets 7 to 22; static
shapes, dynamic batch, and height and width that aren't known either.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from hypothesis import strategies as st

from tests.support.network_writer import Block, Network, Value, conv, layer, linear
from tests.support.random_blocks import ANY_SIZE, MAP_BLOCKS
from tests.support.random_modern_blocks import MODERN_BLOCKS
from tests.support.random_size_blocks import SIZE_BLOCKS
from tests.support.random_token_blocks import TOKEN_BLOCKS

BLOCKS = MAP_BLOCKS + TOKEN_BLOCKS + SIZE_BLOCKS + MODERN_BLOCKS

ANY_SIZE_BLOCKS = tuple(block for block in MAP_BLOCKS if block in ANY_SIZE) + SIZE_BLOCKS
"""Those that don't care how high and wide a map is."""

OPSETS = (7, 8, 9, 10, 11, 12, 13, 15, 17, 18, 20, 21, 22)


def head(net: Network, x: Value) -> None:
    """A classifier, or a map; sometimes inner values are outputs too."""
    kind = net.rng.choice([0, 2, 3] if net.any_size else [0, 1, 2, 3])
    if net.rng.random() < 0.2:
        net.outputs.append(net.described(x))
        x = layer(net, x, 8)
    if kind == 0:
        flat = net.op("Flatten", net.op("GlobalAveragePool", x.name))
        scores = net.op("Gemm", flat, net.noise(5, x.channels, scale=0.4), net.noise(5), transB=1)
        net.outputs.append(net.typed(scores, 5))
    elif kind == 1:
        size = x.channels * x.height * x.width
        flat = net.op("Flatten", x.name) if net.rng.random() < 0.5 else net.reshape(x.name, 0, -1)
        hidden = net.op("Tanh", net.op("Gemm", flat, net.noise(size, 7, scale=size**-0.5), net.noise(7)))
        net.outputs.append(net.typed(linear(net, hidden, 7, 5), 5))
    elif kind == 2:
        pooled = net.listed("Squeeze", [net.op("GlobalMaxPool", x.name)], 13, axes=[2, 3])
        net.outputs.append(net.typed(linear(net, pooled, x.channels, 5), 5))
    else:
        net.outputs.append(net.described(conv(net, x, 3, 1)))


def network(blocks: Sequence[Block], opset: int, batch: int | str, seed: int, *, any_size: bool) -> onnx.ModelProto:
    """The blocks, one after the other. Input: [batch, 3, 8, 6], or [batch, 3, ?, ?]."""
    net = Network(opset, batch, seed, any_size=any_size)
    source = Value("x", 3, 8, 6)
    x = layer(net, source, 8)
    for block in blocks:
        if x.channels % 4 or x.channels > 24:
            x = layer(net, x, 8, 1)
        x = block(net, x)
    head(net, x)
    return net.model(source)


@st.composite
def networks(draw: st.DrawFn, most_blocks: int = 5) -> onnx.ModelProto:
    """A model of 2 to `most_blocks` blocks."""
    any_size = draw(st.integers(0, 3)) == 3
    blocks = st.lists(st.sampled_from(ANY_SIZE_BLOCKS if any_size else BLOCKS), min_size=2, max_size=most_blocks)
    opset, batch, seed = st.sampled_from(OPSETS), st.sampled_from([2, "N"]), st.integers(0, 2**32 - 1)
    return network(draw(blocks), draw(opset), draw(batch), draw(seed), any_size=any_size)
