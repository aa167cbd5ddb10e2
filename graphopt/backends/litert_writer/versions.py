"""The version of each operator that an interpreter must know, and the first LiteRT that knows it.

A version tells an older runtime that it can't run the operator as it is used here. Facts from TensorFlow's
tensorflow/lite/tools/versioning (op_version.cc, runtime_version.cc), for the types and forms that the writer emits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from graphopt.backends.litert_writer.flat import FlatOperator, FlatTensor

_INT8, _INT16 = np.dtype(np.int8), np.dtype(np.int16)

# Operators whose int8 form has another version than the float one.
_INT8_VERSIONS: dict[str, int] = {
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "TILE", "BROADCAST_TO", "CAST", "REVERSE_V2", "FILL"), 3),
    **dict.fromkeys(("ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "ABS", "EXP", "LOG", "RSQRT", "GELU"), 2),
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D", "MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"), 2),
    **dict.fromkeys(("CONCATENATION", "GATHER", "PAD", "PADV2", "MIRROR_PAD", "SPLIT", "SPLIT_V", "STRIDED_SLICE"), 2),
    **dict.fromkeys(("TRANSPOSE", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH", "RESIZE_BILINEAR"), 2),
    **dict.fromkeys(("RESIZE_NEAREST_NEIGHBOR", "LOGISTIC", "TANH", "SOFTMAX", "LOG_SOFTMAX", "RELU", "RELU6"), 2),
    **dict.fromkeys(("ARG_MAX", "ARG_MIN", "EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL"), 2),
    **dict.fromkeys(("BATCH_MATMUL", "DEQUANTIZE", "SQUARED_DIFFERENCE"), 2),
}
# Those of 16-bit activations. op_version.cc asks for weights of 16 bits before it gives the matrix products the version
# that brought them, which no such operator has.
_INT16_VERSIONS: dict[str, int] = {
    "FULLY_CONNECTED": 7,
    **dict.fromkeys(("DEPTHWISE_CONV_2D", "SUB", "TRANSPOSE"), 5),
    **dict.fromkeys(
        ("CONV_2D", "GATHER", "MAXIMUM", "MINIMUM", "MUL", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), 4
    ),
    "SPLIT": 4,
    **dict.fromkeys(("ADD", "AVERAGE_POOL_2D", "BATCH_MATMUL", "BROADCAST_TO", "CONCATENATION", "DEQUANTIZE"), 3),
    **dict.fromkeys(("LOGISTIC", "MAX_POOL_2D", "MEAN", "MIRROR_PAD", "PAD", "PADV2", "REDUCE_MAX", "REDUCE_MIN"), 3),
    **dict.fromkeys(("RELU", "RELU6", "SOFTMAX", "TANH", "TRANSPOSE_CONV"), 3),
    **dict.fromkeys(("LEAKY_RELU", "QUANTIZE"), 2),
}
_FLOAT16_VERSIONS: dict[str, int] = {"DEQUANTIZE": 3}
_VERSIONS: dict[np.dtype[Any], dict[str, int]] = {
    _INT8: _INT8_VERSIONS,
    _INT16: _INT16_VERSIONS,
    np.dtype(np.float16): _FLOAT16_VERSIONS,
}
# The tensor that decides: SPLIT and TRANSPOSE_CONV have a parameter first.
_DATA = {"SPLIT": 1, "TRANSPOSE_CONV": 2}
# (operator, version) → the first runtime with it. What isn't here has 1.14.0 at the latest.
_RUNTIME: dict[tuple[str, int], str] = {
    ("ABS", 2): "2.4.0", ("BATCH_MATMUL", 1): "2.3.0", ("BATCH_MATMUL", 2): "2.3.0", ("BROADCAST_TO", 2): "2.5.0",
    ("BROADCAST_TO", 3): "2.5.0", ("CAST", 3): "2.8.0", ("CONV_2D", 6): "2.9.0", ("CUMSUM", 1): "2.4.0",
    ("DEPTH_TO_SPACE", 1): "2.1.0", ("DEPTH_TO_SPACE", 2): "2.5.0", ("EXP", 2): "2.12.0", ("LOG", 2): "2.12.0",
    ("FULLY_CONNECTED", 5): "2.0.0", ("FULLY_CONNECTED", 6): "2.1.0", ("GELU", 1): "2.9.0", ("GELU", 2): "2.9.0",
    ("HARD_SWISH", 1): "1.15.0", ("LEAKY_RELU", 1): "1.13.1", ("MAXIMUM", 3): "2.3.0", ("MINIMUM", 3): "2.3.0",
    ("MUL", 3): "1.15.0", ("PAD", 4): "2.6.0", ("PADV2", 4): "2.6.0", ("RELU", 2): "2.1.0",
    ("RESIZE_BILINEAR", 3): "2.2.0", ("RESIZE_NEAREST_NEIGHBOR", 3): "2.3.0", ("RSQRT", 2): "2.5.0",
    ("SELECT_V2", 1): "2.2.0", ("SIGN", 1): "2.12.0", ("STRIDED_SLICE", 4): "2.2.0", ("SUB", 3): "2.3.0",
    ("DIV", 2): "2.3.0", ("SUM", 2): "1.15.0", ("TILE", 3): "2.8.0", ("TRANSPOSE", 4): "2.3.0",
    ("TRANSPOSE", 6): "2.12.0", ("TRANSPOSE_CONV", 2): "2.2.0", ("TRANSPOSE_CONV", 3): "2.3.0",
    ("TRANSPOSE_CONV", 4): "2.13.0", ("MIRROR_PAD", 2): "2.3.0", ("QUANTIZE", 1): "1.14.0",
    ("SPLIT_V", 2): "2.3.0", ("CONV_2D", 8): "2.15.0", ("FULLY_CONNECTED", 11): "2.15.0",
    ("TRANSPOSE_CONV", 5): "2.15.0",
}  # fmt: skip
# The first runtime → operators, of the versions of 16-bit activations; DEQUANTIZE of float16 has the same one.
_RUNTIME_16_BITS: dict[str, tuple[str, ...]] = {
    "1.15.0": ("DEQUANTIZE", "QUANTIZE"),
    "2.3.0": (
        *("AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "LEAKY_RELU"),
        *("LOGISTIC", "MAXIMUM", "MAX_POOL_2D", "MINIMUM", "MUL", "SOFTMAX", "SPLIT", "TANH", "TRANSPOSE_CONV"),
    ),
    "2.4.0": ("ADD", "BATCH_MATMUL", "GATHER", "MEAN", "PAD", "PADV2", "RESIZE_NEAREST_NEIGHBOR", "SUB", "TRANSPOSE"),
    "2.5.0": ("BROADCAST_TO", "REDUCE_MAX", "REDUCE_MIN", "RELU", "RELU6", "RESIZE_BILINEAR"),
    "2.12.0": ("MIRROR_PAD",),
}
_FIRST = _RUNTIME | {(k, _INT16_VERSIONS[k]): first for first, kinds in _RUNTIME_16_BITS.items() for k in kinds}
_OLDEST = "1.14.0"


def operator_version(operator: FlatOperator, tensors: Sequence[FlatTensor]) -> int:
    """The version that the operator's types, ranks and options need."""
    decides = operator.outputs[0] if operator.kind == "QUANTIZE" else operator.inputs[_DATA.get(operator.kind, 0)]
    data = tensors[decides]
    base = _VERSIONS.get(data.dtype, {}).get(operator.kind, 1)
    rule = _RULES.get(operator.kind)
    return base if rule is None else rule(operator, [tensors[i] for i in operator.inputs if i >= 0], base)


