"""One sample: what a model's inputs ask for, and how a value is cut out of stacked data, checked and cast.

A sample is one model call: a feed `{input name: array}` ready for `InferenceSession.run`. Stacked data holds
many of them along axis 0. With `r` the rank that the model declares for the input, sample `i` of `array` is

    array of rank r + 1                           array[i]                 (a scalar input: element i, rank 0)
    array of rank r, first dimension fixed to d   array[i·d : (i + 1)·d]
    array of rank r, first dimension dynamic      array[i : i + 1]         (a batch of one row)
    rank not declared                             array[i : i + 1]
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto, helper

from graphopt.errors import CalibrationError, UnsupportedError

Dim = int | str | None
Feed = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class InputSpec:
    """One input of a model: its name, numpy type, and shape.

    A dimension is a fixed size, the name of a symbolic size, or None when it is unknown; `shape` is None when
    not even the rank is known.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[Dim, ...] | None

    def __str__(self) -> str:
        return f"{self.dtype} {format_shape(self.shape)}"

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether an array of `shape` can be fed to this input."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            found == declared for found, declared in zip(shape, self.shape, strict=True) if isinstance(declared, int)
        )


def input_specs(model: ModelProto) -> list[InputSpec]:
    """The inputs that have to be fed: graph inputs that no initializer gives a value, in graph order.

    Raises:
        UnsupportedError: an input is not a tensor.
    """
    given = {tensor.name for tensor in model.graph.initializer}
    given |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    return [_spec(value) for value in model.graph.input if value.name not in given]


def _spec(value: ValueInfoProto) -> InputSpec:
    if value.type.WhichOneof("value") != "tensor_type":
        raise UnsupportedError(f"input '{value.name}' is not a tensor: only tensor inputs can be fed")
    tensor = value.type.tensor_type
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    if not tensor.HasField("shape"):
        return InputSpec(value.name, dtype, None)
    # Old exporters write 0 or -1 for a dynamic dimension.
    dims = tuple(d.dim_value if d.dim_value > 0 else (d.dim_param or None) for d in tensor.shape.dim)
    return InputSpec(value.name, dtype, dims)


def format_shape(shape: Iterable[Dim] | None) -> str:
    """`[1, 3, batch, ?]`; "of any shape" for None."""
    if shape is None:
        return "of any shape"
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in shape) + "]"


def require_names(found: Iterable[str], specs: Sequence[InputSpec], where: str) -> None:
    """Raise CalibrationError when `found` lacks an input, naming what is there and the nearest name."""
    names = list(found)
    for spec in specs:
        if spec.name not in names:
            near = difflib.get_close_matches(spec.name, names, n=1)
            hint = f"rename '{near[0]}'" if near else f"add an array named '{spec.name}' ({spec})"
            held = ", ".join(f"'{name}'" for name in names) or "nothing"
            raise CalibrationError(f"{where}: the model's input '{spec.name}' is missing (found {held}): {hint}")


def count_samples(shape: Sequence[int], spec: InputSpec, where: str) -> int:
    """How many samples an array of `shape` stacks for this input.

    Raises:
        CalibrationError: the shape can't be cut into samples of the declared shape.
    """
    rows = _rows_per_sample(len(shape), spec, where)
    sample_shape = [rows, *shape[1:]] if rows else list(shape[1:])
    if not spec.accepts(sample_shape):
        raise CalibrationError(
            f"{where}: input '{spec.name}' has shape {format_shape(shape)}, which holds samples of shape "
            f"{format_shape(sample_shape)}; expected {spec}"
        )
    if rows and shape[0] % rows:
        raise CalibrationError(
            f"{where}: input '{spec.name}' has {shape[0]} rows; the model takes {rows} at a time: give a multiple"
        )
    return shape[0] // rows if rows else shape[0]


def cut_sample(array: NDArray[Any], spec: InputSpec, index: int, where: str) -> NDArray[Any]:
    """Sample `index` of stacked data, as the module's table says; the type is left as it is."""
    rows = _rows_per_sample(array.ndim, spec, where)
    return array[index * rows : (index + 1) * rows] if rows else np.asarray(array[index])


def _rows_per_sample(rank: int, spec: InputSpec, where: str) -> int:
    """Rows along axis 0 that make one sample; 0 when axis 0 only stacks and is dropped."""
    if spec.shape is not None and rank == len(spec.shape) + 1:
        return 0
    if rank and (spec.shape is None or rank == len(spec.shape)):
        first = spec.shape[0] if spec.shape else None
        return first if isinstance(first, int) else 1
    wanted = "rank 1 or more"
    if spec.shape is not None:
        own = len(spec.shape)
        wanted = f"rank {own} or, with samples stacked on axis 0, {own + 1}" if own else "rank 1, samples on axis 0"
    raise CalibrationError(f"{where}: input '{spec.name}' has rank {rank}; expected {wanted}: the model takes {spec}")


def check_feed(feed: Mapping[str, Any], specs: Sequence[InputSpec], where: str) -> Feed:
    """The feed for one model call, made of whatever array-likes `feed` holds.

    Raises:
        CalibrationError: an input is missing, or has a wrong shape, type or value.
    """
    require_names(feed, specs, where)
    checked: Feed = {}
    for spec in specs:
        value = np.asarray(feed[spec.name])
        if not spec.accepts(value.shape):
            mend = ": add a batch axis" if spec.accepts((1, *value.shape)) else ""
            raise CalibrationError(
                f"{where}: input '{spec.name}' has shape {format_shape(value.shape)}; expected {spec}{mend}"
            )
        checked[spec.name] = cast(value, spec, where)
    return checked


def require_castable(dtype: np.dtype[Any], spec: InputSpec, where: str) -> None:
    """Raise CalibrationError when values of `dtype` can't stand for the input's type."""
    allowed = {"f": "biuf", "i": "biu", "u": "biu", "O": "UO"}.get(spec.dtype.kind, "")
    if dtype != spec.dtype and dtype.kind not in allowed:
        raise CalibrationError(
            f"{where}: input '{spec.name}' has type {dtype}, which can't be cast to {spec.dtype} without "
            f"loss: save it as {spec.dtype}"
        )


def cast(value: NDArray[Any], spec: InputSpec, where: str) -> NDArray[Any]:
    """`value` in the input's type, C-contiguous, any rank (rank 0 stays rank 0).

    Floats are cast to floats and integers to floats; integers to integers when every value fits.

    Raises:
        CalibrationError: the type can't be cast, or a value is NaN, infinite or doesn't fit.
    """
    require_castable(value.dtype, spec, where)
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        first = tuple(int(axis[0]) for axis in np.nonzero(~np.isfinite(value)))
        raise CalibrationError(
            f"{where}: input '{spec.name}' holds {value[first]} at {list(first)}; expected finite values: "
            f"mend or drop that sample"
        )
    with np.errstate(over="ignore"):
        # Not ascontiguousarray, which turns rank 0 into rank 1.
        result = np.asarray(value, spec.dtype, order="C")
    fits = np.isfinite(result) if spec.dtype.kind == "f" else np.asarray(result == value)
    if spec.dtype.kind in "fiu" and not fits.all():
        raise CalibrationError(f"{where}: input '{spec.name}' has values that don't fit in {spec.dtype}")
    return result
