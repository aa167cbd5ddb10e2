"""Values as a file has them: read when they are first asked for, and checked before."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx_graphsurgeon.ir.tensor import LazyValues

from graphopt.errors import LoadError
from graphopt.ir import external
from graphopt.ir.dtypes import numpy_dtype


def loaded(values: NDArray[Any] | LazyValues) -> NDArray[Any]:
    """The array; lazy values are looked at, and stay lazy where they are kept."""
    return values if isinstance(values, np.ndarray) else values.load()


class LazyConstant(LazyValues):
    """Constant values still in their TensorProto; external data is read when first asked for.

    `base_dir` is the folder that external locations are relative to.
    """

    def __init__(self, tensor: onnx.TensorProto, base_dir: str = "") -> None:
        # LazyValues.__init__ rejects types it has no item size for; everything is computed here.
        self.tensor = tensor
        self.base_dir = base_dir
        self.shape: tuple[int, ...] = tuple(tensor.dims)
        self.dtype = numpy_dtype(tensor.data_type)
        self.nbytes = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def is_external(self) -> bool:
        """Whether the bytes are in another file."""
        return self.tensor.data_location == onnx.TensorProto.EXTERNAL

    def check(self) -> None:
        """Make sure that `load` will find as many values as the shape needs; cheap, the values aren't converted.

        Raises:
            LoadError: it won't.
        """
        tensor = self.tensor
        if self.is_external:
            external.locate(tensor, self.base_dir)
            return
        elements = math.prod(self.shape)
        if tensor.HasField("raw_data"):
            unit, found, needed = "bytes", len(tensor.raw_data), external.stored_bytes(tensor.data_type, elements)
        elif external.is_packed(tensor.data_type):
            return  # how many to an int32_data item is numpy_helper's business
        else:
            values = getattr(tensor, onnx.helper.tensor_dtype_to_field(tensor.data_type))
            per_element = 2 if self.dtype.kind == "c" else 1
            unit, found, needed = "values", len(values), elements * per_element
        if found != needed:
            raise LoadError(
                f"tensor '{tensor.name}' of shape {list(self.shape)} needs {needed} {unit}, and the file has {found}; "
                "it is damaged: export the model again"
            )

    def load(self) -> NDArray[Any]:
        """The values as a read-only numpy array of exactly this shape; external data is memory-mapped.

        Raises:
            LoadError: the values don't fit the shape, or the external file is gone.
        """
        tensor = self.tensor
        if self.is_external:
            raw = external.memory_map(tensor, self.base_dir)
            if sys.byteorder == "little" and not external.is_packed(tensor.data_type):
                return raw.view(self.dtype).reshape(self.shape)
            tensor = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=raw.tobytes())
        try:
            return np.asarray(numpy_helper.to_array(tensor)).reshape(self.shape)
        except ValueError as error:
            raise LoadError(
                f"tensor '{self.tensor.name}': its values don't fit its type and shape {list(self.shape)} ({error}); "
                "the file is damaged: export the model again"
            ) from None


class SparseConstant(LazyValues):
    """A sparse initializer; dense values are made when first asked for, and then stay dense."""

    def __init__(self, sparse: onnx.SparseTensorProto) -> None:
        self.sparse = sparse
        self.shape: tuple[int, ...] = tuple(sparse.dims)
        self.dtype = numpy_dtype(sparse.values.data_type)
        self.nbytes = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def load(self) -> NDArray[Any]:
        """The dense array; both index layouts of SparseTensorProto: linear [NNZ] and coordinates [NNZ, rank]."""
        dense = np.zeros(self.shape, self.dtype)
        indices = numpy_helper.to_array(self.sparse.indices)
        linear = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), self.shape)
        dense.reshape(-1)[linear] = numpy_helper.to_array(self.sparse.values)
        return dense
