"""A small model in which tensors of given shapes are converted between float32 and 8 bits, both ways.

    convolutions    Conv → Q → DQ → Conv in 8 bits → Q → DQ → Conv → mean         each 1×1 and depthwise
    other shapes    MatMul [8 → K] → Q → DQ → MatMul [K → 8] → Q → DQ → MatMul [8 → K] → Q → DQ → MatMul [K → 8]

Engines hold the float result of a convolution in blocks of channels and the integers channels last, and change that
where they convert; so the tensor lies between layers such as it has in the model, which do as little as they can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from graphopt.analysis.precision_types import Border, Region, Regions

# Opset 13 is the first with a scale per channel; IR version 8 came with opset 15, and every engine here reads it.
_OPSET, _IR = 13, 8
_WIDTH = 8
_SCALE, _ZERO_POINT = "scale", "zero_point"


@dataclass(frozen=True, order=True)
class Converted:
    """What is converted: a tensor of this shape, between convolutions or not."""

    shape: tuple[int, ...]
    convolved: bool


@dataclass(frozen=True)
class ConversionModel:
    """The model, in regions, and where in it each conversion is.

    Attributes:
        model: with its weights inside.
        feed: a sample.
        regions: one for each layer.
        assignment: the precision that each has in the model.
        int8: what is converted → its border that float32 is written to and 8 bits are read from.
        float32: likewise the other way round.
    """

    model: ModelProto
    feed: dict[str, NDArray[Any]]
    regions: Regions
    assignment: dict[str, str]
    int8: dict[Converted, str]
    float32: dict[Converted, str]


def conversion_model(wanted: Sequence[Converted], *, writes_form: bool) -> ConversionModel:
    """A model that converts tensors of all these shapes, none of which is empty.

    Args:
        wanted: the shapes, each once.
        writes_form: whether kernels in 8 bits write integers, whoever reads them.
    """
    builder = _Builder(writes_form)
    for number, converted in enumerate(wanted):
        (builder.convolutions if converted.convolved else builder.products)(converted, f"c{number}")
    values = {
        _SCALE: np.asarray(1 / 255, np.float32),
        _ZERO_POINT: np.asarray(0, np.uint8),
        **builder.values,
    }
    graph = helper.make_graph(
        builder.nodes,
        "conversions",
        builder.inputs,
        builder.outputs,
        [numpy_helper.from_array(array, name) for name, array in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    regions = Regions(tuple(builder.regions), tuple(builder.borders))
    return ConversionModel(model, builder.feed, regions, builder.assignment, builder.int8, builder.float32)


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
    int8: dict[Converted, str] = field(default_factory=dict[Converted, str])
    float32: dict[Converted, str] = field(default_factory=dict[Converted, str])

    def convolutions(self, converted: Converted, name: str) -> None:
        """Three depthwise convolutions, the middle one in 8 bits."""
        channels, rank = converted.shape[1], len(converted.shape)
        weight = np.full((channels, 1, *[1] * (rank - 2)), 1.0, np.float32)
        self.given(name, converted.shape)
        self.layer("Conv", name, f"{name}_a", weight, group=channels)
        self.integer_layer("Conv", f"{name}_a", f"{name}_b", weight, 0, group=channels)
        self.layer("Conv", self.pair(f"{name}_b"), f"{name}_c", weight, group=channels)
        self.nodes.append(helper.make_node("GlobalAveragePool", [f"{name}_c"], [f"{name}_d"], name=f"{name}_d"))
        self.region(f"{name}_d", "float32", "GlobalAveragePool")
        self.connected(f"{name}_a", f"{name}_b", f"{name}_c", f"{name}_d")
        self.result(f"{name}_d")
        self.int8[converted], self.float32[converted] = f"{name}_a", f"{name}_b"

    def products(self, converted: Converted, name: str) -> None:
        """Four matrix products, the middle two in 8 bits."""
        size = converted.shape[-1] if converted.shape else 1
        rows = int(np.prod(converted.shape[:-1], dtype=np.int64)) if converted.shape else 1
        up, down = np.ones((_WIDTH, size), np.float32), np.ones((size, _WIDTH), np.float32)
        self.given(name, (rows, _WIDTH))
        self.layer("MatMul", name, f"{name}_a", up)
        self.integer_layer("MatMul", f"{name}_a", f"{name}_b", down, 1)
        self.integer_layer("MatMul", f"{name}_b", f"{name}_c", up, 1)
        self.layer("MatMul", self.pair(f"{name}_c"), f"{name}_d", down)
        self.connected(f"{name}_a", f"{name}_b", f"{name}_c", f"{name}_d")
        self.result(f"{name}_d")
        self.int8[converted], self.float32[converted] = f"{name}_a", f"{name}_c"

    def given(self, name: str, shape: Sequence[int]) -> None:
        """An input of the model."""
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        self.feed[name] = np.random.default_rng(0).random(shape, np.float32)

    def result(self, name: str) -> None:
        """An output of the model."""
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))

    def pair(self, tensor: str) -> str:
        """The tensor behind Q and DQ."""
        quantized, again = f"{tensor}_quantized", f"{tensor}_dequantized"
        if again not in {name for node in self.nodes for name in node.output}:
            for op, read, made in (("QuantizeLinear", tensor, quantized), ("DequantizeLinear", quantized, again)):
                self.nodes.append(helper.make_node(op, [read, _SCALE, _ZERO_POINT], [made], name=made))
        return again

    def layer(self, op: str, read: str, name: str, weight: NDArray[Any], group: int | None = None) -> None:
        """A layer in float32."""
        self.values[f"{name}_weight"] = weight
        self.nodes.append(helper.make_node(op, [read, f"{name}_weight"], [name], name=name, **_grouped(group)))
        self.region(name, "float32", op)

    def integer_layer(
        self, op: str, read: str, name: str, weight: NDArray[Any], axis: int, group: int | None = None
    ) -> None:
        """A layer in 8 bits."""
        channels = weight.shape[axis]
        self.values[f"{name}_weight"] = np.ones(weight.shape, np.int8)
        self.values[f"{name}_weight_scale"] = np.full(channels, 1 / 127, np.float32)
        self.values[f"{name}_weight_zero_point"] = np.zeros(channels, np.int8)
        stored = [f"{name}_weight", f"{name}_weight_scale", f"{name}_weight_zero_point"]
        dequantized = f"{name}_weight_dequantized"
        self.nodes.append(helper.make_node("DequantizeLinear", stored, [dequantized], name=dequantized, axis=axis))
        self.nodes.append(helper.make_node(op, [self.pair(read), dequantized], [name], name=name, **_grouped(group)))
        self.region(name, "int8", op)

    def region(self, name: str, precision: str, op: str) -> None:
        """A region of one layer."""
        precisions = ("float32", "int8") if precision == "int8" else ("float32",)
        writes = self.writes_form and precision == "int8"
        self.regions.append(Region(name, op, (name,), (), precisions, (), name, writes_form=writes))
        self.assignment[name] = precision

    def connected(self, *names: str) -> None:
        """Borders of layers that read one another in turn."""
        self.borders.extend(Border(a, a, (b,)) for a, b in pairwise(names))


def _grouped(group: int | None) -> dict[str, Any]:
    """The attribute, where there is one."""
    return {} if group is None else {"group": group}
