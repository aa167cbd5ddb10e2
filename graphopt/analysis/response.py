"""What the rest of the graph makes of a tensor's values, where that is one function of each of them.

    x → LeakyRelu → y                     f(x) = max(x, 0) + α·min(x, 0)
    x → Sigmoid → Mul(x, ·) → y           f(x) = x·σ(x)
    x → Relu → y, and x → Conv            none: x itself is read, too

An error e of x is one of about f'(x)·e for everybody behind: a range for x needn't be fine where f is flat.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphopt.ir import Graph, Node, Tensor, fixed_value
from graphopt.ir.evaluate import compute
from graphopt.ir.kernels import NotEvaluableError
from graphopt.ir.ops import ELEMENTWISE_BINARY, ELEMENTWISE_UNARY

Values: TypeAlias = NDArray[np.float64]
Response: TypeAlias = Callable[[Values], Values]

_POINTWISE = ELEMENTWISE_UNARY | ELEMENTWISE_BINARY | {"Clip"}
# A decomposed Gelu or Mish has five or six.
_MOST_NODES = 8


@dataclass(frozen=True)
class Chain:
    """Nodes that make one function of a tensor's values, in the order in which they run, and what they give."""

    nodes: tuple[Node, ...]
    result: Tensor


def response(graph: Graph, tensor: Tensor) -> Response | None:
    """The function f for which only f(tensor) is read by what isn't pointwise; None where there is none.

    f takes and gives float64 values of any shape, computed in the tensor's own type.
    """
    chain = pointwise_chain(graph, tensor)
    return None if chain is None else _function(graph, tensor, chain.nodes, chain.result)


def pointwise_chain(graph: Graph, tensor: Tensor) -> Chain | None:
    """The nodes behind a tensor whose result alone is read by what isn't pointwise; None where there are none."""
    nodes: list[Node] = []
    known = {tensor: None}  # a dict, for its order
    while True:
        read_outside = [t for t in known if graph.is_output(t) or any(n not in nodes for n in graph.consumers(t))]
        if len(read_outside) == 1 and read_outside[0] is not tensor:
            return Chain(tuple(nodes), read_outside[0])
        step = next((n for t in known for n in graph.consumers(t) if n not in nodes and _is_pointwise(n, known)), None)
        if step is None or len(nodes) == _MOST_NODES:
            return None
        nodes.append(step)
        known[step.outputs[0]] = None


def _is_pointwise(node: Node, known: Collection[Tensor]) -> bool:
    """Whether each value of the result follows from the one of the tensor at its place."""
    if not node.is_op(*_POINTWISE) or len(node.present_outputs()) != 1:
        return False
    for _, operand in node.present_inputs():
        value = fixed_value(operand)
        if operand not in known and (value is None or value.size != 1):
            return False
    return True


def _function(graph: Graph, tensor: Tensor, nodes: tuple[Node, ...], result: Tensor) -> Response | None:
    dtype = tensor.dtype
    if dtype is None or dtype.kind != "f":
        return None

    def f(values: Values) -> Values:
        found: dict[Tensor, NDArray[np.generic]] = {tensor: values.astype(dtype)}
        for node in nodes:
            operands = [None if t.is_empty() else found[t] if t in found else _scalar(t) for t in node.inputs]
            found[node.outputs[0]] = compute(node, operands, graph.opset)[0]
        return found[result].astype(np.float64).reshape(values.shape)

    try:
        probe = f(np.linspace(-1.0, 1.0, 3))
    except NotEvaluableError:
        return None
    return f if np.isfinite(probe).all() else None


def _scalar(tensor: Tensor) -> NDArray[np.generic] | None:
    """A constant of one element, without axes: it may have any number of them."""
    value = fixed_value(tensor)
    return None if value is None else value.reshape(())
