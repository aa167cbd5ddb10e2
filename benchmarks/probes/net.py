"""Build a tiny Q/DQ model and know its result: every node is evaluated by onnx's reference as it is added.

So scales fit the values that are really there, and what an engine returns can be held against the reference in units
of the last scale. The same is evaluated without rounding activations: an engine may leave a pair out, and be closer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt.backends.precision import Planned
from graphopt.quant import Scheme
from graphopt.targets import Bias

# The reference has QuantizeLinear and DequantizeLinear from opset 19 on.
OPSET, IR_VERSION = 19, 9
LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Style:
    """How an engine wants its numbers.

    Attributes:
        activation: scheme of activations.
        bias: "int32": DequantizeLinear of an int32; "float": as it is.
        batch: symbolic ("N") or a number.
    """

    activation: Scheme
    bias: Bias
    batch: str | int = "N"


@dataclass(frozen=True)
class Scale:
    """Scale and zero point of a tensor: names of their constants, and the values."""

    names: tuple[str, str]
    scale: NDArray[Any]
    zero_point: NDArray[Any]


class Net:
    """A model in the making. Tensors are named by strings.

    `values` holds what each is on the sample, `exact` what it would be if activations were not rounded.
    """

    def __init__(self, style: Style) -> None:
        self.style = style
        self.rng = np.random.default_rng(0)
        self.values: dict[str, NDArray[Any]] = {}
        self.exact: dict[str, NDArray[Any]] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[str] = []
        self.subjects: list[Planned] = []
        self.step = 1.0

    # Tensors

    def input(self, *shape: int, low: float = -1.0, high: float = 1.0) -> str:
        """A float input, uniform between `low` and `high`; the first size is the batch, as the style has it."""
        name = f"x{len(self.inputs)}"
        self.values[name] = self.exact[name] = self.rng.uniform(low, high, shape).astype(np.float32)
        sizes: list[str | int] = [self.style.batch, *shape[1:]]
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes))
        return name

    def constant(self, values: Any, dtype: str = "float32") -> str:
        """A constant."""
        name = f"c{len(self.constants)}"
        array = np.asarray(values, dtype)
        self.constants.append(numpy_helper.from_array(array, name))
        self.values[name] = self.exact[name] = array
        return name

    def noise(self, *shape: int, scale: float = 0.3) -> NDArray[Any]:
        """Normal noise."""
        return self.rng.normal(0, scale, shape).astype(np.float32)

    # Nodes

    def add(self, op: str, *inputs: str, subject: bool = False, outputs: int = 1, **attributes: Any) -> str:
        """A node; its first output. `subject`: the probe asks what precision it gets."""
        return self.add_many(op, *inputs, subject=subject, outputs=outputs, **attributes)[0]

    def add_many(
        self, op: str, *inputs: str, subject: bool = False, outputs: int = 1, **attributes: Any
    ) -> tuple[str, ...]:
        """A node with several outputs."""
        name = f"{op.lower()}{len(self.nodes)}"
        made = tuple(f"{name}_{k}" for k in range(outputs))
        node = helper.make_node(op, list(inputs), list(made), name, **attributes)
        self.nodes.append(node)
        self.values.update(zip(made, _evaluate(node, self.values), strict=True))
        if op == "QuantizeLinear" or self.exact[inputs[0]].dtype != self.values[inputs[0]].dtype:
            self.exact[made[0]] = self.exact[inputs[0]]  # Q and the DQ behind it
        else:
            self.exact.update(zip(made, _evaluate(node, self.exact), strict=True))
        if subject:
            self.subjects.append(Planned(name, op, made[0], op in LINEAR))
        return made

    # Quantization

    def scale_of(self, *tensors: str, scheme: Scheme | None = None, rank: int = 0) -> Scale:
        """A scale that fits the values of all given tensors, in the style's scheme."""
        scheme = scheme or self.style.activation
        low = min(0.0, *(float(self.values[t].min()) for t in tensors))
        high = max(0.0, *(float(self.values[t].max()) for t in tensors))
        return self.scale_between(low, high, scheme, rank)

    def scale_between(self, low: float, high: float, scheme: Scheme | None = None, rank: int = 0) -> Scale:
        """The scale of a range."""
        scheme = scheme or self.style.activation
        limits = np.iinfo(np.dtype(scheme.dtype).str[1:])
        if scheme.symmetric:
            scale, zero = max(-low, high, 1e-6) / limits.max, 0
        else:
            scale = max(high - low, 1e-6) / (limits.max - limits.min)
            zero = int(np.clip(np.rint(limits.min - low / scale), limits.min, limits.max))
        return self.scale(scale, zero, scheme.dtype, rank)

    def scale(self, scale: Any, zero: Any, dtype: str, rank: int = 0) -> Scale:
        """A scale by its values."""
        shape = () if rank == 0 and np.ndim(scale) == 0 else (-1,)
        scales, zeros = np.asarray(scale, np.float32).reshape(shape), np.asarray(zero, dtype).reshape(shape)
        return Scale((self.constant(scales), self.constant(zeros, dtype)), scales, zeros)

    def quantize(self, tensor: str, scale: Scale) -> str:
        """QuantizeLinear."""
        return self.add("QuantizeLinear", tensor, *scale.names)

    def dequantize(self, tensor: str, scale: Scale) -> str:
        """DequantizeLinear."""
        return self.add("DequantizeLinear", tensor, *scale.names)

    def qdq(self, tensor: str, scale: Scale | None = None) -> str:
        """A Q/DQ pair; its scale is the last one, in whose steps results are judged."""
        scale = scale or self.scale_of(tensor)
        self.step = float(scale.scale.max())
        return self.dequantize(self.quantize(tensor, scale), scale)

    def weight(
        self, values: NDArray[Any], axis: int | None = 0, *, zero: int = 0, dtype: str = "int8"
    ) -> tuple[str, NDArray[Any]]:
        """DequantizeLinear of a stored weight, one scale per index of `axis` (None: one in all); and its scales."""
        others = tuple(k for k in range(values.ndim) if k != axis) if axis is not None else None
        scale = np.maximum(np.abs(values).max(axis=others), 1e-6) / (100 if zero else 127)
        limits = np.iinfo(dtype)
        shape = [-1 if k == axis else 1 for k in range(values.ndim)] if axis is not None else []
        steps = np.rint(values / scale.reshape(shape)) + zero
        stored = self.constant(np.clip(steps, limits.min, limits.max), dtype)
        names = self.constant(scale), self.constant(np.full(scale.shape, zero), dtype)
        attributes: dict[str, Any] = {"axis": axis} if axis is not None else {}
        return self.add("DequantizeLinear", stored, *names, **attributes), np.asarray(scale, np.float32)

    def bias(self, values: NDArray[Any], data: str, weight_scale: NDArray[Any], kind: Bias | None = None) -> str:
        """A bias as the style has it, or as `kind` says; `data` is the DequantizeLinear of the activation."""
        if (kind or self.style.bias) == "float":
            return self.constant(values)
        source = next(n for n in self.nodes if data in n.output)
        while source.op_type != "DequantizeLinear":  # operators that move values keep the scale
            source = next(n for n in self.nodes if source.input[0] in n.output)
        data_scale = self.values[source.input[1]]
        scale = np.broadcast_to(np.float32(data_scale.reshape(())) * weight_scale, values.shape).astype(np.float32)
        stored = self.constant(np.rint(values / scale), "int32")
        zeros = self.constant(np.zeros(values.shape), "int32")
        return self.add("DequantizeLinear", stored, self.constant(scale), zeros, axis=0)

    # Context

    def conv(self, data: str, channels: int = 8, kernel: int = 3, *, subject: bool = False, relu: bool = False) -> str:
        """A plain integer convolution of `data` (dequantized), padded to keep sizes; not quantized behind."""
        made, scale = self.weight(self.noise(channels, self.values[data].shape[1], kernel, kernel))
        bias = self.bias(self.noise(channels), data, scale)
        result = self.add("Conv", data, made, bias, subject=subject, pads=[kernel // 2] * 4)
        return self.add("Relu", result) if relu else result

    def opening(self, *, relu: bool = True, channels: int = 8) -> str:
        """Input → Q/DQ → Conv (→ Relu): what comes before an operator inside a network. Not quantized."""
        return self.conv(self.qdq(self.input(1, 8, 10, 10)), channels, relu=relu)

    def closing(self, tensor: str, *, subject: bool = False) -> None:
        """Conv → Q/DQ → output: what comes behind an operator inside a network; `tensor` is dequantized already."""
        self.result(self.qdq(self.conv(tensor, 4, 1, subject=subject)))

    def result(self, *tensors: str) -> None:
        """Make these the model's outputs."""
        self.outputs.extend(tensors)

    # Results

    def model(self) -> onnx.ModelProto:
        """The model."""
        types = {t: helper.np_dtype_to_tensor_dtype(self.values[t].dtype) for t in self.outputs}
        outputs = [
            helper.make_tensor_value_info(t, types[t], [f"{t}_{k}" for k in range(self.values[t].ndim)])
            for t in self.outputs
        ]
        graph = helper.make_graph(self.nodes, "probe", self.inputs, outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.checker.check_model(model)  # pyright: ignore[reportUnknownMemberType]  # its stub leaves PathLike open
        return onnx.shape_inference.infer_shapes(model, data_prop=True)

    def feed(self) -> dict[str, NDArray[Any]]:
        """The sample."""
        return {i.name: self.values[i.name] for i in self.inputs}

    def expected(self) -> Sequence[NDArray[Any]]:
        """What the reference makes of the sample."""
        return [self.values[t] for t in self.outputs]

    def unrounded(self) -> Sequence[NDArray[Any]]:
        """The same without rounding activations; weights stay as stored."""
        return [self.exact[t] for t in self.outputs]


def _evaluate(node: onnx.NodeProto, values: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    group = next((a for a in node.attribute if a.name == "group"), None)
    if node.op_type == "ConvTranspose" and group is not None and group.i > 1:
        return [_by_group(node, values, group.i)]
    inputs = [name for name in node.input if name]
    graph = helper.make_graph(
        [node],
        "node",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(values[n].dtype), None) for n in inputs],
        [helper.make_tensor_value_info(n, TensorProto.UNDEFINED, None) for n in node.output],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    evaluator = ReferenceEvaluator(model)
    results: Any = evaluator.run(None, {n: values[n] for n in inputs})  # pyright: ignore[reportUnknownMemberType]  # untyped
    return list(results)


def _by_group(node: onnx.NodeProto, values: dict[str, NDArray[Any]], groups: int) -> NDArray[Any]:
    """A grouped ConvTranspose, group by group: onnx 1.23's reference fails on more than one channel a group."""
    single = onnx.NodeProto()
    single.CopyFrom(node)
    next(a for a in single.attribute if a.name == "group").i = 1
    # Channels are axis 1 of the data, and axis 0 of weight and bias.
    parts = [np.split(values[name], groups, axis=int(k == 0)) for k, name in enumerate(node.input)]
    made = [_evaluate(single, dict(zip(node.input, part, strict=True)))[0] for part in zip(*parts, strict=True)]
    return np.concatenate(made, axis=1)
