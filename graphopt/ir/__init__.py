"""The intermediate representation: a graph that owns its nodes and tensors, and the way to and from ONNX files."""

from graphopt.ir.dtypes import FLOAT_TYPES
from graphopt.ir.elements import Body, Constant, Dim, Extras, Node, Shape, Tensor, Variable, fixed_value, is_fixed
from graphopt.ir.facts import ModelFacts
from graphopt.ir.files import check_output_path
from graphopt.ir.from_proto import from_proto
from graphopt.ir.graph import Graph
from graphopt.ir.io import load, save
from graphopt.ir.printer import print_graph
from graphopt.ir.shapes import fill_types, infer
from graphopt.ir.to_proto import to_proto
from graphopt.ir.upgrade import upgrade_graph
from graphopt.ir.verifier import Violation, verify

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
    "Violation",
    "check_output_path",
    "fill_types",
    "fixed_value",
    "from_proto",
    "infer",
    "is_fixed",
    "load",
    "print_graph",
    "save",
    "to_proto",
    "upgrade_graph",
    "verify",
]
