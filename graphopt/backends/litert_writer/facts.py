"""Shapes and constants of a model, found by inferring it with two batch sizes.

A size that is the same for both is static; one that differs changes with the batch. A value that shape arithmetic
gives for both is a constant. So no symbol has to be followed through Reshape and Concat.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.errors import ConfigError, UnsupportedError
from graphopt.ir import Constant, Graph, Node, Tensor, Variable, infer
from graphopt.ir.evaluate import NotEvaluableError, evaluate
from graphopt.ir.operands import static_shape
from graphopt.ir.ops import QUANTIZE, RESHAPES, is_random

# The second one divides no usual size, so that a coincidence doesn't look static.
BATCHES = (1, 7)
_LARGEST = 1 << 24  # elements of a constant that is computed here
_SHAPED = ("Reshape", "Expand", "Pad", "Resize", "Slice", "Tile")  # the values of inputs decide on the shape


@dataclass(frozen=True)
class Facts:
    """What is known before the model runs.

    Attributes:
        shapes: tensor → shape at batch 1.
        dynamic: tensor → axes that change with the batch.
        constants: tensor → value, for node outputs that are computed from shapes and constants alone.
        varying: those whose value changes with the batch. Nothing computes them in the .tflite: a Reshape's −1 does.
    """

    shapes: Mapping[Tensor, tuple[int, ...]]
    dynamic: Mapping[Tensor, frozenset[int]]
    constants: Mapping[Tensor, NDArray[Any]]
    varying: Mapping[Tensor, NDArray[Any]]


def find_facts(graph: Graph, sizes: Mapping[str, int]) -> Facts:
    """Infer the model; `sizes` fixes symbols ("height") or inputs' axes ("x:2"), the batch (axis 0) may stay symbolic.

    Raises:
        ConfigError: `sizes` names what isn't there.
        UnsupportedError: another axis is symbolic and has no size.
    """
    _fix_sizes(graph, sizes)
    symbolic = [t for t in graph.inputs if t.shape and not isinstance(t.shape[0], int)]
    one = _infer(graph, symbolic, BATCHES[0])
    many = _infer(graph, symbolic, BATCHES[1]) if symbolic else one
    if _fixes_batch(graph, one, many):
        many = one
    shapes = one.shapes
    dynamic: dict[Tensor, frozenset[int]] = {}
    for tensor, shape in shapes.items():
        other = many.shapes.get(tensor, shape)
        if len(other) == len(shape):
            dynamic[tensor] = frozenset(k for k, (a, b) in enumerate(zip(shape, other, strict=True)) if a != b)
    constants = {
        tensor: value
        for tensor, value in one.constants.items()
        if tensor in many.constants and np.array_equal(value, many.constants[tensor])
    }
    varying = {tensor: value for tensor, value in one.constants.items() if tensor not in constants}
    return Facts(shapes, dynamic, constants, varying)


@dataclass(frozen=True)
class _Inferred:
    shapes: dict[Tensor, tuple[int, ...]]
    constants: dict[Tensor, NDArray[Any]]


def _fixes_batch(graph: Graph, one: _Inferred, many: _Inferred) -> bool:
    """Whether the .tflite works with batch 1 only.

    A Reshape to a fixed shape behind a symbolic input says so. TRANSPOSE_CONV is told the size of its result by a
    constant: one that is computed would keep XNNPACK from running it.
    """
    if one.shapes.keys() - many.shapes.keys() or any(node.is_op("ConvTranspose") for node in graph.nodes):
        return True
    return any(
        node.is_op(*RESHAPES)
        and one.shapes.get(node.inputs[0]) != many.shapes.get(node.inputs[0])
        and one.shapes.get(node.outputs[0]) == many.shapes.get(node.outputs[0])
        for node in graph.nodes
    )


def _fix_sizes(graph: Graph, sizes: Mapping[str, int]) -> None:
    used: set[str] = set()
    for tensor in graph.inputs:
        if tensor.shape is None:
            raise UnsupportedError(f"input '{tensor.name}' has no known rank; export the model with its shape")
        dims = list(tensor.shape)
        for axis, dim in enumerate(dims):
            for key in (f"{tensor.name}:{axis}", *([dim] if isinstance(dim, str) else [])):
                if key in sizes and not isinstance(dims[axis], int):
                    dims[axis] = sizes[key]
                    used.add(key)
        graph.set_type(tensor, tensor.dtype, dims)
    if unknown := sorted(set(sizes) - used):
        raise ConfigError(f"size '{unknown[0]}' fits no symbolic axis of an input")
    if open_axes := open_sizes(graph):
        raise UnsupportedError(
            "a .tflite needs every size but the batch's: give one, by symbol or as input:axis, for "
            + ", ".join(open_axes)
        )


def open_sizes(graph: Graph) -> list[str]:
    """The inputs' axes, besides the batch, that have no number: "x:2 ('height')"."""
    return [
        f"{t.name}:{axis}" + (f" ('{dim}')" if isinstance(dim, str) else "")
        for t in graph.inputs
        for axis, dim in enumerate(t.shape or ())
        if axis > 0 and not isinstance(dim, int)
    ]


