"""A small model in which tensors of given shapes are converted between float32 and 8 bits, both ways.

    to 8 bits      Conv → Q → DQ → Conv in 8 bits → Q → DQ → mean                  convolutions are 1×1 and depthwise
    to float32     Q → DQ → Conv in 8 bits → Q → DQ → Conv → mean
    with a pool    Conv → Q → DQ → MaxPool → Q → DQ → Conv in 8 bits …,    Conv in 8 bits → Q → DQ → MaxPool → Conv …
    no convolution MatMul [8 → K] and [K → 8] in place of the first and the second Conv

Engines hold the float result of a convolution in blocks of channels and the integers channels last, and change that
where they convert; so the tensor lies between layers such as it has in the model, which do as little as they can. A
pool behind the tensor runs in the form of who reads it, maybe in a layout that it is slow in: onnxruntime's MaxPool of
uint8 takes 56 times as long channels first as channels last. Its time is a part of the conversion here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from graphopt.analysis.precision.types import Border, Region, Regions

# Opset 13 is the first with a scale per channel; IR version 8 came with opset 15, and every engine here reads it.
_OPSET, _IR = 13, 8
_WIDTH = 8
_SCALE, _ZERO_POINT = "scale", "zero_point"


@dataclass(frozen=True)
class Converted:
    """What is converted.

    Attributes:
        shape: of the tensor; no size is 0.
        convolved: it lies at convolutions, and so has channels and spatial axes.
        pool: name and value of the attributes of a MaxPool between the tensor and who reads it; none: there is none.
    """

    shape: tuple[int, ...]
    convolved: bool
    pool: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class ConversionModel:
    """The model, in regions, and where in it each conversion is.

    Attributes:
        model: with its weights inside.
        feed: a sample.
        regions: one for each layer.
        assignment: the precision that each has in the model.
        places: (what is converted, form) → the tensor that is converted to it.
    """

    model: ModelProto
    feed: dict[str, NDArray[Any]]
    regions: Regions
    assignment: dict[str, str]
    places: dict[tuple[Converted, str], str]


def conversion_model(wanted: Sequence[Converted], *, writes_form: bool) -> ConversionModel:
    """A model that converts all of these.

    Args:
        wanted: each once.
        writes_form: whether kernels in 8 bits write integers, whoever reads them.
    """
    builder = _Builder(writes_form)
    for number, converted in enumerate(wanted):
        builder.block(converted, f"to_int8_{number}", ("float32", "int8"))
        builder.block(converted, f"to_float_{number}", ("int8", "float32"))
    values = {_SCALE: np.asarray(1 / 255, np.float32), _ZERO_POINT: np.asarray(0, np.uint8), **builder.values}
    stored = [numpy_helper.from_array(array, name) for name, array in values.items()]
    graph = helper.make_graph(builder.nodes, "conversions", builder.inputs, builder.outputs, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    regions = Regions(tuple(builder.regions), tuple(builder.borders))
    return ConversionModel(model, builder.feed, regions, builder.assignment, builder.places)


@dataclass
class _Builder:
    """Nodes, values and regions as they come."""

    writes_form: bool
    nodes: list[NodeProto] = field(default_factory=list[NodeProto])
    values: dict[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])
    inputs: list[ValueInfoProto] = field(default_factory=list[ValueInfoProto])
    outputs: list[ValueInfoProto] = field(default_factory=list[ValueInfoProto])
    feed: dict[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])
    regions: list[Region] = field(default_factory=list[Region])
    borders: list[Border] = field(default_factory=list[Border])
    assignment: dict[str, str] = field(default_factory=dict[str, str])
    places: dict[tuple[Converted, str], str] = field(default_factory=dict[tuple[Converted, str], str])

    def block(self, converted: Converted, name: str, precisions: tuple[str, str]) -> None:
        """A layer that writes the tensor, one that reads it, and a mean, so that no large output is copied."""
        writer, reader, mean = f"{name}_writer", f"{name}_reader", f"{name}_mean"
        if converted.convolved:
            op, shape, channels = "Conv", converted.shape, converted.shape[1]
            ones = np.ones((channels, 1, *[1] * (len(shape) - 2)), np.float32)
            weights, axis, attributes = (ones, ones), 0, {"group": channels}
        else:
            size = converted.shape[-1] if converted.shape else 1
            op, shape, axis, attributes = "MatMul", (int(np.prod(converted.shape)) // size, _WIDTH), 1, {}
            weights = np.ones((_WIDTH, size), np.float32), np.ones((size, _WIDTH), np.float32)
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        self.feed[name] = np.random.default_rng(0).random(shape, np.float32)
        self.layer(op, name, writer, weights[0], axis, attributes, precisions[0])
        read = self.pooled(writer, converted.pool) if converted.pool else writer
        # What an integer kernel writes is integers first, whoever reads it.
        read = self.pair(read) if precisions[0] == "int8" and not converted.pool else read
        self.layer(op, read, reader, weights[1], axis, attributes, precisions[1])
        result = self.pair(reader) if precisions[1] == "int8" else reader
        self.nodes.append(helper.make_node("ReduceMean", [result], [mean], name=mean, keepdims=0))
        self.region(mean, "ReduceMean", "float32")
        self.borders.extend((Border(writer, writer, (reader,)), Border(reader, reader, (mean,))))
        self.outputs.append(helper.make_tensor_value_info(mean, TensorProto.FLOAT, ()))
        self.places[converted, precisions[1]] = writer

    def pooled(self, tensor: str, pool: tuple[tuple[str, Any], ...]) -> str:
        """The tensor behind Q, DQ and the pool."""
        made = f"{tensor}_pooled"
        self.nodes.append(helper.make_node("MaxPool", [self.pair(tensor)], [made], name=made, **dict(pool)))
        return made

    def pair(self, tensor: str) -> str:
        """The tensor behind Q and DQ."""
        quantized, again = f"{tensor}_quantized", f"{tensor}_dequantized"
        for op, read, made in (("QuantizeLinear", tensor, quantized), ("DequantizeLinear", quantized, again)):
            self.nodes.append(helper.make_node(op, [read, _SCALE, _ZERO_POINT], [made], name=made))
        return again

    def layer(
        self,
        op: str,
        read: str,
        name: str,
        weight: NDArray[Any],
        axis: int,
        attributes: dict[str, Any],
        precision: str,
    ) -> None:
        """A layer with a weight; in 8 bits it gets Q and DQ in front, and a scale for each index of `axis`."""
        stored = f"{name}_weight"
        self.values[stored] = weight
        if precision == "int8":
            channels = weight.shape[axis]
            self.values[stored] = np.ones(weight.shape, np.int8)
            self.values[f"{stored}_scale"] = np.full(channels, 1 / 127, np.float32)
            self.values[f"{stored}_zero_point"] = np.zeros(channels, np.int8)
            inputs, stored = [stored, f"{stored}_scale", f"{stored}_zero_point"], f"{stored}_dequantized"
            self.nodes.append(helper.make_node("DequantizeLinear", inputs, [stored], name=stored, axis=axis))
            read = self.pair(read)
        self.nodes.append(helper.make_node(op, [read, stored], [name], name=name, **attributes))
        self.region(name, op, precision)

    def region(self, name: str, op: str, precision: str) -> None:
        """A region of one node."""
        integer = precision == "int8"
        precisions = ("float32", "int8") if integer else ("float32",)
        self.regions.append(
            Region(name, op, (name,), (), precisions, (), name, writes_form=self.writes_form and integer)
        )
        self.assignment[name] = precision
