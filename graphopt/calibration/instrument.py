"""A copy of a model that reduces observed tensors to three scalars each, inside the graph.

    y = Conv(x, w)   →   y = Conv(x, w),  ReduceMin(y), ReduceMax(y), ReduceSum(y)

Only the scalars are outputs, so memory does not depend on the sizes of the tensors, nor on how many are observed.
The sum is there for NaN: onnxruntime's ReduceMin and ReduceMax return a number for some tensors that hold one
(measured with 1.31), a sum never does.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    positions = _observable(model.graph)
    for tensor in tensors:
        if tensor not in positions:
            raise CalibrationError(_why_not(tensor, model.graph, positions))
    ordered = sorted(dict.fromkeys(tensors), key=positions.__getitem__)
    types = _types(model, ordered, base_dir)

    copy = ModelProto()
    copy.CopyFrom(model)
    if all(entry.domain not in ("", "ai.onnx") for entry in copy.opset_import):
        copy.opset_import.append(helper.make_opsetid("", 13))
    # Without the model's own outputs, what only they need is not computed.
    del copy.graph.output[:]
    prefix = _unused_prefix(model.graph)
    observed = tuple(
        _observe(copy.graph, tensor, types[tensor], f"{prefix}{number}") for number, tensor in enumerate(ordered)
    )
    return Instrumented(copy, observed)


def _observe(graph: GraphProto, tensor: str, type_name: str, prefix: str) -> Observed:
    if type_name not in _REDUCED_IN:
        raise CalibrationError(f"tensor '{tensor}' is a {type_name}: it has no range of values; leave it out")
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
    """What onnx's inference finds on the nodes alone: each initializer becomes an input of its type."""
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
    skeleton.graph.output.extend(graph.output)
    try:
        return _named_types(shape_inference.infer_shapes(skeleton).graph)
    except shape_inference.InferenceError:
        return {}  # onnxruntime is asked, and says what is wrong if anything is


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