def _infer(graph: Graph, symbolic: list[Variable], batch: int) -> _Inferred:
    for tensor in symbolic:
        assert tensor.shape is not None
        graph.set_type(tensor, tensor.dtype, (batch, *tensor.shape[1:]))
    for node in graph.nodes:
        for output in node.present_outputs():
            graph.set_type(output, output.dtype, None)
    while True:
        infer(graph)
        found = _collect(graph)
        # Inference follows most shape arithmetic itself; what it gives up on gets its shape from here.
        pending = [n for n in graph.nodes if n.is_op(*_SHAPED) and n.outputs[0] not in found.shapes]
        solved = [
            n for n in pending if (shape := _solved(n, found, graph.opset)) and _state(graph, n.outputs[0], shape)
        ]
        if not solved:
            return found


def _collect(graph: Graph) -> _Inferred:
    shapes: dict[Tensor, tuple[int, ...]] = {}
    for tensor in graph.tensors().values():
        shape = static_shape(tensor.shape)
        if shape is not None:
            shapes[tensor] = shape
    constants: dict[Tensor, NDArray[Any]] = {}
    for node in graph.nodes:
        for output, value in zip(node.present_outputs(), _values(node, shapes, constants, graph.opset), strict=False):
            constants[output] = value
            shapes.setdefault(output, value.shape)
    return _Inferred(shapes, constants)


def _solved(node: Node, found: _Inferred, opset: int) -> tuple[int, ...] | None:
    """The shape of the output, when the input's shape and the values of the other inputs are known."""
    if node.is_op("Reshape"):
        return _reshaped(node, found)
    shape, dtype = found.shapes.get(node.inputs[0]), node.inputs[0].dtype
    if shape is None or dtype is None or math.prod(shape) > _LARGEST:
        return None
    inputs: list[NDArray[Any] | None] = [np.zeros(shape, dtype)]
    for tensor in node.inputs[1:]:
        value = tensor.values if isinstance(tensor, Constant) else found.constants.get(tensor)
        if value is None and not tensor.is_empty():
            return None
        inputs.append(value)
    try:
        return evaluate(node, inputs, opset)[0].shape
    except NotEvaluableError:
        return None


def _reshaped(node: Node, found: _Inferred) -> tuple[int, ...] | None:
    """The shape of a Reshape's output, when its input's and the wanted one are known."""
    source, target = found.shapes.get(node.inputs[0]), found.constants.get(node.inputs[1])
    if source is None or target is None:
        return None
    given = enumerate(target.tolist())
    sizes = [source[k] if d == 0 and not node.attr("allowzero", 0) else int(d) for k, d in given]
    known = math.prod(d for d in sizes if d != -1)
    return tuple(math.prod(source) // known if d == -1 else d for d in sizes) if known else None


def _state(graph: Graph, tensor: Variable, shape: tuple[int, ...]) -> bool:
    graph.set_type(tensor, tensor.dtype, shape)
    return True


def _values(
    node: Node, shapes: Mapping[Tensor, tuple[int, ...]], constants: Mapping[Tensor, NDArray[Any]], opset: int
) -> list[NDArray[Any]]:
    """The outputs of a node whose inputs are all known, else nothing. A weight's Q/DQ stays."""
    if node.op in QUANTIZE or is_random(node, opset) or any(True for _ in node.bodies()):
        return []
    if node.is_op("Shape") and node.inputs[0] in shapes:
        shape = np.array(shapes[node.inputs[0]], np.int64)
        return [shape[slice(node.attr("start", 0), node.attr("end"))]]
    if node.is_op("Size") and node.inputs[0] in shapes:
        return [np.array(np.prod(shapes[node.inputs[0]]), np.int64)]
    inputs: list[NDArray[Any] | None] = []
    for tensor in node.inputs:
        if tensor.is_empty():
            inputs.append(None)
        elif isinstance(tensor, Constant) and not tensor.is_input:
            inputs.append(tensor.values)
        elif tensor in constants:
            inputs.append(constants[tensor])
        else:
            return []
    try:
        values = evaluate(node, inputs, opset)
    except NotEvaluableError:
        return []
    return values if all(v.size <= _LARGEST for v in values) else []
