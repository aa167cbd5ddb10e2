"""Copies of a model whose outputs say what the observed tensors hold, in one of two ways.

    fetch:       y = Conv(x, w)   →   y = Conv(x, w), and y is an output
    instrument:  y = Conv(x, w)   →   y = Conv(x, w),  ReduceMin(y), ReduceMax(y), ReduceSum(y), which are outputs

With `instrument` memory does not depend on the sizes of the tensors, nor on how many are observed. Its sum is there for
NaN: onnxruntime's ReduceMin and ReduceMax return a number for some tensors that hold one (measured with 1.31), a sum
never does.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper

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


def instrument(model: ModelProto, types: Mapping[str, str]) -> Instrumented:
    """Reduce tensors inside the graph.

    Args:
        model: the model; it isn't changed.
        types: the tensors in graph order (see `in_graph_order`), each with its type as onnxruntime writes it.

    Raises:
        CalibrationError: a tensor is not numeric.
    """
    copy, prefix = _without_outputs(model)
    # onnxruntime orders nodes by a search that begins at the last leaf: added from the last tensor to the first, each
    # reduction runs right behind what makes its tensor, which is freed then. In graph order all tensors would be alive
    # at the end (measured with 1.31).
    observed = [
        _observe(copy.graph, tensor, type_name, f"{prefix}{number}")
        for number, (tensor, type_name) in reversed(list(enumerate(types.items())))
    ]
    return Instrumented(copy, tuple(reversed(observed)))


@dataclass(frozen=True)
class Fetching:
    """The model with whole tensors as its only outputs: (tensor, name of its output), in graph order."""

    model: ModelProto
    fetched: tuple[tuple[str, str], ...]


def fetch(model: ModelProto, types: Mapping[str, str]) -> Fetching:
    """Make tensors outputs, with the values they have in the model. Arguments and errors as of `instrument`."""
    copy, prefix = _without_outputs(model)
    inputs = {value.name for value in model.graph.input}
    fetched: list[tuple[str, str]] = []
    for number, (tensor, type_name) in enumerate(types.items()):
        _require_numeric(tensor, type_name)
        output = tensor
        if type_name in _NOT_IN_NUMPY:
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


def _without_outputs(model: ModelProto) -> tuple[ModelProto, str]:
    """A copy to which outputs can be added, and a prefix for names in it."""
    copy = ModelProto()
    copy.CopyFrom(model)
    if all(entry.domain not in ("", "ai.onnx") for entry in copy.opset_import):
        copy.opset_import.append(helper.make_opsetid("", 13))
    # Without the model's own outputs, what only they need is not computed.
    del copy.graph.output[:]
    return copy, unused_prefix(model.graph)


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


def unused_prefix(graph: GraphProto) -> str:
    """A prefix that no name in the graph or its subgraphs starts with."""
    used = {name for node in graph.node for name in (*node.input, *node.output, node.name)}
    used |= {value.name for value in (*graph.input, *graph.initializer)}
    used |= {name for _, name in _subgraph_results(graph)}
    prefix = "observed_"
    while any(name.startswith(prefix) for name in used):
        prefix = f"_{prefix}"
    return prefix