def minimum_runtime(codes: Iterable[tuple[str, int]]) -> str:
    """The first runtime version that has all of them."""
    needed = [_FIRST.get(code, _OLDEST) for code in codes]
    return max([_OLDEST, *needed], key=lambda text: tuple(int(part) for part in text.split(".")))


def _conv(operator: FlatOperator, inputs: Sequence[FlatTensor], base: int) -> int:
    if operator.options.get("quantizedBiasType"):
        return 8
    return 6 if inputs[0].shape[-1] != inputs[1].shape[-1] else base


def _depthwise(operator: FlatOperator, inputs: Sequence[FlatTensor], base: int) -> int:
    options = operator.options
    dilated = options.get("dilationHFactor", 1) != 1 or options.get("dilationWFactor", 1) != 1
    return max(base, 2 if dilated else 1)


def _fully_connected(operator: FlatOperator, inputs: Sequence[FlatTensor], base: int) -> int:
    if inputs[0].dtype == _INT16:
        return 11 if operator.options.get("quantizedBiasType") else base
    if len(inputs) == 2:
        return 6
    if operator.options.get("keepNumDims"):
        return 5
    return 4 if inputs[0].dtype == _INT8 else 1


def _transpose_conv(operator: FlatOperator, inputs: Sequence[FlatTensor], base: int) -> int:
    if operator.options.get("quantizedBiasType"):
        return 5
    if operator.options.get("fusedActivationFunction"):
        return 4
    if len(inputs) == 4:
        return 3
    return 2 if inputs[2].dtype == _INT8 else 1


