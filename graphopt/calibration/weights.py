"""A model's weights beside its structure: the structure is copied and edited for nothing, the weights never.

onnxruntime takes weights as arrays that it reads in place (`SessionOptions.add_external_initializers`). A session of a
100 MB model opens three to four times faster that way than from the serialized model, and holds two copies less.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.field_mask_pb2 import FieldMask
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from graphopt.ir import Constant, Graph, to_proto
from graphopt.ir.protos import tensor_proto

# Smaller ones stay in the model: shapes and axes are among them, which inference and rewrites read.
_MIN_BYTES = 4096
# Types that numpy has itself, and so onnxruntime takes from it.
_TYPES = frozenset(
    {
        TensorProto.FLOAT,
        TensorProto.DOUBLE,
        TensorProto.FLOAT16,
        TensorProto.INT8,
        TensorProto.UINT8,
        TensorProto.INT16,
        TensorProto.INT32,
        TensorProto.INT64,
    }
)
_KINDS = {helper.tensor_dtype_to_np_dtype(kind): kind for kind in sorted(_TYPES)}
_STRUCTURE = FieldMask(
    paths=[field.name for field in ModelProto.DESCRIPTOR.fields if field.name != "graph"]
    + [f"graph.{field.name}" for field in GraphProto.DESCRIPTOR.fields if field.name != "initializer"]
)


@dataclass(frozen=True)
class Detached:
    """A model whose large initializers are only declared, as external data, and their values by name."""

    model: ModelProto
    weights: dict[str, NDArray[Any]]

    def content_hash(self) -> str:
        """SHA-256 (hex) of structure and weights."""
        digest = hashlib.sha256(self.model.SerializeToString(deterministic=True))
        for name, values in self.weights.items():
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()


def detach(model: ModelProto | Detached) -> Detached:
    """Take the large initializers of the main graph out of a model, which isn't changed; nothing, if they are out.

    Those that a caller may override (graph inputs), that lie in files already, or whose type numpy lacks, stay.
    """
    if isinstance(model, Detached):
        return model
    lean = ModelProto()
    _STRUCTURE.MergeMessage(model, lean)
    weights: dict[str, NDArray[Any]] = {}
    inputs = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        known = tensor.data_type in _TYPES and tensor.data_location != TensorProto.EXTERNAL
        if not known or tensor.name in inputs or tensor.ByteSize() < _MIN_BYTES:
            lean.graph.initializer.append(tensor)
            continue
        weights[tensor.name] = numpy_helper.to_array(tensor)
        lean.graph.initializer.append(_declared(tensor.name, tensor.data_type, tensor.dims))
    return Detached(lean, weights)


def detached(graph: Graph) -> Detached:
    """A graph as a model whose large weights are the graph's own arrays, not copies; `detach` says which."""
    weights: dict[str, NDArray[Any]] = {}
    own = {id(constant) for constant in graph.constants if not constant.is_input}

    def store(constant: Constant) -> TensorProto:
        kind = _KINDS.get(constant.dtype)
        if kind is None or id(constant) not in own or constant.nbytes < _MIN_BYTES:
            return tensor_proto(constant)
        # onnxruntime reads rows in place; of a transposed array it would be lent a copy, which it refuses.
        weights[constant.name] = np.ascontiguousarray(constant.values)
        return _declared(constant.name, kind, constant.shape)

    return Detached(to_proto(graph, store=store), weights)


def stored(name: str, values: NDArray[Any]) -> tuple[TensorProto, dict[str, NDArray[Any]]]:
    """A new initializer for a detached model, and its value by name where that lies beside it."""
    kind = _KINDS.get(values.dtype)
    if kind is None or values.nbytes < _MIN_BYTES:
        return numpy_helper.from_array(values, name), {}
    return _declared(name, kind, values.shape), {name: np.ascontiguousarray(values)}


def _declared(name: str, kind: int, shape: Iterable[int]) -> TensorProto:
    """An initializer without its values. onnxruntime wants a place, and never looks there: it is given the values."""
    declared = TensorProto(name=name, data_type=kind, dims=shape, data_location=TensorProto.EXTERNAL)
    declared.external_data.add(key="location", value="weights")
    return declared
