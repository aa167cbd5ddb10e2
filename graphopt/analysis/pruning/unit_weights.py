"""The stored numbers that go with the units of a coupling group, as one row a unit.

Conv(w1: [64, 3, 3, 3]) → BN(γ: [64]) → Relu → Conv(w2: [128, 64, 3, 3])
writing [64, 27]          scales [64, 1]       reading [64, 128·9]
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.analysis.coupling.groups import Group, Slot, Units
from graphopt.ir import Constant, Graph, fixed_value
from graphopt.ir.linear import linear_view

Rows = NDArray[np.float64]


def writing_weights(graph: Graph, group: Group) -> Iterator[Rows]:
    """Weights of the linear layers that make the units: [units, weights], each constant once, in graph order."""
    for constant, out_axis, _ in _weights(graph):
        units = group.members.get(Slot(constant, out_axis))
        if units is not None:
            yield _rows(constant.values, out_axis, units, group)


def reading_weights(graph: Graph, group: Group) -> Iterator[Rows]:
    """Weights of the linear layers that read the units, likewise."""
    for constant, _, in_axis in _weights(graph):
        units = group.members.get(Slot(constant, in_axis))
        if units is not None:
            yield _rows(constant.values, in_axis, units, group)


def scales(graph: Graph, group: Group) -> list[Rows]:
    """Scales of the BatchNormalizations that the units run through, [units, elements of a unit]."""
    found: list[Rows] = []
    for node in graph.nodes:
        scale = node.input(1) if node.is_op("BatchNormalization") else None
        units = group.members.get(Slot(scale, 0)) if scale is not None else None
        values = fixed_value(scale)
        if units is not None and values is not None:
            found.append(_rows(values, 0, units, group))
    return found


def _weights(graph: Graph) -> Iterator[tuple[Constant, int, int]]:
    """(weight, axis of outputs, axis of inputs) of each linear layer, shared weights once."""
    seen: set[tuple[int, int]] = set()
    for node in graph.nodes:
        linear = linear_view(graph, node)
        if linear is not None and (id(linear.weight), linear.out_axis) not in seen:
            seen.add((id(linear.weight), linear.out_axis))
            yield linear.weight, linear.out_axis, linear.in_axis


def _rows(values: NDArray[Any], axis: int, units: Units, group: Group) -> Rows:
    """`values` with each unit's elements of `axis` in a row; a unit has as many as every other."""
    front = np.moveaxis(values, axis, 0).astype(np.float64).reshape(len(units), -1)
    order = np.argsort(np.where(units < 0, group.units, units), kind="stable")[: np.count_nonzero(units >= 0)]
    return front[order].reshape(group.units, -1)
