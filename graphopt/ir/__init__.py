"""The intermediate representation: a graph that owns its nodes and tensors, and the way to and from ONNX files."""

from graphopt.ir.elements import FLOAT_TYPES, Body, Constant, Dim, Extras, Node, Shape, Tensor, Variable
from graphopt.ir.from_proto import from_proto
from graphopt.ir.graph import Graph, ModelFacts
from graphopt.ir.to_proto import to_proto

__all__ = [
    "FLOAT_TYPES",
    "Body",
    "Constant",
    "Dim",
    "Extras",
    "Graph",
    "ModelFacts",
    "Node",
    "Shape",
    "Tensor",
    "Variable",
    "from_proto",
    "to_proto",
]
