"""Facts about single nodes that a target's rule may ask for: name → (predicate, what it says when it fails)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphopt.ir.elements import Node, fixed_value
from graphopt.ir.graph import Graph

Predicate = Callable[[Graph, Node], bool]


def _sole_output(_graph: Graph, node: Node) -> bool:
    return len(node.present_outputs()) == 1


def _nearest(_graph: Graph, node: Node) -> bool:
    return node.attr("mode", "nearest") == "nearest"


def _interpolates(_graph: Graph, node: Node) -> bool:
    # Linear interpolation stays between its inputs, so one scale serves both sides; cubic overshoots.
    return node.attr("mode", "nearest") in ("nearest", "linear")


def _zero_pad(_graph: Graph, node: Node) -> bool:
    if node.attr("mode", "constant") != "constant":
        return True  # reflect, edge and wrap copy values of the input
    value = node.input(2)
    fixed = fixed_value(value)
    return value is None or (fixed is not None and bool(np.all(fixed == 0)))


def _one_group(_graph: Graph, node: Node) -> bool:
    return node.attr("group", 1) == 1


def _column_bias(_graph: Graph, node: Node) -> bool:
    bias = node.input(2)
    if bias is None:
        return True
    values = fixed_value(bias)
    if values is None or node.attr("alpha", 1.0) != 1.0 or node.attr("beta", 1.0) != 1.0:
        return False
    return values.shape[-1:] == (values.size,) or values.size == 1


def _from_zero(_graph: Graph, node: Node) -> bool:
    low, high = (fixed_value(node.input(i)) for i in (1, 2))
    return low is not None and bool(low == 0) and (node.input(2) is None or (high is not None and bool(high > 0)))


CONDITIONS: dict[str, tuple[Predicate, str]] = {
    "sole-output": (_sole_output, "its second output is used"),
    "nearest": (_nearest, "its mode isn't 'nearest'"),
    "interpolates": (_interpolates, "cubic interpolation goes beyond its input's range"),
    "one-group": (_one_group, "it has groups"),
    "column-bias": (_column_bias, "its bias isn't one constant per column, or alpha and beta aren't 1"),
    "from-zero": (_from_zero, "its lower bound isn't 0"),
    "zero-pad": (_zero_pad, "it pads with a value other than 0"),
}


def unmet(graph: Graph, node: Node, names: tuple[str, ...]) -> str | None:
    """What the first of the named conditions that `node` doesn't meet says, or None."""
    for name in names:
        holds, message = CONDITIONS[name]
        if not holds(graph, node):
            return message
    return None
