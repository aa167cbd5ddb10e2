"""Copies of nodes with some of their values rounded, written into the float model beside the nodes themselves.

    x → Conv → Relu → y       with W rounded:      x → Conv′ → Relu′ → y′,   Σ y²,   Σ (y′ − y)²

A copy begins where the first value is rounded: what lies in front is read from the float model. So one run of one model
shows many sources of error, each by itself, and sums of squares inside the model leave nothing large to fetch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper
from onnxruntime import InferenceSession

from graphopt.calibration.instrument import unused_prefix
from graphopt.calibration.precision_sources import Rounding, Source
from graphopt.calibration.session import open_session
from graphopt.calibration.weights import Detached, stored
from graphopt.errors import UnsupportedError
from graphopt.ir.reads import reads
from graphopt.quant import QuantParams

_FLOAT_TYPES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
_CONTRIB = "com.microsoft"
# The first opset with 16-bit integers in Q/DQ; onnxruntime's own domain has them at any.
_INT16_OPSET = 21


class Copies:
    """A model that grows copies; those of one source after the other.

    Attributes:
        model: the model; what is written goes into it with `finished`.
        weights: its detached weights, and those of the copies.
    """

    def __init__(self, detached: Detached) -> None:
        """Start with a model without its outputs; `detached` isn't changed."""
        self.model = ModelProto()
        self.model.CopyFrom(detached.model)
        self.weights: dict[str, NDArray[Any]] = dict(detached.weights)
        del self.model.graph.output[:]
        self._prefix = unused_prefix(detached.model.graph)
        self._count = 0
        self._groups: list[list[NodeProto]] = [[]]
        self._rounded: dict[tuple[str, int], str] = {}
        self._stored: dict[int, str] = {}

    def copy(self, nodes: Sequence[NodeProto], source: Source) -> dict[str, str]:
        """Copy those of the nodes that the source changes anything for.

        Args:
            nodes: of the model, in graph order.
            source: what to round.

        Returns:
            Name of each tensor that may have other values → of what has them.
        """
        self._groups.append([])
        self._rounded, self._stored = {}, {}
        made = {name for node in nodes for name in node.output}
        names = {name: self.rounded(name, r) for name, r in source.results.items() if name not in made}
        for node in nodes:
            inputs = [self._read(node, index, names.get(name, name), source) for index, name in enumerate(node.input)]
            outputs: dict[str, str] = {}
            if inputs != list(node.input) or any(name in names for name in reads(node)):
                outputs = {name: self._fresh() for name in node.output if name}
                copy = renamed(node, names)
                copy.name = self._fresh()
                copy.input[:] = inputs
                copy.output[:] = [outputs.get(name, "") for name in node.output]
                self._groups[-1].append(copy)
            for name in node.output:
                if name in source.results:
                    outputs[name] = self.rounded(outputs.get(name, name), source.results[name])
            names |= outputs
        return names

    def measured(self, nodes: Sequence[NodeProto], source: Source) -> str:
        """What the source makes of the tensor at which its own loss is taken; `nodes` are the source's own."""
        names = self.copy(nodes, source)
        if nodes or source.measured in names:
            return names.get(source.measured, source.measured)
        return self.rounded(source.measured, source.coarsest)

    def rounded(self, tensor: str, rounding: Rounding) -> str:
        """The tensor, rounded."""
        key = tensor, id(rounding)
        if key not in self._rounded:
            self._rounded[key] = (
                self._to_float(tensor, rounding) if isinstance(rounding, str) else (self._on_grid(tensor, rounding))
            )
        return self._rounded[key]

    def squares(self, tensor: str) -> str:
        """The sum of a tensor's squares, which becomes an output."""
        found = self._node("ReduceSumSquare", [tensor], keepdims=0)
        self.output(found)
        return found

    def squared_difference(self, left: str, right: str) -> str:
        """The sum of the squares of what two tensors differ by, which becomes an output."""
        return self.squares(self._node("Sub", [left, right]))

    def output(self, tensor: str) -> None:
        """Make a tensor an output."""
        self.model.graph.output.append(ValueInfoProto(name=tensor))

    def finished(self) -> Detached:
        """The model with everything in it; nothing can be added any more."""
        # onnxruntime orders nodes by a search that begins at the last one: with the copies from the last to the first,
        # each runs right behind what it is compared with, which is freed then.
        for group in reversed(self._groups):
            self.model.graph.node.extend(group)
        return Detached(self.model, self.weights)

    def _read(self, node: NodeProto, index: int, name: str, source: Source) -> str:
        use = node.name, index
        if use in source.constants:
            return self._constant(source.constants[use])
        return self.rounded(name, source.reads[use]) if use in source.reads else name

    def _constant(self, values: NDArray[Any]) -> str:
        """An initializer, one for the same array; a large one lies beside the model."""
        if id(values) not in self._stored:
            name = self._stored[id(values)] = self._fresh()
            declared, detached = stored(name, values)
            self.model.graph.initializer.append(declared)
            self.weights |= detached
        return self._stored[id(values)]

    def _to_float(self, tensor: str, form: str) -> str:
        narrow = self._node("Cast", [tensor], to=_FLOAT_TYPES[form])
        return self._node("Cast", [narrow], to=TensorProto.FLOAT)

    def _on_grid(self, tensor: str, params: QuantParams) -> str:
        axis = {} if params.scheme.channel_axis is None else {"axis": params.scheme.channel_axis}
        domain = self._domain(params)
        operands = [self._constant(params.scale), self._constant(params.zero_point)]
        integers = self._node("QuantizeLinear", [tensor, *operands], domain, **axis)
        return self._node("DequantizeLinear", [integers, *operands], domain, **axis)

    def _domain(self, params: QuantParams) -> str:
        """Of Q/DQ for this type."""
        imports = {entry.domain: entry.version for entry in self.model.opset_import}
        if params.scheme.numpy.itemsize == 1 or max(imports.get(d, 0) for d in ("", "ai.onnx")) >= _INT16_OPSET:
            return ""
        if _CONTRIB not in imports:
            self.model.opset_import.append(helper.make_opsetid(_CONTRIB, 1))
        return _CONTRIB

    def _node(self, op: str, inputs: list[str], domain: str = "", **attributes: int) -> str:
        output = self._fresh()
        node = helper.make_node(op, inputs, [output], f"{output}_{op}", domain=domain)
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
        self._groups[-1].append(node)
        return output

    def _fresh(self) -> str:
        self._count += 1
        return f"{self._prefix}{self._count}"


def open_copies(model: Detached, *, threads: int | None) -> InferenceSession:
    """A session in which operators between Q/DQ compute in float.

    Raises:
        UnsupportedError: onnxruntime can't load the model.
    """
    try:
        return open_session(model, threads=threads, integers=False)
    except UnsupportedError:
        # It fuses Casts into a LayerNormalization of halves, for which its CPU has no kernel (1.31).
        return open_session(model, threads=threads, integers=False, optimize="basic")


def renamed(node: NodeProto, names: Mapping[str, str]) -> NodeProto:
    """A copy of a node whose nested graphs read other tensors from outside; its own inputs stay."""
    copy = NodeProto()
    copy.CopyFrom(node)
    for attribute in copy.attribute:
        for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            _rename(body, names)
    return copy


def _rename(body: GraphProto, names: Mapping[str, str]) -> None:
    """Let a nested graph read other tensors from outside, in place."""
    inside = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
    inside |= {output for node in body.node for output in node.output}
    outer = {name: new for name, new in names.items() if name not in inside}
    for node in body.node:
        node.input[:] = [outer.get(name, name) for name in node.input]
        node.CopyFrom(renamed(node, outer))
    for value in body.output:
        value.name = outer.get(value.name, value.name)
