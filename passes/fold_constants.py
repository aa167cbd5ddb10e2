"""Compute at compile time what doesn't depend on the model's inputs.

    c = Constant(); s = Shape(x: float[N,8,4]); d = Gather(s, 1); r = Reshape(y, Concat(N?, d))
                                            →      initializers c, d = 8; r = Reshape(y, [-1, 8])
    y = If(true) <then: a = Relu(x), else: b = Neg(x)>     →      y = Relu(x)

Shapes are followed axis by axis, so one unknown axis doesn't stop the others. A Reshape whose target is known but
for one axis gets −1 there, which means the same wherever the known ones aren't 0. A CastLike of known type becomes a
Cast, which is constant when what it casts is.

Declines: an output bigger than `max_bytes` and bigger than what it is made from; random operators; other domains;
strings and sequences; values that the caller may override (initializers that are inputs). QuantizeLinear and
DequantizeLinear are kept: folding them would give float weights back. A constant that is an output of the model stays
a Constant node, because several engines refuse an initializer as an output.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from graphopt.ir import Constant, Graph, Node, Tensor, fixed_value, is_fixed
from graphopt.ir.dtypes import onnx_dtype
from graphopt.ir.evaluate import evaluate, output_bytes
from graphopt.ir.inline import inline_body
from graphopt.ir.kernels import MOVES, NotEvaluableError
from graphopt.ir.operands import static_shape
from graphopt.ir.ops import QUANTIZE, is_plain_tensor, is_random
from graphopt.ir.shapes import infer
from graphopt.passes._reshape_target import is_number, reshape_target
from graphopt.passes.remove_dead import sweep
from graphopt.pipeline import Context, Pass

Array = NDArray[Any]

# Each round can decide shapes that were hidden behind those of the round before; models need one or two.
_ROUNDS = 8

_LITERALS: dict[str, np.dtype[Any]] = {
    "value_float": np.dtype(np.float32),
    "value_floats": np.dtype(np.float32),
    "value_int": np.dtype(np.int64),
    "value_ints": np.dtype(np.int64),
}


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Compute what doesn't depend on the inputs.

    `max_bytes`: a result bigger than this is kept as nodes, unless it is no bigger than the constants it replaces.
    """

    name: ClassVar[str] = "fold-constants"
    summary: ClassVar[str] = "compute what doesn't depend on the inputs: constants, known shapes, decided branches"
    lossless: ClassVar[bool] = True

    max_bytes: int = 1 << 20

    def run(self, graph: Graph, ctx: Context) -> None:
        """Fold in graph order, so that what a fold makes known is used by the nodes after it."""
        symbols = frozenset(d for t in graph.inputs for d in t.shape or () if isinstance(d, str))
        for _ in range(_ROUNDS):
            folder = _Folder(self.max_bytes, graph.opset, ctx, symbols)
            for scope in graph.walk():
                for node in scope.live_nodes():
                    folder.fold(scope, node)
            if not folder.decided_shapes:
                break
            # A Reshape target or a branch was decided: inference may see shapes now that it couldn't.
            graph.sort()
            infer(graph)


