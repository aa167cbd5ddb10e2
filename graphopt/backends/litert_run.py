"""Run a .tflite in LiteRT on the CPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graphopt.backends.litert_model import file_bytes, read_model
from graphopt.errors import CalibrationError, UnsupportedError, one_line
from graphopt.ir.cancelling import check_cancelled

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter, TensorDetails

_LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}


def run(
    tflite: bytes | Path,
    feeds: Iterable[Mapping[str, NDArray[Any]]],
    *,
    reference_kernels: bool = False,
    threads: int | None = None,
) -> Iterator[dict[str, NDArray[Any]]]:
    """All outputs by name, for one feed after the other.

    Float values for an integer input are put on its grid, and integer outputs are given back as they are. Inputs are
    resized to the feed's shape. Names are the signature's, or else the tensors'.

    Args:
        tflite: the file's bytes, or its path.
        feeds: input name → array, in the .tflite's own layout.
        reference_kernels: LiteRT's plain C++ kernels in place of its optimized ones and XNNPACK.
        threads: of the kernels; None leaves it to LiteRT.

    Raises:
        UnsupportedError: LiteRT is not installed, or can't prepare the model.
        LoadError: the file can't be read, or is no .tflite.
        CalibrationError: a feed can't be run.
    """
    model = read_model(tflite)
    interpreter = prepare(tflite, reference_kernels=reference_kernels, threads=threads)
    inputs = dict(zip(model.inputs, interpreter.get_input_details(), strict=True))
    outputs = dict(zip(model.outputs, interpreter.get_output_details(), strict=True))
    for index, feed in enumerate(feeds):
        check_cancelled()
        if missing := [name for name in inputs if name not in feed]:
            raise CalibrationError(f"sample {index} lacks the input '{missing[0]}'")
        try:
            _fill(interpreter, inputs, feed)
            interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise CalibrationError(f"sample {index}: LiteRT failed: {one_line(error)}") from error
        yield {name: interpreter.get_tensor(details["index"]) for name, details in outputs.items()}


def prepare(tflite: bytes | Path, *, reference_kernels: bool = False, threads: int | None = None) -> Interpreter:
    """LiteRT's interpreter of a .tflite, with its tensors allocated.

    Raises:
        UnsupportedError: LiteRT is not installed, or can't prepare the model.
        LoadError: the file can't be read, or is no .tflite.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError as error:
        raise UnsupportedError("LiteRT is not installed: pip install 'graphopt[tflite]'") from error
    kernels = OpResolverType.BUILTIN_REF if reference_kernels else OpResolverType.AUTO
    try:
        interpreter = Interpreter(
            model_content=file_bytes(tflite), num_threads=threads, experimental_op_resolver_type=kernels
        )
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise UnsupportedError(f"LiteRT can't run the model: {one_line(error)}") from error
    return interpreter


def _fill(interpreter: Interpreter, inputs: Mapping[str, TensorDetails], feed: Mapping[str, NDArray[Any]]) -> None:
    """Give the interpreter one feed, resizing what has another shape now."""
    resized = False
    for name, details in inputs.items():
        current = interpreter.get_tensor(details["index"]).shape
        if current != feed[name].shape:
            interpreter.resize_tensor_input(details["index"], feed[name].shape)
            resized = True
    if resized:
        interpreter.allocate_tensors()
    for name, details in inputs.items():
        interpreter.set_tensor(details["index"], _on_grid(feed[name], details))


def _on_grid(values: NDArray[Any], details: TensorDetails) -> NDArray[Any]:
    dtype = np.dtype(details["dtype"])
    parameters = details["quantization_parameters"]
    if values.dtype.kind != "f" or dtype.kind == "f" or not len(parameters["scales"]):
        return np.ascontiguousarray(values, dtype) if values.dtype == dtype else values
    lowest, highest = _LIMITS[dtype.name]
    steps = np.rint(values / parameters["scales"][0]) + parameters["zero_points"][0]
    return np.clip(steps, lowest, highest).astype(dtype)
