"""Which axis order the readers of each value want, found backwards over the model before anything is written.

Windows want channels last. What doesn't care passes on what its own readers want, Transpose and Reshape with the axes
renamed. So a graph input, or a Reshape that makes an image, comes in the right order from the start.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from graphopt.backends.litert_writer.layout import Order, before_transpose, channels_last, logical, reshaped
from graphopt.backends.litert_writer.values import Op, Value

CHANNELS_LAST = frozenset(
    {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize", "DepthToSpace"}
    | {"LRN", "SpaceToDepth"}
)
ONNX_ORDER = frozenset({"MatMul", "Gemm", "Expand", "LayerNormalization"})
RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


def find_wishes(ops: Sequence[Op], outputs: Iterable[Value], *, keep_layout: bool) -> dict[Value, Counter[Order]]:
    """For each value, how many readers want which order."""
    wishes: dict[Value, Counter[Order]] = defaultdict(Counter)
    for value in outputs:
        # An image may leave the model as it is stored; the rest, and what is not to be changed, in ONNX's order.
        if keep_layout or value.rank != 4:
            wishes[value][logical(value.rank)] += 1
    for op in reversed(ops):
        result = op.outputs[0]
        wish = _most(wishes, result)
        for value in op.inputs:
            if value is None or value.array is not None:
                continue
            order = _wanted(op, value, result, wish)
            if order is not None:
                wishes[value][order] += 1
    return dict(wishes)


def _most(wishes: dict[Value, Counter[Order]], value: Value | None) -> Order | None:
    counted = wishes.get(value) if value is not None else None
    return counted.most_common(1)[0][0] if counted else None


def _wanted(op: Op, value: Value, result: Value | None, wish: Order | None) -> Order | None:
    if op.kind in CHANNELS_LAST:
        return channels_last(value.rank)
    if op.kind in ONNX_ORDER:
        return logical(value.rank)
    if op.kind == "Softmax" or op.kind == "LogSoftmax":
        axis = int(op.attr("axis", -1)) % value.rank
        if wish is not None and wish[-1] == axis:
            return wish
        return (*(a for a in range(value.rank) if a != axis), axis)
    if result is None or wish is None:
        return None
    if op.kind == "Transpose":
        return before_transpose(wish, [int(p) for p in op.attr("perm") or reversed(range(value.rank))])
    if op.kind in RESHAPES:
        return reshaped(result, value, wish)
    return wish if len(wish) == value.rank else None
