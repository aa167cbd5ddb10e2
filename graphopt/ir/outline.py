"""What a graph looks like at one moment, as plain data: what differences, histories and pages are made from.

Values aren't copied: a constant is known by the array that it holds. `Graph` never changes an array in place, so two
outlines of one graph agree on a constant as long as nobody has given it other values. An outline keeps the arrays of
its moment alive.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray
from onnx_graphsurgeon.ir.tensor import LazyValues

from graphopt.ir.elements import Body, Constant, Node, Tensor, Variable
from graphopt.ir.graph import Graph
from graphopt.ir.printer import attribute_text
from graphopt.ir.tensor_types import type_text


@dataclass(frozen=True)
class NodeOutline:
    """A node.

    Attributes:
        name: unique in the model.
        op: its operator, with the domain where that isn't the standard one.
        scope: names of the nodes whose bodies it is in, outermost first.
        inputs: names of tensors; "" where one is left out.
        outputs: likewise.
        attributes: name → value as text, nested graphs left out.
    """

    name: str
    op: str
    scope: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, str]


@dataclass(frozen=True)
class ConstantOutline:
    """A constant.

    Attributes:
        name: unique in the model.
        type: element type and shape, as text.
        nbytes: of its values.
        values: the array, or what it will be loaded from.
    """

    name: str
    type: str
    nbytes: int
    values: NDArray[Any] | LazyValues = field(compare=False, repr=False)


@dataclass(frozen=True)
class Outline:
    """A model.

    Attributes:
        nodes: by name, in the model's order, nested ones behind the node that they are in.
        constants: by name.
        types: of the other tensors, by name, as text.
        inputs: names of the model's inputs.
        outputs: names of its outputs.
    """

    nodes: Mapping[str, NodeOutline]
    constants: Mapping[str, ConstantOutline]
    types: Mapping[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def outline(graph: Graph) -> Outline:
    """The outline of a graph as it is now; linear in nodes, whatever the size of the values."""
    nodes = {node.name: node for node in _nodes(graph, ())}
    constants: dict[str, ConstantOutline] = {}
    types: dict[str, str] = {}
    for scope in graph.walk():
        made = (t for node in scope.nodes for t in node.present_outputs())
        for tensor in (*scope.inputs, *made):
            types[tensor.name] = _type(tensor)
        for constant in scope.constants:
            constants[constant.name] = ConstantOutline(
                constant.name, _type(constant), constant.nbytes, constant.unloaded
            )
    return Outline(nodes, constants, types, tuple(t.name for t in graph.inputs), tuple(t.name for t in graph.outputs))


def _nodes(graph: Graph, scope: tuple[str, ...]) -> Iterator[NodeOutline]:
    for node in graph.nodes:
        yield _node(node, scope)
        for _, body in node.bodies():
            yield from _nodes(body, (*scope, node.name))


def _node(node: Node, scope: tuple[str, ...]) -> NodeOutline:
    return NodeOutline(
        node.name,
        f"{node.domain}::{node.op}" if node.domain else node.op,
        scope,
        tuple("" if t.is_empty() else t.name for t in node.inputs),
        tuple("" if t.is_empty() else t.name for t in node.outputs),
        {k: attribute_text(v) for k, v in sorted(node.attrs.items()) if not isinstance(v, Body)},
    )


def _type(tensor: Tensor) -> str:
    if isinstance(tensor, Constant):
        return type_text(tensor.dtype, tensor.shape)
    assert isinstance(tensor, Variable)
    return type_text(tensor.dtype, tensor.shape, tensor.type_proto)
