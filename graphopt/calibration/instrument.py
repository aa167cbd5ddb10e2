"""A copy of a model that reduces observed tensors to three scalars each, inside the graph.

    y = Conv(x, w)   →   y = Conv(x, w),  ReduceMin(y), ReduceMax(y), ReduceSum(y)

Only the scalars are outputs, so memory does not depend on the sizes of the tensors, nor on how many are observed.
The sum is there for NaN: onnxruntime's ReduceMin and ReduceMax return a number for some tensors that hold one
(measured with 1.31), a sum never does.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper, shape_inference

from graphopt.calibration.session import open_session
from graphopt.errors import CalibrationError

# The type that a tensor is reduced in. The casts are exact (64-bit integers up to 2^53): not every type has a
# ReduceMin at every opset, and a sum of float16 overflows.
_REDUCED_IN: dict[str, int] = {
    "tensor(float)": TensorProto.FLOAT,
    "tensor(double)": TensorProto.DOUBLE,
    "tensor(float16)": TensorProto.FLOAT,
    "tensor(bfloat16)": TensorProto.FLOAT,
    "tensor(bool)": TensorProto.FLOAT,
    "tensor(int8)": TensorProto.FLOAT,
    "tensor(uint8)": TensorProto.FLOAT,
    "tensor(int16)": TensorProto.FLOAT,
    "tensor(uint16)": TensorProto.FLOAT,
    "tensor(int32)": TensorProto.DOUBLE,
    "tensor(uint32)": TensorProto.DOUBLE,
    "tensor(int64)": TensorProto.DOUBLE,
    "tensor(uint64)": TensorProto.DOUBLE,
}
_UNCAST = ("tensor(float)", "tensor(double)")
_NOT_IN_NUMPY = ("tensor(bfloat16)",)


@dataclass(frozen=True)
class Observed:
    """A tensor and the names of its scalars among the outputs."""

    tensor: str
    low: str
    high: str
    total: str


@dataclass(frozen=True)
class Instrumented:
    """The model with the scalars as its only outputs, and what they mean, in graph order."""

    model: ModelProto
    observed: tuple[Observed, ...]


def instrument(model: ModelProto, tensors: Sequence[str], *, base_dir: Path | None = None) -> Instrumented:
    """Observe `tensors`, which may be graph inputs or what top-level nodes produce.

    Raises:
        CalibrationError: a tensor is unknown, a constant, made inside a subgraph, or not numeric.
    """
    ordered = in_graph_order(model, tensors)
    types = _types(model, ordered, base_dir)
    copy, prefix = _without_outputs(model)
    observed = tuple(
        _observe(copy.graph, tensor, types[tensor], f"{prefix}{number}") for number, tensor in enumerate(ordered)
    )
    return Instrumented(copy, observed)


@dataclass(frozen=True)
class Fetching:
    """The model with whole tensors as its only outputs: (tensor, name of its output), in graph order."""

    model: ModelProto
    fetched: tuple[tuple[str, str], ...]


def fetch(model: ModelProto, tensors: Sequence[str], *, base_dir: Path | None = None) -> Fetching:
    """Make `tensors` outputs, with the values they have in the model.

    Raises:
        CalibrationError: as `instrument`.
    """
    ordered = in_graph_order(model, tensors)
    types = _types(model, ordered, base_dir)
    copy, prefix = _without_outputs(model)
    inputs = {value.name for value in model.graph.input}
    fetched: list[tuple[str, str]] = []
    for number, tensor in enumerate(ordered):
        _require_numeric(tensor, types[tensor])
        output = tensor
        if types[tensor] in _NOT_IN_NUMPY:
            output = f"{prefix}{number}_cast"
            copy.graph.node.append(helper.make_node("Cast", [tensor], [output], name=output, to=TensorProto.FLOAT))
        elif tensor in inputs:  # an input can't be an output as well
            output = f"{prefix}{number}_input"
            copy.graph.node.append(helper.make_node("Identity", [tensor], [output], name=output))
        copy.graph.output.append(ValueInfoProto(name=output))
        fetched.append((tensor, output))
    return Fetching(copy, tuple(fetched))


def in_graph_order(model: ModelProto, tensors: Sequence[str]) -> list[str]:
    """The tensors, each once, in graph order.

    Raises:
        CalibrationError: one is unknown, a constant, or made inside a subgraph.
    """
    positions = _observable(model.graph)
    for tensor in tensors:
        if tensor not in positions:
            raise CalibrationError(_why_not(tensor, model.graph, positions))
    return sorted(dict.fromkeys(tensors), key=positions.__getitem__)


def fetched_bytes(model: ModelProto, tensors: Sequence[str], feed: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """Bytes of each tensor for this sample by shape inference; where that can't tell, as much as the largest known."""
    skeleton = _skeleton(model)
    for value in skeleton.graph.input:
        if value.name in feed:
            shaped = helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, feed[value.name].shape)
            value.CopyFrom(shaped)
    try:
        graph = shape_inference.infer_shapes(skeleton, data_prop=True).graph
    except shape_inference.InferenceError:
        graph = skeleton.graph
    sizes: dict[str, int] = {}
    for value in (*graph.input, *graph.output, *graph.value_info):
        tensor = value.type.tensor_type
        dims = [dim.dim_value for dim in tensor.shape.dim]
        if tensor.elem_type and tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            sizes[value.name] = math.prod(dims) * helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
    largest = max((sizes[tensor] for tensor in tensors if tensor in sizes), default=1)
    return {tensor: sizes.get(tensor, largest) for tensor in tensors}


