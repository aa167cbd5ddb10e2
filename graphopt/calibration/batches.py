"""What a Python source yields, in any of the usual forms, as feeds of one model call each.

    {"x": array, …}                     by input name
    array                               for a model with one input
    (x, y), [x, y]                      a model with one input takes x; with n inputs, the first n in their order
    ({"x": array}, y), ((a, b), y)      likewise inside

An array is a numpy array, a tensor of torch, tensorflow or jax (whatever has `numpy()` or `__array__`), or a number or
nested list of them. torch is never imported.

A batch is split into model calls as stacked data is (see `samples`), so the batch size of a loader doesn't matter, nor
that its last batch is smaller. An input that doesn't grow with the batch (a sampling rate) goes into every call. What
can't be split, such as a recurrent state with the batch on another axis, is one model call as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from graphopt.calibration.samples import Feed, InputSpec, check_feed, cut_sample, require_names
from graphopt.errors import CalibrationError, one_line


def named(sample: Any, inputs: Sequence[InputSpec], where: str) -> Mapping[str, Any]:
    """The sample as {input name: value}.

    Raises:
        CalibrationError: it isn't clear which value is for which input.
    """
    if isinstance(sample, Mapping):
        return cast("Mapping[str, Any]", sample)
    if isinstance(sample, (tuple, list)) and _holds_arrays(cast("Sequence[Any]", sample)):
        parts = cast("Sequence[Any]", sample)
        if isinstance(parts[0], (Mapping, tuple, list)):
            return named(parts[0], inputs, where)
        if len(parts) < len(inputs):
            names = ", ".join(f"'{spec.name}'" for spec in inputs)
            raise CalibrationError(
                f"{where}: {len(parts)} arrays for {len(inputs)} inputs ({names}): give each sample as a dict"
            )
        return {spec.name: part for spec, part in zip(inputs, parts, strict=False)}
    return {only_input(inputs).name: sample}


def only_input(inputs: Sequence[InputSpec]) -> InputSpec:
    """The model's only input, which a plain array must be meant for.

    Raises:
        CalibrationError: it has more inputs.
    """
    if len(inputs) != 1:
        names = ", ".join(f"'{spec.name}'" for spec in inputs)
        raise CalibrationError(f"the model has {len(inputs)} inputs ({names}): give each sample as a dict")
    return inputs[0]


def split(batch: Mapping[str, Any], inputs: Sequence[InputSpec], where: str) -> Iterator[Feed]:
    """The batch's model calls, checked and cast.

    Raises:
        CalibrationError: an input is missing or doesn't fit; the message starts with `where`.
    """
    require_names(batch, inputs, where)
    arrays = _arrays(batch, inputs, where)
    count = _count(arrays, inputs)
    if count < 2:
        yield check_feed(arrays, inputs, where)
        return
    for index in range(count):
        here = f"{where}, row {index}"
        grow = [s for s in inputs if _calls(arrays[s.name], s) == count]
        call = {s.name: cut_sample(arrays[s.name], s, index, here) for s in grow}
        yield check_feed(arrays | call, inputs, here)


def as_array(value: Any, where: str) -> NDArray[Any]:
    """An array or tensor of any library as a numpy array.

    Raises:
        CalibrationError: it can't be one.
    """
    if isinstance(value, np.ndarray):
        return cast("NDArray[Any]", value)
    try:
        # torch: gradients and devices have to be left before numpy().
        for leave in ("detach", "cpu"):
            value = getattr(value, leave)() if hasattr(value, leave) else value
        if "bfloat16" in str(getattr(value, "dtype", "")) and hasattr(value, "float"):
            value = value.float()  # numpy has no bfloat16
        array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
        if array.dtype.kind == "O" and not array.ndim:
            raise TypeError("it is no array, tensor or number")
        return array
    except Exception as error:  # a foreign library's conversion, or a ragged list
        raise CalibrationError(f"{where}: {type(value).__name__} can't be made an array ({one_line(error)})") from error


def is_tensor(value: object) -> bool:
    """Whether it is an array of some library (a torch tensor can be iterated, too)."""
    return hasattr(value, "__array__") and hasattr(value, "shape")


def known_count(source: Iterable[Any], inputs: Sequence[InputSpec]) -> int | None:
    """How many model calls a list in memory makes; None for other sources, or where only checking it can tell."""
    if not isinstance(source, (list, tuple)):
        return None  # a loader's length is in batches, the last of which may be smaller
    try:
        samples = cast("Sequence[Any]", source)
        return sum(_count(_arrays(named(sample, inputs, ""), inputs, ""), inputs) for sample in samples)
    except (CalibrationError, KeyError):
        return None


def _arrays(batch: Mapping[str, Any], inputs: Sequence[InputSpec], where: str) -> dict[str, NDArray[Any]]:
    return {spec.name: as_array(batch[spec.name], f"{where}, input '{spec.name}'") for spec in inputs}


def _count(arrays: Mapping[str, NDArray[Any]], inputs: Sequence[InputSpec]) -> int:
    """How many model calls the batch makes: as many as each input stacks, or has one value for; else 1."""
    calls = [_calls(arrays[spec.name], spec) for spec in inputs]
    count = max((n for n in calls if n), default=1)
    # A single array of rank 1 may as well be one signal of any length.
    signal = (
        len(inputs) == 1 and inputs[0].shape is not None and len(inputs[0].shape) == arrays[inputs[0].name].ndim == 1
    )
    return 1 if signal or any(n not in (1, count) for n in calls) or _batch_elsewhere(inputs) else count


def _calls(array: NDArray[Any], spec: InputSpec) -> int | None:
    """How many model calls the array stacks, by the table in `samples`; None when it doesn't fit at all."""
    rank = array.ndim if spec.shape is None else len(spec.shape)
    if array.ndim == rank + 1:
        return len(array) if spec.accepts(array.shape[1:]) else None
    if rank == 0 or array.ndim != rank:
        return 1 if spec.accepts(array.shape) else None
    first = None if spec.shape is None else spec.shape[0]
    rows = first if isinstance(first, int) else 1
    if len(array) % rows or not spec.accepts((rows, *array.shape[1:])):
        return None
    return len(array) // rows


def _batch_elsewhere(inputs: Sequence[InputSpec]) -> bool:
    """Whether a symbol that is some input's first dimension stands on another axis, too."""
    first = {spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], str)}
    return any(dim in first for spec in inputs for dim in (spec.shape or ())[1:])


def _holds_arrays(parts: Sequence[Any]) -> bool:
    """Whether these are values for inputs and labels, and not the numbers of one array."""
    if not parts:
        return False
    head: Any = parts[0]
    if isinstance(head, (Mapping, tuple)):
        return True
    return (is_tensor(head) and len(head.shape) > 0) or (
        isinstance(head, list) and _holds_arrays(cast("list[Any]", head))
    )
