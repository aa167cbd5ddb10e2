"""A linear layer by itself as a model, with any number of channels: what `layer_latency` times.

    input → Conv(own random weights) → GlobalAveragePool ┐
          → Conv(…)                  → GlobalAveragePool ┤ Sum → output
          → …

The copies read one input and leave a small output, so that a call, fetching the result and converting the layout on the
way in and out (onnxruntime's NCHWc) weigh little beside the layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from graphopt.analysis.macs import linear_kind
from graphopt.analysis.pruning.count_polynomial import CountPolynomial
from graphopt.analysis.pruning.layer_costs import AxisSizes
from graphopt.ir import Constant, Node

Signature: TypeAlias = tuple[object, ...]
"""What tells a layer of certain sizes from others."""

LayerInput: TypeAlias = tuple[bool, np.dtype[Any], tuple[CountPolynomial, ...]]
"""Whether it is stored in the model, its element type and the size of each axis."""

# onnxruntime 1.31 accepts IR versions up to 13; nothing here needs more than the oldest that all engines read.
_IR_VERSION = 8
# Multiply-accumulates after which one copy is long enough by itself, and the most copies.
_LONG, _MOST_COPIES = 1e8, 4


@dataclass(frozen=True)
class SingleLayer:
    """One Conv, ConvTranspose, Gemm or MatMul, its sizes functions of the units that the groups keep.

    Attributes:
        node: the layer.
        opset: version of its operator.
        inputs: what it reads, weight and bias included.
        result: sizes of the result's axes.
    """

    node: Node
    opset: int
    inputs: tuple[LayerInput, ...]
    result: tuple[CountPolynomial, ...]

    def signature(self, counts: Mapping[str, int]) -> Signature:
        """Equal for layers that take equally long."""
        attributes = sorted((name, str(value)) for name, value in self.node.attrs.items())
        shapes = tuple((stored, str(dtype), _at(sizes, counts)) for stored, dtype, sizes in self.inputs)
        return (self.node.op, tuple(attributes), shapes, _at(self.result, counts))

    def model(self, counts: Mapping[str, int], copies: int) -> tuple[ModelProto, dict[str, NDArray[Any]]]:
        """The model and a sample; `counts`: units that each group keeps."""
        rng = np.random.default_rng(0)
        feed: dict[str, NDArray[Any]] = {}
        stored: list[TensorProto] = []
        nodes: list[NodeProto] = []
        for copy in range(copies):
            names: list[str] = []
            for index, (is_stored, dtype, sizes) in enumerate(self.inputs):
                name = f"weight{copy}_{index}" if is_stored else f"input{index}"
                names.append(name)
                if is_stored:
                    stored.append(numpy_helper.from_array(_noise(rng, _at(sizes, counts), dtype), name))
                elif name not in feed:
                    feed[name] = _noise(rng, _at(sizes, counts), dtype)
            nodes.append(self._layer(names, f"result{copy}", counts))
        last = [f"result{copy}" for copy in range(copies)]
        if self.is_conv:
            nodes += [helper.make_node("GlobalAveragePool", [name], [f"{name}_mean"]) for name in last]
            nodes.append(helper.make_node("Sum", [f"{name}_mean" for name in last], ["output"]))
            last = ["output"]
        kind = helper.np_dtype_to_tensor_dtype(self.inputs[0][1])
        graph = helper.make_graph(
            nodes,
            "layer",
            [helper.make_tensor_value_info(n, kind, list(v.shape)) for n, v in feed.items()],
            [helper.make_tensor_value_info(name, kind, None) for name in last],
            stored,
        )
        return helper.make_model(
            graph, ir_version=_IR_VERSION, opset_imports=[helper.make_opsetid("", self.opset)]
        ), feed

    def copies(self, macs: float) -> int:
        """How many copies a layer with so many multiply-accumulates wants; equal copies would be merged into one."""
        has_weights = any(stored for stored, _, _ in self.inputs)
        return int(np.clip(round(_LONG / max(macs, 1)), 1, _MOST_COPIES)) if has_weights else 1

    def features(self) -> tuple[CountPolynomial, CountPolynomial]:
        """Values of the activations that it reads, and of the result."""
        read = CountPolynomial.sum(CountPolynomial.product(sizes) for stored, _, sizes in self.inputs if not stored)
        return read, CountPolynomial.product(self.result)

    @property
    def is_conv(self) -> bool:
        """Conv or ConvTranspose."""
        return self.node.op in ("Conv", "ConvTranspose")

    def _layer(self, inputs: Sequence[str], output: str, counts: Mapping[str, int]) -> NodeProto:
        attributes = dict(self.node.attrs)
        if self.is_conv:
            # Groups may go as a whole or shrink: what is left says how many there are.
            weight = _at(self.inputs[1][2], counts)
            channels = _at(self.inputs[0][2] if self.node.op == "Conv" else self.result, counts)[1]
            attributes["group"] = channels // weight[1]
        return helper.make_node(self.node.op, list(inputs), [output], **attributes)


def single_layer(
    node: Node, sizes: AxisSizes, opset: int, shapes: Mapping[str, Sequence[int]] | None = None
) -> SingleLayer | None:
    """The layer that `node` is; None for other nodes, integer layers, and where a size isn't known.

    Args:
        node: of the main graph.
        sizes: of the axes of its tensors.
        opset: version of the standard operators.
        shapes: those of tensors for one sample, where the graph leaves them open.
    """
    if linear_kind(node) != node.op or any(tensor.is_empty() for tensor in node.inputs):
        return None
    found: list[LayerInput] = []
    for tensor in node.inputs:
        shape = sizes.shape(tensor, shapes)
        if shape is None or tensor.dtype is None or tensor.dtype.kind != "f":
            return None
        found.append((isinstance(tensor, Constant), tensor.dtype, shape))
    result = sizes.shape(node.outputs[0], shapes)
    return (
        None
        if result is None or all(stored for stored, _, _ in found)
        else SingleLayer(node, opset, tuple(found), result)
    )


def _at(sizes: Iterable[CountPolynomial], counts: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(round(size.at(counts)) for size in sizes)


def _noise(rng: np.random.Generator, shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Normal values, about 1 after a layer that sums over them."""
    fan = max(1, prod(shape[1:]))
    return (rng.standard_normal(shape, dtype=np.float32) / np.sqrt(fan)).astype(dtype)
