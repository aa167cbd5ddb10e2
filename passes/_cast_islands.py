"""Give nodes another floating-point type, with Casts where the type changes.

    x: f32 → A: f16 → B: f32 → y        →        x → Cast → A → Cast → B → y

A tensor is stored in the type of what makes it, and cast once for all readers that want the other. Constants are
converted instead of cast. What nested graphs read stays float32.

TensorRT-RTX fuses Cast → Conv: f32 → Cast into a convolution whose operands are 16 bits wide, its weights too: those
beyond float16 become infinite (`analysis.precision.lone_layers`). A Clip without bounds in front of the second Cast
prevents that, and is computed where the Cast is, so that it costs nothing:

    x: f16 → Cast → Conv: f32 → Cast → y      →      x: f16 → Cast → Conv: f32 → Clip → Cast → y
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.analysis.precision.lone_layers import lone_layer
from graphopt.ir import Constant, Graph, Node, Tensor, Variable, is_fixed
from graphopt.ir.dtypes import onnx_dtype
from graphopt.ir.float_parameters import FloatParameters

_FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True)
class Inserted:
    """What `insert_casts` did.

    Attributes:
        casts: how many there are at the borders.
        shielded: float32 nodes that a Clip keeps so.
    """

    casts: int
    shielded: tuple[Node, ...]


def insert_casts(
    graph: Graph, low: Mapping[Node, FloatParameters], dtype: np.dtype[Any], *, keep_io: bool, shielded: bool
) -> Inserted:
    """Let the nodes `low` compute in `dtype`.

    Args:
        graph: types filled in; sorted again afterwards.
        low: the nodes, with the parameters that have their type.
        dtype: float16 or bfloat16.
        keep_io: inputs and outputs of the model stay float32; else they become `dtype`.
        shielded: a linear node that would be alone between two Casts gets a Clip (`Target.fuses_casts`).
    """
    islands = _Islands(graph, low, dtype)
    islands.retype(keep_io)
    islands.connect()
    alone = islands.shield() if shielded else []
    graph.sort()
    return Inserted(len(islands.casts), tuple(alone))


class _Islands:
    def __init__(self, graph: Graph, low: Mapping[Node, FloatParameters], dtype: np.dtype[Any]) -> None:
        self.graph, self.low, self.dtype = graph, low, dtype
        self._copies: dict[tuple[Tensor, np.dtype[Any]], Tensor] = {}
        self.casts: dict[Node, None] = {}
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

    def shield(self) -> list[Node]:
        """Put a Clip between each linear node that reads what was cast from the type, and its Cast back to it."""
        found: dict[Node, None] = {}
        for cast in self.casts:
            node = lone_layer(self.graph, cast)
            if node is not None:
                source = cast.inputs[0]
                clipped = self.graph.variable_like(source)
                self.graph.add_node("Clip", [source], [clipped], hint=f"{node.name}_stays_{_FLOAT32}")
                self.graph.set_input(cast, 0, clipped)
                found[node] = None
        return list(found)

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
        self.casts[self.graph.add_node("Cast", [tensor], [made], {"to": onnx_dtype(made.dtype)})] = None