def _without_outputs(model: ModelProto) -> tuple[ModelProto, str]:
    """A copy to which outputs can be added, and a prefix for names in it."""
    copy = ModelProto()
    copy.CopyFrom(model)
    if all(entry.domain not in ("", "ai.onnx") for entry in copy.opset_import):
        copy.opset_import.append(helper.make_opsetid("", 13))
    # Without the model's own outputs, what only they need is not computed.
    del copy.graph.output[:]
    return copy, _unused_prefix(model.graph)


def _require_numeric(tensor: str, type_name: str) -> None:
    if type_name not in _REDUCED_IN:
        raise CalibrationError(f"tensor '{tensor}' is a {type_name}: it has no range of values; leave it out")


def _observe(graph: GraphProto, tensor: str, type_name: str, prefix: str) -> Observed:
    _require_numeric(tensor, type_name)
    source = tensor
    if type_name not in _UNCAST:
        source = f"{prefix}_cast"
        graph.node.append(helper.make_node("Cast", [tensor], [source], name=source, to=_REDUCED_IN[type_name]))
    names = [f"{prefix}_low", f"{prefix}_high", f"{prefix}_total"]
    for op, name in zip(("ReduceMin", "ReduceMax", "ReduceSum"), names, strict=True):
        # No axes: all of them, at every opset, whether axes are an attribute or an input.
        graph.node.append(helper.make_node(op, [source], [name], name=name, keepdims=0))
        graph.output.append(ValueInfoProto(name=name))
    return Observed(tensor, *names)


def _observable(graph: GraphProto) -> dict[str, int]:
    """Graph inputs and top-level results that aren't constants, with their position in graph order."""
    constant = _constants(graph)
    names = [value.name for value in graph.input]
    names += [name for node in graph.node for name in node.output if name]
    return {name: position for position, name in enumerate(names) if name not in constant}


def _constants(graph: GraphProto) -> set[str]:
    names = {tensor.name for tensor in graph.initializer}
    names |= {tensor.values.name for tensor in graph.sparse_initializer}
    return names | {node.output[0] for node in graph.node if node.op_type == "Constant"}


def _why_not(tensor: str, graph: GraphProto, positions: Mapping[str, int]) -> str:
    if tensor in _constants(graph):
        return f"tensor '{tensor}' is a constant: its range is that of its values, not observed"
    for owner, name in _subgraph_results(graph):
        if name == tensor:
            return f"tensor '{tensor}' is made inside a subgraph of {owner}: only top-level tensors can be observed"
    near = difflib.get_close_matches(tensor, positions, n=1)
    hint = f": did you mean '{near[0]}'?" if near else ""
    return f"the model has no tensor '{tensor}'{hint}"


def _subgraph_results(graph: GraphProto) -> Iterator[tuple[str, str]]:
    """(owning node, result) for everything that subgraphs of the graph's nodes produce."""
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                owner = f"{node.op_type} node '{node.name}'"
                yield from ((owner, name) for child in inner.node for name in child.output)
                yield from _subgraph_results(inner)


def _types(model: ModelProto, tensors: Sequence[str], base_dir: Path | None) -> dict[str, str]:
    """Each tensor's type, as onnxruntime writes it.

    onnx's inference finds it without looking at the weights. What it can't tell (behind operators that it doesn't
    know) is asked of onnxruntime, which needs the whole model.
    """
    types = _named_types(model.graph)
    if any(tensor not in types for tensor in tensors):
        types |= _inferred_types(model)
    unknown = [tensor for tensor in tensors if tensor not in types]
    if unknown:
        probe = ModelProto()
        probe.CopyFrom(model)
        del probe.graph.output[:]
        probe.graph.output.extend(ValueInfoProto(name=tensor) for tensor in unknown)
        session = open_session(probe, optimize=False, base_dir=base_dir)
        types |= {output.name: output.type for output in session.get_outputs()}
    return types


def _inferred_types(model: ModelProto) -> dict[str, str]:
    try:
        return _named_types(shape_inference.infer_shapes(_skeleton(model)).graph)
    except shape_inference.InferenceError:
        return {}  # onnxruntime is asked, and says what is wrong if anything is


def _skeleton(model: ModelProto) -> ModelProto:
    """The nodes alone: each large initializer becomes an input of its type; small ones may say shapes."""
    skeleton = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph = model.graph
    inputs = {value.name for value in graph.input}
    skeleton.graph.name = graph.name
    skeleton.graph.node.extend(graph.node)
    skeleton.graph.input.extend(graph.input)
    skeleton.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in graph.initializer
        if tensor.name not in inputs
    )
    skeleton.graph.initializer.extend(tensor for tensor in graph.initializer if _says_shapes(tensor))
    skeleton.graph.output.extend(graph.output)
    return skeleton


def _says_shapes(tensor: TensorProto) -> bool:
    return tensor.data_location != TensorProto.EXTERNAL and math.prod(tensor.dims) <= 16


def _named_types(graph: GraphProto) -> dict[str, str]:
    return {
        value.name: f"tensor({TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()})"
        for value in (*graph.input, *graph.output, *graph.value_info)
        if value.type.tensor_type.elem_type
    }


def _unused_prefix(graph: GraphProto) -> str:
    """A prefix that no name in the graph or its subgraphs starts with."""
    used = {name for node in graph.node for name in (*node.input, *node.output, node.name)}
    used |= {value.name for value in (*graph.input, *graph.initializer)}
    used |= {name for _, name in _subgraph_results(graph)}
    prefix = "observed_"
    while any(name.startswith(prefix) for name in used):
        prefix = f"_{prefix}"
    return prefix
