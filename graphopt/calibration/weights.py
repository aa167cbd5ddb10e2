"""A model's weights beside its structure: the structure is copied and edited for nothing, the weights never.

onnxruntime takes weights as arrays that it reads in place (`SessionOptions.add_external_initializers`). A session of a
100 MB model opens three to four times faster that way than from the serialized model, and holds two copies less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, numpy_helper

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
_STRUCTURE = FieldMask(
    paths=[field.name for field in ModelProto.DESCRIPTOR.fields if field.name != "graph"]
    + [f"graph.{field.name}" for field in GraphProto.DESCRIPTOR.fields if field.name != "initializer"]
)


@dataclass(frozen=True)
class Detached:
    """A model whose large initializers are only declared, as external data, and their values by name."""

    model: ModelProto
    weights: dict[str, NDArray[Any]]


def detach(model: ModelProto) -> Detached:
    """Take the large initializers of the main graph out of a model, which isn't changed.

    Those that a caller may override (graph inputs), that lie in files already, or whose type numpy lacks, stay.
    """
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
        declared = lean.graph.initializer.add(
            name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, data_location=TensorProto.EXTERNAL
        )
        # onnxruntime wants a place, and never looks there: it is given the values.
        declared.external_data.add(key="location", value="weights")
    return Detached(lean, weights)
