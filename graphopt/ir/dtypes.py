"""Element types: ONNX's numbers for them, and numpy's (or ml_dtypes') names."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx

from graphopt.errors import LoadError

FLOAT_TYPES: frozenset[np.dtype[Any]] = frozenset(
    np.dtype(t) for t in (np.float16, np.float32, np.float64, ml_dtypes.bfloat16)
)


def numpy_dtype(elem_type: int) -> np.dtype[Any]:
    """The numpy (or ml_dtypes) type of an ONNX TensorProto.DataType; strings are object."""
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type))
    except KeyError:
        raise LoadError(f"element type {elem_type} isn't one that ONNX {onnx.__version__} defines") from None


def onnx_dtype(dtype: np.dtype[Any]) -> int:
    """The ONNX TensorProto.DataType of a numpy (or ml_dtypes) type."""
    return int(onnx.helper.np_dtype_to_tensor_dtype(dtype))
