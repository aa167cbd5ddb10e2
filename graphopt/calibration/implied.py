"""Which statistics follow from others, so that their tensors needn't be observed.

    y = Reshape(x) and the like: the same values, whatever is kept of them
    y = Relu(x):                 min y = max(0, min x), max y = max(0, max x)

Exact ones only. The histogram of a Relu isn't derived: when the negative side of x reaches further than the positive
one, its bins are wider than those that y's own histogram would have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto

from graphopt.calibration.statistics import EmaMinMax, MinMax, Statistic

_SAME_VALUES = frozenset(
    {"DepthToSpace", "Flatten", "Identity", "Reshape", "SpaceToDepth", "Squeeze", "Transpose", "Unsqueeze"}
)


@dataclass(frozen=True)
class Implied:
    """`tensor` holds the values of `source`, which is observed, or their Relu."""

    tensor: str
    source: str
    relu: bool


def find_implied(model: ModelProto, tensors: Sequence[str], *, through_relu: bool) -> dict[str, Implied]:
    """Those of `tensors` that follow from another one of them which doesn't.

    Args:
        model: the model.
        tensors: what is asked for.
        through_relu: whether the statistic of a Relu follows from that of its input.
    """
    makers = {name: node for node in model.graph.node for name in node.output if node.domain in ("", "ai.onnx")}
    asked = set(tensors)
    found: dict[str, Implied] = {}
    for tensor in dict.fromkeys(tensors):
        implied = _trace(tensor, makers, asked, through_relu)
        if implied is not None:
            found[tensor] = implied
    return found


def derive(implied: Implied, source: Statistic) -> Statistic:
    """The statistic of `implied.tensor`; `source` isn't changed."""
    copy = type(source).from_state(source.state())
    if not implied.relu or copy.is_empty:
        return copy
    if isinstance(copy, MinMax):
        return MinMax(max(copy.low, 0.0), max(copy.high, 0.0))
    if isinstance(copy, EmaMinMax):
        seen = copy.lows <= copy.highs
        copy.lows[seen] = np.maximum(copy.lows[seen], 0.0)
        copy.highs[seen] = np.maximum(copy.highs[seen], 0.0)
        return copy
    raise TypeError(f"the {type(source).__name__} of a Relu doesn't follow from that of its input")


def _trace(tensor: str, makers: dict[str, NodeProto], asked: set[str], through_relu: bool) -> Implied | None:
    """Walk up while values stay the same; the last tensor on the way that is asked for is the source."""
    current, relu, found = tensor, False, None
    while current in makers:
        node = makers[current]
        if node.op_type == "Relu" and through_relu:
            relu = True
        elif node.op_type not in _SAME_VALUES:
            break
        current = node.input[0]
        if current in asked:
            found = Implied(tensor, current, relu)
    return found
