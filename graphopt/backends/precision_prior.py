"""Sensitivity, grade "weights": what each source would lose, from weights and ranges alone, without samples.

    weights       Σ (W′ − W)² / Σ W²               for inputs that are independent and of one size, that is what is lost
    a grid        step² / 12 / E[t²]               E[t²] = 2·(max|range| / 9.89)²
    float16 …     0.15·u²                          u = 2⁻¹¹ (bfloat16: 2⁻⁸)

Ranges clip where that has the least squared error. Of values with a Laplace distribution of scale b, 8 bits clip at
9.89·b (Banner et al., "Post-training 4-bit quantization of convolutional networks", NeurIPS 2019), and E[t²] = 2·b²:
activations have such tails, and with a uniform distribution every tensor would seem to lose 10 dB less. u²/3 is the
squared rounding error of a value between 1 and 2, whose square is 2.16 on average where exponents are evenly spread.
The gains are those of `layer_gains` for a graph in which each branch adds as much as any other to a sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from graphopt.backends.layer_gains import JOINS, mean_gains
from graphopt.calibration.precision_sources import Identity, Rounding, Source
from graphopt.ir import FLOAT_TYPES, Constant, Graph, Tensor
from graphopt.ir.ops import ELEMENTWISE_UNARY, MOVES_VALUES

_CLIP_8_BITS = 9.89
_UNITS: Mapping[str, float] = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
_OF_UNIT = 1 / 3 / 2.16
# What comes out is of the size of what goes in.
_KEEPS_POWER = (
    ELEMENTWISE_UNARY
    | MOVES_VALUES
    | {"AveragePool", "Clip", "GlobalAveragePool", "PRelu", "Pad", "ReduceMean", "Resize", "Upsample"}
)


def estimate(graph: Graph, sources: Iterable[Source]) -> dict[Identity, float]:
    """What each source would lose at the outputs: relative power of noise.

    Args:
        graph: the float model, sorted, types filled in.
        sources: of the graph; none is kept.
    """
    gain = mean_gains(graph, _powers(graph))
    nodes = {node.name: node for node in graph.nodes}
    found: dict[Identity, float] = {}
    for source in sources:
        if source.is_tensor:
            lost = _rounding_loss(source.coarsest)
        else:
            lost = sum(_rounding_loss(r) for r in (*source.reads.values(), *source.results.values()))
            # Two uses of a constant are one loss.
            stored = {id(v): (v, nodes[name].inputs[index]) for (name, index), v in source.constants.items()}
            lost += sum(_stored_loss(tensor, values) for values, tensor in stored.values())
        found[source.identity] = lost * gain.get(source.measured, 0.0)
    return found


def _rounding_loss(rounding: Rounding) -> float:
    if isinstance(rounding, str):
        return _UNITS[rounding] ** 2 * _OF_UNIT
    scheme, scale = rounding.scheme, float(rounding.scale.max())
    zero = int(rounding.zero_point.flat[0])
    largest = scale * max(zero - scheme.qmin, scheme.qmax - zero)
    return scale**2 / 12 / (2 * (largest / _CLIP_8_BITS) ** 2)


def _stored_loss(tensor: Tensor, values: NDArray[np.float32]) -> float:
    assert isinstance(tensor, Constant)  # what sources replace
    exact = tensor.values.astype(np.float64)
    power = float(np.sum(exact * exact))
    return float(np.sum((values - exact) ** 2)) / power if power else 0.0


def _powers(graph: Graph) -> dict[str, float]:
    """Of each tensor, if each layer's result has the power 1."""
    powers: dict[str, float] = {}
    for node in graph.nodes:
        operands = [t.name for _, t in node.present_inputs() if not isinstance(t, Constant) and t.dtype in FLOAT_TYPES]
        if node.is_op(*JOINS):
            power = sum(powers.get(name, 1.0) for name in operands)
        elif operands and node.is_op(*_KEEPS_POWER):
            power = powers.get(operands[0], 1.0)
        else:
            power = 1.0
        powers.update((t.name, power) for t in node.present_outputs())
    return powers
