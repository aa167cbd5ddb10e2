"""Graph → text for people: stable, one line per node, made to be read and compared.

    model 'digits', opset 13, IR 7
    input  %x: float32[N,1,8,8]
    output %y: float32[N,10]
    2 constants, 1.2 kB

    %t: float32[N,8,8,8] = Conv(%x, %w: float32[8,1,3,3] in [-0.51, 0.49], %b: float32[8] …) {pads=[1,1,1,1]}  "conv1"
        # %t int8 sym, range [-3.1, 3.1], scale 0.02441

Constants are shown where they are read. Values that are in another file aren't loaded for this.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx_graphsurgeon.ir.tensor import LazyValues

from graphopt.ir.elements import Body, Constant, Node, Tensor, Variable
from graphopt.ir.graph import Graph
from graphopt.ir.stored import SparseConstant, loaded
from graphopt.ir.tensor_types import type_text
from graphopt.ir.to_proto import ir_version
from graphopt.quant.arithmetic import solve_params
from graphopt.quant.plan import TensorPlan
from graphopt.quant.scheme import Range

_INDENT = "    "
_MAX_VALUES = 8
_MAX_TEXT = 60


class ValueTexts:
    """What is shown of constants' values, for whoever prints a graph again and again: weights are looked at once.

    Known by the array (or what it will be loaded from), which `Graph` never changes in place. Keeps no array alive.
    """

    def __init__(self) -> None:
        self._found: dict[int, tuple[weakref.ref[NDArray[Any] | LazyValues], str]] = {}

    def of(self, constant: Constant) -> str:
        """` = value` when it is tiny, ` in [min, max]` when it isn't, nothing when it would have to be read."""
        stored = constant.unloaded
        known = self._found.get(id(stored))
        if known is not None and known[0]() is stored:
            return known[1]
        text = _values(constant)
        self._found[id(stored)] = weakref.ref(stored), text
        return text


def print_graph(graph: Graph, values: ValueTexts | None = None) -> str:
    """The model as text, with the quantization plan beside the tensors and nodes that it is about.

    Args:
        graph: the model.
        values: remembers what is shown of constants from call to call.
    """
    return "\n".join([*_header(graph), *_Printer(graph, values or ValueTexts()).body(graph, ""), ""])


def _header(graph: Graph) -> Iterator[str]:
    facts = graph.facts
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in facts.opset_imports.items())
    yield f"model '{graph.name}', opset {opsets}, IR {ir_version(facts)}"
    for tensor in graph.inputs:
        yield f"input  {_typed(tensor)}"
    for constant in graph.constants:
        if constant.is_input:
            yield f"input  {_typed(constant)}, with a default"
    for tensor in graph.outputs:
        yield f"output {_typed(tensor)}"
    constants = [c for scope in graph.walk() for c in scope.constants]
    yield f"{len(constants)} constants, {sum(c.nbytes for c in constants)} bytes"
    if facts.functions:
        yield "functions " + ", ".join(f"{f.domain}::{f.name}" for f in facts.functions)
    if graph.plan.target is not None:
        yield f"plan for {graph.plan.target.name}: {len(graph.plan.tensors)} tensors"
    yield ""


