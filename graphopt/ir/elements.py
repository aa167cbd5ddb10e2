"""Nodes and tensors: onnx-graphsurgeon's, compared by identity and keeping what its own importer drops.

onnx-graphsurgeon compares nodes deeply and tensors by name, which makes `list.remove`, `in` and dict keys slow
(18 ms a call at 5,000 nodes) or impossible. The subclasses here compare and hash by identity. They also carry
doc strings, metadata and full types (sequence, optional, map, sparse) from the file to the output.

Read freely; change only through `Graph`, so that its revision counter tells whether anything changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx_graphsurgeon.ir.tensor import LazyValues

from graphopt.ir.stored import LazyConstant

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph

Dim: TypeAlias = int | str | None
Shape: TypeAlias = tuple[Dim, ...]


@dataclass
class Extras:
    """What an ONNX file says about a value or node besides its computation; kept and written back."""

    doc_string: str = ""
    metadata: dict[str, str] = field(default_factory=dict[str, str])


class Variable(gs.Variable):
    """A tensor that is known at run time only.

    Attributes:
        dtype: numpy dtype of the elements, or None when unknown or not a tensor.
        shape: a tuple of int (known), str (symbol) or None (unknown) per axis; None when the rank is unknown.
        type_proto: the full type when it isn't a plain tensor (sequence, optional, map, sparse), else None.
        inputs: the producing node, in a list of at most one.
        outputs: the consuming nodes, once per use, nodes of nested graphs included.
        scope: the graph that it belongs to.
    """

    inputs: list[Node]
    outputs: list[Node]
    scope: Graph
    dtype: np.dtype[Any] | None
    shape: Shape | None
    type_proto: onnx.TypeProto | None
    extras: Extras

    def __init__(
        self,
        name: str,
        dtype: np.dtype[Any] | None = None,
        shape: Sequence[Dim] | None = None,
        type_proto: onnx.TypeProto | None = None,
    ) -> None:
        super().__init__(name, dtype, None if shape is None else tuple(shape))
        self.type_proto = type_proto
        self.extras = Extras()

    __eq__ = object.__eq__
    __hash__ = object.__hash__


class Constant(gs.Constant):
    """A tensor whose value is in the model: an initializer.

    `is_input` marks an initializer that the file also lists as a graph input (a default the caller may override),
    so its value must not be baked in.
    """

    inputs: list[Node]
    outputs: list[Node]
    scope: Graph
    is_input: bool
    extras: Extras

    def __init__(self, name: str, values: NDArray[Any] | LazyValues) -> None:
        super().__init__(name, values)
        self.is_input = False
        self.extras = Extras()

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions."""
        return tuple(int(d) for d in self._values.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The element type."""
        return self._values.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the unpacked values; nothing is loaded to tell."""
        return int(self._values.nbytes)

    @property
    def unloaded(self) -> NDArray[Any] | LazyValues:
        """The values as they are stored; looking at `values` instead would load lazy ones, and keep them."""
        return self._values

    @property
    def lazy(self) -> LazyConstant | None:
        """The values still in their TensorProto, or None once they were loaded or replaced."""
        return self._values if isinstance(self._values, LazyConstant) else None

    __eq__ = object.__eq__
    __hash__ = object.__hash__


Tensor: TypeAlias = Variable | Constant


def is_fixed(tensor: Tensor | None) -> TypeGuard[Constant]:
    """Whether it is an initializer whose value the caller of the model can't override."""
    return isinstance(tensor, Constant) and not tensor.is_input


def fixed_value(tensor: Tensor | None) -> NDArray[Any] | None:
    """The value of an initializer that the caller of the model can't override, else None.

    Read-only: copy before changing. `Graph.set_values` or a new constant changes a model.
    """
    return tensor.values if is_fixed(tensor) else None


class Node(gs.Node):
    """One operation.

    Attributes:
        op: operator name. `domain` is "" for the standard operators.
        attrs: attribute name → int, float, str, bytes, list, Constant (tensor), Body (nested graph), or the
            AttributeProto itself for kinds that have no simple Python form.
        inputs, outputs: tensors by position; an omitted optional one is an empty Variable (name "").
        overload: IR 10 function overload, usually "".
        scope: the graph that holds it; None once it was removed.
        device_configurations: how a file of IR 11 and newer spreads it over devices; carried through.
    """

    inputs: list[Tensor]
    outputs: list[Variable]
    domain: str
    overload: str
    scope: Graph | None
    extras: Extras
    device_configurations: list[onnx.NodeDeviceConfigurationProto]

    def __init__(
        self,
        op: str,
        name: str,
        attrs: dict[str, Any] | None = None,
        inputs: Sequence[Tensor] = (),
        outputs: Sequence[Variable] = (),
        domain: str = "",
        overload: str = "",
    ) -> None:
        super().__init__(op, name, attrs, list(inputs), list(outputs), domain)
        self.overload = overload
        self.scope = None
        self.extras = Extras()
        self.device_configurations = []

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def is_standard(self) -> bool:
        """Whether this is an operator of the default ONNX domain."""
        return self.domain in ("", "ai.onnx")

    def is_op(self, *ops: str) -> bool:
        """Whether this is one of the named standard operators."""
        return self.is_standard and self.op in ops

    def input(self, index: int) -> Tensor | None:
        """Input `index`, or None when it is omitted."""
        if index >= len(self.inputs) or self.inputs[index].is_empty():
            return None
        return self.inputs[index]

    def output(self, index: int = 0) -> Variable:
        """Output `index`; it must exist."""
        return self.outputs[index]

    def present_inputs(self) -> list[tuple[int, Tensor]]:
        """(index, tensor) of each input that isn't omitted."""
        return [(i, t) for i, t in enumerate(self.inputs) if not t.is_empty()]

    def present_outputs(self) -> list[Variable]:
        """Outputs that aren't omitted."""
        return [t for t in self.outputs if not t.is_empty()]

    def attr(self, name: str, default: Any = None) -> Any:
        """Attribute value, or `default` when it is absent."""
        return self.attrs.get(name, default)

    def bodies(self) -> Iterator[tuple[str, Graph]]:
        """(attribute name, nested graph) of an If, Loop, Scan or SequenceMap."""
        for name, value in self.attrs.items():
            if isinstance(value, Body):
                yield name, value.graph

    def __str__(self) -> str:
        return f"{self.op} '{self.name}'"

    __repr__ = __str__


class Body(gs.Graph):
    """The gs.Graph that a `Graph` owns; as an attribute value it is a nested graph, and `graph` leads to its owner."""

    graph: Graph