def _rank_beyond(rank: int, version: int) -> Any:
    def rule(operator: FlatOperator, inputs: Sequence[FlatTensor], base: int) -> int:
        return max(base, version if len(inputs[0].shape) > rank else 1)

    return rule


def _transpose(operator: FlatOperator, inputs: Sequence[FlatTensor], base: int) -> int:
    rank = len(inputs[0].shape)
    return max(base, 6 if rank > 5 else 4 if rank > 4 else 1, 3 if inputs[0].dtype == np.bool_ else 1)


def _broadcasts(operator: FlatOperator, inputs: Sequence[FlatTensor], base: int) -> int:
    big = max(len(t.shape) for t in inputs) > 4 and inputs[0].shape != inputs[1].shape
    return max(base, (2 if operator.kind == "DIV" else 3) if big else 1)


def _half_pixel(operator: FlatOperator, inputs: Sequence[FlatTensor], base: int) -> int:
    centred = operator.options.get("halfPixelCenters", False)
    aligned = operator.kind == "RESIZE_NEAREST_NEIGHBOR" and operator.options.get("alignCorners", False)
    return max(base, 3 if centred or aligned else 1)


def _mul(operator: FlatOperator, inputs: Sequence[FlatTensor], base: int) -> int:
    return 5 if inputs[0].dtype == np.int64 else base


def _add(operator: FlatOperator, inputs: Sequence[FlatTensor], base: int) -> int:
    return 4 if inputs[0].dtype == np.int64 else base


def _broadcast_to(operator: FlatOperator, inputs: Sequence[FlatTensor], base: int) -> int:
    return max(base, 2)


_RULES: dict[str, Any] = {
    "ADD": _add,
    "BROADCAST_TO": _broadcast_to,
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "DIV": _broadcasts,
    "FULLY_CONNECTED": _fully_connected,
    "MAXIMUM": _broadcasts,
    "MINIMUM": _broadcasts,
    "MUL": _mul,
    "PAD": _rank_beyond(4, 4),
    "PADV2": _rank_beyond(4, 4),
    "RESIZE_BILINEAR": _half_pixel,
    "RESIZE_NEAREST_NEIGHBOR": _half_pixel,
    "STRIDED_SLICE": _rank_beyond(4, 4),
    "SUB": _broadcasts,
    "TRANSPOSE": _transpose,
    "TRANSPOSE_CONV": _transpose_conv,
}