class _Printer:
    def __init__(self, graph: Graph, values: ValueTexts) -> None:
        self.plan = graph.plan
        self.ranges = _solved_ranges(graph)
        self.values = values

    def body(self, graph: Graph, indent: str) -> Iterator[str]:
        """The nodes of one graph, with its inputs' plan first."""
        for tensor in graph.inputs:
            yield from self.planned(tensor, indent)
        for node in graph.nodes:
            yield from self.node(node, indent)

    def node(self, node: Node, indent: str) -> Iterator[str]:
        outputs = ", ".join(_typed(t) if not t.is_empty() else "_" for t in node.outputs)
        inputs = ", ".join(self.input(t) for t in node.inputs)
        op = f"{node.domain}::{node.op}" if node.domain else node.op
        attrs = [f"{k}={attribute_text(v)}" for k, v in sorted(node.attrs.items()) if not isinstance(v, Body)]
        options = f" {{{', '.join(attrs)}}}" if attrs else ""
        yield f'{indent}{outputs} = {op}({inputs}){options}  "{node.name}"'
        for says, reasons in (("integer", self.plan.quantized_nodes), ("float", self.plan.float_nodes)):
            if node.name in reasons:
                yield f"{indent}{_INDENT}# {says}: {reasons[node.name]}"
        for tensor in node.inputs:
            if isinstance(tensor, Constant):
                yield from self.planned(tensor, indent)
        for tensor in node.outputs:
            yield from self.planned(tensor, indent)
        for name, body in node.bodies():
            inputs = ", ".join(_typed(t) for t in body.inputs)
            yield f"{indent}{_INDENT}{name} '{body.name}' ({inputs}) {{"
            yield from self.body(body, indent + 2 * _INDENT)
            yield f"{indent}{_INDENT}}} → {', '.join(f'%{t.name}' for t in body.outputs)}"

    def input(self, tensor: Tensor) -> str:
        """A tensor where it is read: a constant with its type and values."""
        if tensor.is_empty():
            return "_"
        return f"%{tensor.name}" if isinstance(tensor, Variable) else f"{_typed(tensor)}{self.values.of(tensor)}"

    def planned(self, tensor: Tensor, indent: str) -> Iterator[str]:
        entry = self.plan.tensors.get(tensor.name)
        if entry is None:
            return
        parts = [f"%{entry.tensor} {entry.scheme}", *self.scale(entry)]
        if entry.group is not None:
            parts.append(f"group {entry.group}")
        parts.append(f"read by {', '.join(map(str, entry.edges)) or 'nobody'}")
        if entry.is_output:
            parts.append("graph output")
        if entry.reason:
            parts.append(entry.reason)
        yield f"{indent}{_INDENT}# {', '.join(parts)}"

    def scale(self, entry: TensorPlan) -> Iterator[str]:
        solved = self.ranges.get(entry.tensor)
        if solved is None:
            return
        params = solve_params(solved, entry.scheme)
        yield f"range [{_number(solved.low.min())}, {_number(solved.high.max())}]{' fixed' if entry.fixed else ''}"
        scales = params.scale
        if scales.ndim:
            yield f"{scales.size} scales {_number(scales.min())} … {_number(scales.max())}"
        else:
            yield f"scale {_number(scales)}, zero point {params.zero_point}"


def _solved_ranges(graph: Graph) -> dict[str, Range]:
    """Ranges that scales come from; each tensor's own where some are still to be calibrated."""
    try:
        return graph.plan.solved_ranges()
    except KeyError:
        return {entry.tensor: entry.range for entry in graph.plan if entry.range is not None}


def _typed(tensor: Tensor) -> str:
    proto = tensor.type_proto if isinstance(tensor, Variable) else None
    return f"%{tensor.name}: {type_text(tensor.dtype, tensor.shape, proto)}"


def _values(constant: Constant) -> str:
    stored = constant.unloaded
    lazy = constant.lazy
    if (lazy is not None and lazy.is_external) or isinstance(stored, SparseConstant):
        return " in another file" if lazy is not None else " sparse"
    values = loaded(stored)
    if values.size <= _MAX_VALUES:
        return f" = {_list(values)}"
    if values.dtype.kind not in "fiuV" or values.dtype.names:
        return ""
    numbers = values.astype(np.float64)
    return f" in [{_number(numbers.min())}, {_number(numbers.max())}]"


def _list(values: NDArray[Any]) -> str:
    items: list[Any] = values.reshape(-1).tolist()
    texts = [_number(v) if values.dtype.kind in "fV" else repr(v) for v in items]
    return texts[0] if values.ndim == 0 else f"[{', '.join(texts)}]"


def _number(value: Any) -> str:
    """Enough digits to tell two ranges apart, few enough to read."""
    return f"{float(value):.6g}"


def attribute_text(value: Any) -> str:
    """An attribute's value on one line; long ones are cut."""
    if isinstance(value, Constant):
        return f"{type_text(value.dtype, value.shape)}{_values(value)}"
    if isinstance(value, onnx.AttributeProto):
        return _short(" ".join(str(value).split()))
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, list):
        return f"[{','.join(attribute_text(item) for item in cast('list[Any]', value))}]"
    return _short(repr(value)) if isinstance(value, (str, bytes)) else str(value)


def _short(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"