@dataclass
class _Folder:
    max_bytes: int
    opset: int
    ctx: Context
    input_symbols: frozenset[str]
    # Values of tensors that stay variables: Constant nodes at an output of the model.
    known: dict[Tensor, Array] = field(default_factory=dict[Tensor, Array])
    # Integer tensors known in part, an object array each: int where known, symbol (str) or None where not.
    partial: dict[Tensor, Array] = field(default_factory=dict[Tensor, Array])
    decided_shapes: bool = False

    def fold(self, graph: Graph, node: Node) -> None:
        """Fold one node if that can be done."""
        if node.is_op("CastLike"):
            node = self._cast_like(graph, node)
        if node.is_op("Constant"):
            self._constant_node(graph, node)
        elif node.is_op("Shape", "Size"):
            self._shape(graph, node)
        elif node.is_op("If"):
            self._if(graph, node)
        elif self._is_constant(node):
            self._evaluate(graph, node)
        elif node.is_op("Cast", *MOVES):
            self._follow(graph, node)

    def _value(self, tensor: Tensor) -> Array | None:
        return self.known[tensor] if tensor in self.known else fixed_value(tensor)

    def _is_constant(self, node: Node) -> bool:
        """Whether all inputs have a known value; none is loaded to tell."""
        present = node.present_inputs()
        return bool(present) and all(t in self.known or is_fixed(t) for _, t in present)

    def _constant_node(self, graph: Graph, node: Node) -> None:
        output = node.outputs[0]
        value = node.attr("value")
        literal = next((key for key in _LITERALS if key in node.attrs), None)
        if isinstance(value, Constant):
            # The TensorProto is handed over as it is, loaded or not.
            made = Constant(output.name, value.unloaded)
        elif literal:
            made = Constant(output.name, np.asarray(node.attrs[literal], _LITERALS[literal]))
        else:
            return  # a string or a sparse tensor
        if graph.is_output(output):
            self.known[output] = made.values
            return
        graph.adopt_constant(made)
        graph.replace_uses(output, made)
        graph.remove(node)
        self.ctx.remarks.applied(node, "made an initializer")

    def _shape(self, graph: Graph, node: Node) -> None:
        source = node.inputs[0]
        if source.shape is None or not is_plain_tensor(source):
            return
        dims = np.array([*source.shape, None], dtype=object)[:-1]  # the None keeps numpy from choosing a number type
        if node.op == "Size":
            known = static_shape(source.shape)
            if known is not None:
                self._replace(graph, node, [np.asarray(np.prod(known, dtype=np.int64))])
            return
        if node.outputs[0].dtype is None:
            graph.set_type(node.outputs[0], np.dtype(np.int64), node.outputs[0].shape)
        end = node.attr("end")
        self._know(graph, node, dims[node.attr("start", 0) : len(dims) if end is None else end])

    def _cast_like(self, graph: Graph, node: Node) -> Node:
        """The Cast that it amounts to: a CastLike reads an activation for its type alone, and so would hide that a
        bias or a bound of Clip is constant, and be a second reader of the activation.
        """
        dtype, output = node.inputs[1].dtype, node.outputs[0]
        if dtype is None or not is_plain_tensor(node.inputs[1]):
            return node
        cast = graph.add_node(
            "Cast",
            [node.inputs[0]],
            [graph.variable(output.name, dtype, output.shape)],
            {**node.attrs, "to": onnx_dtype(dtype)},
            hint=node.name,
        )
        if not graph.replace_uses(output, cast.outputs[0]):
            graph.remove(cast)
            return node
        graph.remove(node)
        self.ctx.remarks.applied(node, f"it is a Cast to {dtype}")
        return cast

    def _if(self, graph: Graph, node: Node) -> None:
        condition = self._value(node.inputs[0])
        if condition is None or condition.size != 1:
            return
        branch = "then_branch" if condition.reshape(-1)[0] else "else_branch"
        bodies = dict(node.bodies())
        if branch not in bodies:
            return
        self.decided_shapes = True
        self.ctx.remarks.applied(node, f"its condition is constant: {branch} took its place")
        for inner in inline_body(graph, node, bodies[branch]):
            if inner.scope is not None:
                self.fold(graph, inner)

    def _evaluate(self, graph: Graph, node: Node) -> None:
        if node.op in QUANTIZE or any(True for _ in node.bodies()):
            return
        if is_random(node, self.opset):
            self.ctx.remarks.declined(node, "it gives another value at each run")
            return
        inputs = [None if t.is_empty() else self._value(t) for t in node.inputs]
        allowed = max(self.max_bytes, sum(value.nbytes for value in inputs if value is not None))
        try:
            self._check_size(output_bytes(node, inputs), allowed)
            values = evaluate(node, inputs, self.opset)
            self._check_size(sum(value.nbytes for value in values), allowed)
        except NotEvaluableError as reason:
            self.ctx.remarks.declined(node, str(reason))
            return
        self._replace(graph, node, values)

    def _check_size(self, size: int | None, allowed: int) -> None:
        if size is not None and size > allowed:
            raise NotEvaluableError(f"its value takes {size:,} bytes, more than max_bytes={self.max_bytes:,}")

    def _follow(self, graph: Graph, node: Node) -> None:
        """Move what is known of a shape through a node; a Reshape to a partly known shape is decided here too."""
        if node.op == "Reshape" and len(node.inputs) > 1 and node.inputs[1] in self.partial:
            self._reshape_target(graph, node)
            return
        values = [self.partial.get(t) if t in self.partial else self._small_value(t) for t in node.inputs]
        # Only data may be known in part: every input of Concat, the first one of the others.
        parameters = [] if node.op == "Concat" else node.inputs[1:]
        if any(v is None for v in values) or any(t in self.partial for t in parameters):
            return
        if node.op == "Cast":
            # Sizes fit in 32 bits wherever a model casts them so; other types aren't sizes.
            if node.attr("to") in (TensorProto.INT32, TensorProto.INT64) and values[0] is not None:
                self._know(graph, node, values[0])
            return
        try:
            result = MOVES[node.op](node, values)
        except (NotEvaluableError, ValueError, IndexError):
            return  # the model is wrong here or the value is not a shape; whoever runs it will say so
        self._know(graph, node, result)

    def _small_value(self, tensor: Tensor) -> Array | None:
        """The value of a constant that may be part of a shape; weights aren't loaded for this."""
        if tensor in self.known or (isinstance(tensor, Constant) and tensor.nbytes <= 1024):
            return self._value(tensor)
        return None

    def _know(self, graph: Graph, node: Node, dims: Array) -> None:
        """Note the elements of an integer tensor; when all are numbers it is a constant."""
        dtype = node.outputs[0].dtype
        if dtype is not None and all(is_number(d) for d in dims.reshape(-1)):
            self._replace(graph, node, [dims.astype(dtype)])
        else:
            self.partial[node.outputs[0]] = dims

    def _reshape_target(self, graph: Graph, node: Node) -> None:
        """Write a partly known target out in numbers, where 0 and one −1 can stand for what isn't known."""
        if node.attr("allowzero", 0):
            return
        data, target = node.inputs
        dims = reshape_target(list(self.partial[target].reshape(-1)), data.shape or (), self.input_symbols)
        if dims is None:
            return
        before = list(target.inputs)
        graph.set_input(node, 1, graph.constant(np.array(dims, np.int64), f"{node.name}_shape"))
        sweep(before, self.ctx)
        self.decided_shapes = True
        self.ctx.remarks.applied(node, f"its shape input is {dims}")

    def _replace(self, graph: Graph, node: Node, values: list[Array]) -> None:
        for output, value in zip(node.present_outputs(), values, strict=True):
            self._bind(graph, output, value)
        before = [producer for t in node.inputs for producer in t.inputs]
        graph.remove(node)
        # A Shape that nobody reads any more would still be a second reader of what it looked at.
        sweep(before, self.ctx)
        described = ", ".join(f"{value.dtype}{list(value.shape)}" for value in values)
        self.ctx.remarks.applied(node, f"its value is constant: {described}")

    def _bind(self, graph: Graph, output: Tensor, value: Array) -> None:
        """Give the readers of `output` the constant `value`."""
        if not graph.is_output(output):
            made = graph.adopt_constant(Constant(output.name, value))
            # A parameter of a reader with an unknown shape may have been what inference lacked.
            self.decided_shapes |= any(_lacks_shape(reader) for reader in output.outputs)
            graph.replace_uses(output, made)
            return
        named = graph.variable(output.name, value.dtype, value.shape)
        graph.add_node("Constant", [], [named], {"value": Constant("", value)})
        graph.replace_uses(output, named)
        self.known[named] = value


def _lacks_shape(node: Node) -> bool:
    return any(t.shape is None or None in t.shape for t in node.present_outputs())
