"""Give nodes another floating-point type, with Casts where the type changes.

    x: f32 → A: f16 → B: f32 → y        →        x → Cast → A → Cast → B → y

A tensor is stored in the type of what makes it, and cast once for all readers that want the other. Constants are
converted instead of cast. What nested graphs read stays float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphopt.ir import Constant, Graph, Node, Tensor, Variable, is_fixed
from graphopt.ir.dtypes import onnx_dtype
from graphopt.ir.float_parameters import FloatParameters

_FLOAT32 = np.dtype(np.float32)


def insert_casts(graph: Graph, low: Mapping[Node, FloatParameters], dtype: np.dtype[Any], *, keep_io: bool) -> int:
    """Let the nodes `low` compute in `dtype`; returns how many Casts that took.

    Args:
        graph: types filled in; sorted again afterwards.
        low: the nodes, with the parameters that have their type.
        dtype: float16 or bfloat16.
        keep_io: inputs and outputs of the model stay float32; else they become `dtype`.
    """
    islands = _Islands(graph, low, dtype)
    islands.retype(keep_io)
    islands.connect()
    graph.sort()
    return len(islands.casts)


class _Islands:
    def __init__(self, graph: Graph, low: Mapping[Node, FloatParameters], dtype: np.dtype[Any]) -> None:
        self.graph, self.low, self.dtype = graph, low, dtype
        self._copies: dict[tuple[Tensor, np.dtype[Any]], Tensor] = {}
        self.casts: set[Node] = set()
        made = (tensor for node in graph.nodes for tensor in node.present_outputs())
        self._floats = [tensor for tensor in (*graph.inputs, *made) if tensor.dtype == _FLOAT32]
        self._constants = [c for c in graph.constants if c.dtype == _FLOAT32]

    def retype(self, keep_io: bool) -> None:
        """State each variable's new type; a model's output of the other type gets a Cast of its own."""
        graph = self.graph
        if not keep_io:
            for tensor in graph.inputs:
                if tensor.dtype == _FLOAT32:
                    graph.set_type(tensor, self.dtype, tensor.shape)
        for node, parameters in self.low.items():
            for position in sorted(parameters.outputs):
                tensor = node.outputs[position]
                graph.set_type(tensor, self.dtype, tensor.shape)
        wanted = _FLOAT32 if keep_io else self.dtype
        for tensor in dict.fromkeys(graph.outputs):
            is_float = isinstance(tensor, Variable) and tensor.dtype in (_FLOAT32, self.dtype)
            if is_float and tensor.inputs and tensor.dtype != wanted:
                self._before_output(tensor, wanted)

    def connect(self) -> None:
        """Let every use read its type."""
        for tensor in [*self._floats, *self._constants]:
            for node, index in self.graph.uses(tensor):
                wanted = self._wanted(node, index)
                if wanted is not None and wanted != tensor.dtype:
                    self.graph.set_input(node, index, self._as(tensor, wanted))

    def _wanted(self, node: Node, index: int) -> np.dtype[Any] | None:
        """The type that a use of a float32 tensor takes; None for the Casts that are put in here."""
        if node in self.casts:
            return None
        parameters = self.low.get(node)
        return self.dtype if parameters is not None and index in parameters.inputs else _FLOAT32

    def _as(self, tensor: Tensor, dtype: np.dtype[Any]) -> Tensor:
        key = (tensor, dtype)
        if key not in self._copies:
            if is_fixed(tensor):
                self._copies[key] = self._converted(tensor, dtype)
            else:
                made = self.graph.variable(f"{tensor.name}_{dtype}", dtype, tensor.shape)
                self._copies[key] = made
                self._cast(tensor, made)
        return self._copies[key]

    def _converted(self, constant: Constant, dtype: np.dtype[Any]) -> Constant:
        return self.graph.constant(constant.values.astype(dtype), f"{constant.name}_{dtype}")

    def _before_output(self, output: Variable, wanted: np.dtype[Any]) -> None:
        """The node makes a tensor of its own type, which a Cast turns into the model's output."""
        node = output.inputs[0]
        inner = self.graph.variable_like(output)
        node.outputs[next(i for i, t in enumerate(node.outputs) if t is output)] = inner
        self.graph.set_type(output, wanted, output.shape)
        made = inner.dtype
        assert made is not None
        self._copies[inner, wanted] = output
        self._copies[output, made] = inner
        self._cast(inner, output)
        for reader, index in self.graph.uses(output):
            if self._wanted(reader, index) == made:
                self.graph.set_input(reader, index, inner)

    def _cast(self, tensor: Tensor, made: Variable) -> None:
        assert made.dtype is not None
        self.casts.add(self.graph.add_node("Cast", [tensor], [made], {"to": onnx_dtype(made.dtype)}))
