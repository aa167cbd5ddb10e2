"""Models in which really just one source of error is there, written with onnx.helper: what sensitivity is held to.

Nothing of the code under test is asked: what is rounded where follows from the plan, the regions and the float model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphopt.analysis.precision.types import Regions
from graphopt.quant import QuantPlan, dequantize, round_balanced, solve_params
from tests.support.rewrite import run

_FLOATS = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


def with_weights(
    model: onnx.ModelProto, plan: QuantPlan, regions: Regions, region: str, precision: str
) -> onnx.ModelProto:
    """The model with one region's weights, and what it computes, in a precision."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    inside = regions[region].nodes
    stored = {t.name: numpy_helper.to_array(t) for t in copy.graph.initializer}
    read = {x for n in copy.graph.node if n.name in inside for x in n.input if x in stored}
    for name in sorted(read) if precision in _FLOATS else regions[region].weights:
        values = stored[name]
        if values.dtype != np.float32:
            continue
        if precision == "int8":
            if name not in plan.tensors:
                continue
            params = solve_params(plan.solved_ranges()[name], plan.tensors[name].scheme)
            values = dequantize(round_balanced(values, params), params)
        else:
            values = values.astype(np.float16).astype(np.float32)
        copy.graph.initializer.append(numpy_helper.from_array(values, f"{name}_{region}"))
        for node in copy.graph.node:
            if node.name in inside:
                node.input[:] = [f"{name}_{region}" if x == name else x for x in node.input]
    if precision in _FLOATS:
        inferred = onnx.shape_inference.infer_shapes(model).graph
        types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}
        for name in [t for n in copy.graph.node if n.name in inside for t in n.output]:
            if types[name] == TensorProto.FLOAT:
                _round_result(copy, name, precision)
    return copy


def with_tensor(model: onnx.ModelProto, plan: QuantPlan, tensor: str, form: str) -> onnx.ModelProto:
    """The model with one tensor rounded for its readers: those of the plan in int8, all of them else."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    if form in _FLOATS:
        _cast(copy, tensor, f"{tensor}_rounded", form)
        for node in copy.graph.node:
            if node.name != f"to rounded {tensor}":
                node.input[:] = [f"{tensor}_rounded" if x == tensor else x for x in node.input]
    else:
        entry = plan.tensors[tensor]
        if entry.is_output or any(edge.node not in {n.name for n in copy.graph.node} for edge in entry.edges):
            _on_grid(copy, plan, tensor, f"{tensor}_rounded")
            _swap(copy, tensor, f"{tensor}_rounded")
        else:
            _on_grid(copy, plan, tensor, f"{tensor}_rounded")
            for edge in entry.edges:
                node = next(n for n in copy.graph.node if n.name == edge.node)
                node.input[edge.index] = f"{tensor}_rounded"
    return _sorted(copy)


def loss(
    model: onnx.ModelProto, other: onnx.ModelProto, feeds: Sequence[Mapping[str, np.ndarray]], outputs: Sequence[int]
) -> float:
    """Σ (y − y′)² / Σ y² over the samples, the mean over the outputs of these numbers."""
    left = [run(model, dict(feed)) for feed in feeds]
    right = [run(other, dict(feed)) for feed in feeds]
    shares: list[float] = []
    for k in outputs:
        noise = sum(float(((a[k].astype(np.float64) - b[k]) ** 2).sum()) for a, b in zip(left, right, strict=True))
        shares.append(noise / sum(float((a[k].astype(np.float64) ** 2).sum()) for a in left))
    return sum(shares) / len(shares)


def _on_grid(model: onnx.ModelProto, plan: QuantPlan, tensor: str, result: str) -> None:
    params = solve_params(plan.solved_ranges()[tensor], plan.tensors[tensor].scheme)
    names = f"{tensor}_s", f"{tensor}_z"
    for name, value in zip(names, (params.scale, params.zero_point), strict=True):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    model.graph.node.append(
        helper.make_node("QuantizeLinear", [tensor, *names], [f"{tensor}_q"], name=f"to rounded {tensor}")
    )
    model.graph.node.append(
        helper.make_node("DequantizeLinear", [f"{tensor}_q", *names], [result], name=f"rounded {tensor}")
    )


def _cast(model: onnx.ModelProto, tensor: str, result: str, form: str) -> None:
    narrow = f"{tensor}_narrow"
    model.graph.node.append(helper.make_node("Cast", [tensor], [narrow], name=f"to rounded {tensor}", to=_FLOATS[form]))
    model.graph.node.append(
        helper.make_node("Cast", [narrow], [result], name=f"rounded {tensor}", to=TensorProto.FLOAT)
    )


def _round_result(model: onnx.ModelProto, tensor: str, form: str) -> None:
    """What a node gives is rounded for everybody, the model's output included."""
    _cast(model, tensor, f"{tensor}_rounded", form)
    _swap(model, tensor, f"{tensor}_rounded")
    model.CopyFrom(_sorted(model))


def _swap(model: onnx.ModelProto, tensor: str, rounded: str) -> None:
    """Let the rounded tensor have the name, and the exact one another."""
    exact = f"{tensor}_exact"
    for node in model.graph.node:
        rounding = node.name == f"to rounded {tensor}"
        node.output[:] = [exact if x == tensor else tensor if x == rounded else x for x in node.output]
        if rounding:
            node.input[:] = [exact if x == tensor else x for x in node.input]


def _sorted(model: onnx.ModelProto) -> onnx.ModelProto:
    """Nodes in an order in which each comes behind what it reads."""
    made = {name for node in model.graph.node for name in node.output}
    left, done = list(model.graph.node), set[str]()
    ordered: list[onnx.NodeProto] = []
    while left:
        node = next(n for n in left if all(x not in made or x in done for x in n.input))
        left.remove(node)
        ordered.append(node)
        done.update(node.output)
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    return model
