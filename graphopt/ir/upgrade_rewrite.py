"""What takes the place of one node of an old opset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from graphopt.ir.elements import Node


@dataclass
class Rewrite:
    """Nodes that compute the same as one old node, in order.

    Tensors are named by position: the old node's inputs are i0, i1, …, its outputs o0, o1, …; other names are local.
    A node of the old node's operator takes over its nested graphs.
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list[onnx.NodeProto])
    constants: list[onnx.TensorProto] = field(default_factory=list[onnx.TensorProto])

    def add(self, op: str, inputs: Sequence[str], output: str, **attrs: Any) -> str:
        """Append a node; returns its output's name."""
        self.nodes.append(helper.make_node(op, inputs, [output], **attrs))
        return output

    def constant(self, values: NDArray[Any], name: str) -> str:
        """Add a constant; returns its name."""
        self.constants.append(numpy_helper.from_array(values, name))
        return name


Rule = Callable[[Node], Rewrite]
"""What computes the same as a node in a newer opset; raises UnsupportedError where nothing does."""
