"""Values of constants that stand beside a message instead of in it, so that graphs are made of it without copies."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from graphopt.ir.dtypes import onnx_dtype
from graphopt.ir.elements import Constant
from graphopt.ir.graph import Graph


class KeptValues:
    """Holds the values; a message says where they are, in the form of external data.

    It keeps them alive, whatever values the graph's own constants get.
    """

    def __init__(self) -> None:
        self._kept: list[Constant] = []

    def note(self, constant: Constant) -> onnx.TensorProto:
        """Keep the values; returns what stands for them in a message."""
        proto = onnx.TensorProto(
            name=constant.name,
            data_type=onnx_dtype(constant.dtype),
            dims=constant.shape,
            data_location=onnx.TensorProto.EXTERNAL,
        )
        proto.external_data.add(key="location", value=str(len(self._kept)))
        self._kept.append(Constant(constant.name, constant.unloaded))
        return proto

    def put_back(self, graph: Graph) -> None:
        """Give the constants of a graph that was made of such a message their values, without copying them."""
        for constant in _constants(graph):
            lazy = constant.lazy
            if lazy is not None and lazy.is_external:
                constant.values = self._kept[int(lazy.tensor.external_data[0].value)].unloaded


def _constants(graph: Graph) -> Iterator[Constant]:
    for scope in graph.walk():
        yield from scope.constants
        for node in scope.nodes:
            yield from (value for value in node.attrs.values() if isinstance(value, Constant))
