"""Write a per-channel scale and shift as nodes: y = Add(Mul(x, scale), shift), constants shaped [C, 1, …]."""

from __future__ import annotations

import numpy as np

from graphopt.analysis.channels.affine import ChannelAffine
from graphopt.ir import Graph, Tensor, Variable
from graphopt.ir.linear_edit import Declined, rounded


def replace_with_affine(graph: Graph, x: Tensor, y: Variable, affine: ChannelAffine) -> Declined | None:
    """Make the readers of `y` read `affine` of `x`, computed by a Mul, an Add or both; None when done.

    A scale of ones or a shift of zeros is left out, unless both are.
    """
    shape, dtype = x.shape or y.shape, x.dtype or y.dtype
    if dtype is None or shape is None or len(shape) <= (affine.axis or 0):
        return Declined(f"the type or shape of '{x.name}' isn't known")
    column = () if affine.axis is None else (-1, *[1] * (len(shape) - affine.axis - 1))
    scale, shift = (rounded(v.reshape(column), np.dtype(dtype)) for v in (affine.scale, affine.shift))
    if scale is None or shift is None:
        return Declined(f"its scale or shift isn't finite in {dtype}")
    steps = [("Mul", f"{y.name}_scale", scale)] if affine.has_scale or not affine.has_shift else []
    steps += [("Add", f"{y.name}_shift", shift)] if affine.has_shift else []
    new, last = x, None
    for op, hint, values in steps:
        result = graph.variable(f"{hint}_result", dtype, shape)
        last = graph.add_node(op, [new, graph.constant(values, hint)], [result], hint=hint)
        new = result
    if not graph.replace_uses(y, new):
        graph.remove_unused([last] if last is not None else [])
        return Declined(f"'{y.name}' is listed twice as a graph output")
    return None
