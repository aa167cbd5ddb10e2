"""LiteRT as an engine for ONNX models: each is written as .tflite first, with its own scales."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from graphopt.backends import litert
from graphopt.backends.litert_writer import Written, write_tflite
from graphopt.backends.precision import EnginePrecision, Planned

Shapes = Mapping[str, Sequence[int]]


def precision(model: ModelProto | Path, planned: Sequence[Planned], *, shapes: Shapes | None = None) -> EnginePrecision:
    """What LiteRT computes each planned node in, when the model is written as .tflite.

    Raises:
        UnsupportedError: LiteRT is not installed, or the model has no form in it.
    """
    proto = _proto(model)
    return litert.precision(write_for(proto, shapes).content, planned, proto)


def run(
    model: ModelProto | Path, feeds: Iterable[Mapping[str, NDArray[Any]]], *, threads: int | None = None
) -> Iterator[list[NDArray[Any]]]:
    """All outputs of the ONNX model, in its order and layout, for one feed after the other.

    Open sizes, the batch excepted, are those of the first feed.

    Raises:
        UnsupportedError: LiteRT is not installed, or the model has no form in it.
        CalibrationError: a feed can't be run.
    """
    waiting = iter(feeds)
    first = next(waiting, None)
    if first is None:
        return
    proto = _proto(model)
    written = write_for(proto, {name: value.shape for name, value in first.items()})
    turned = _turned(first, waiting, written)
    for outputs in litert.run(written.content, turned, threads=threads):
        yield [np.transpose(outputs[o.name], np.argsort(written.outputs[o.name])) for o in proto.graph.output]


def _turned(
    first: Mapping[str, NDArray[Any]], others: Iterator[Mapping[str, NDArray[Any]]], written: Written
) -> Iterator[dict[str, NDArray[Any]]]:
    """Feeds in the layout of the .tflite; one that comes again and again (to be timed) is turned once."""
    feed: Mapping[str, NDArray[Any]] | None = first
    while feed is not None:
        turned = {n: np.ascontiguousarray(np.transpose(feed[n], order)) for n, order in written.inputs.items()}
        yield turned
        following = next(others, None)
        while following is feed:
            yield turned
            following = next(others, None)
        feed = following


def write_for(model: ModelProto, shapes: Shapes | None) -> Written:
    """The model as .tflite; its open sizes, the batch excepted, are those of `shapes`, by input.

    Raises:
        UnsupportedError: LiteRT is not installed, or the model has no form in it.
    """
    open_sizes: dict[str, int] = {}
    for value in model.graph.input:
        shape = (shapes or {}).get(value.name)
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if axis and shape is not None and not size.HasField("dim_value"):
                open_sizes[f"{value.name}:{axis}"] = shape[axis]
    return write_tflite(model, sizes=open_sizes)


def _proto(model: ModelProto | Path) -> ModelProto:
    return model if isinstance(model, ModelProto) else onnx.load(model)  # pyright: ignore[reportUnknownMemberType]  # its PathLike has no parameter
