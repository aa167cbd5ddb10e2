"""The sum of two branches that a layer's result goes into: what errors of the result are to be seen beside."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir import Graph, Node, Tensor, Variable
from graphopt.ir.linear import Linear, linear_result, sole_reader
from graphopt.ir.operands import same_shape


@dataclass(frozen=True)
class ResidualSum:
    """result + other.

    Attributes:
        add: the node.
        other: the activation that the layer's result is added to.
    """

    add: Node
    other: Variable


def residual_sum(graph: Graph, linear: Linear) -> ResidualSum | None:
    """The sum, when it alone reads the result of `linear` and has the shapes of both; None otherwise."""
    result = linear_result(graph, linear)
    add = sole_reader(graph, result)
    if add is None or not add.is_op("Add") or add.scope is not linear.node.scope:
        return None
    other: Tensor = add.inputs[1] if add.inputs[0] is result else add.inputs[0]
    # A result that is broadcast may be seen several times in the sum.
    if not isinstance(other, Variable) or not same_shape(other.shape, result.shape):
        return None
    return ResidualSum(add, other)
