"""Which layers of a Q/DQ model compute what in the float model that it was made from.

    float:      x → Conv → y                            a layer computes with what comes out of DequantizeLinear;
    quantized:  x → Q → DQ → Conv(·, DQ(W_q)) → y       operators that only move values belong to its reading

Layers are found by the name of their result; where a tool gave the name of a graph output to the DequantizeLinear
behind it, by that; else by the name of their node. A name alone proves nothing: where a rewrite folded
BatchNormalization into a layer, or moved scales between layers, the tensor of that name holds other values. So the
weights are compared, and what reads the result. Works for any tool's model; what can't be paired is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphopt.analysis.legality.grid import read_grid
from graphopt.backends.planned import is_dequantize, is_integer_operator, is_quantize
from graphopt.ir import FLOAT_TYPES, Constant, Graph, Node, Tensor, fixed_value
from graphopt.ir.ops import ELEMENTWISE_UNARY, LINEAR, MOVES_VALUES, RESHAPES

# Rounding moves a weight by half a step, compensating for other errors by a few; scaling a channel moves most of them
# by many.
_SAME_WEIGHT_STEPS = 2.0
_SAME_FLOAT_WEIGHT = 0.01  # of the largest weight, where there are no steps
# What onnxruntime's quantizer appends to a tensor's name for its integers, and `lower-integer-operators` behind that
# for the real values of these.
_INTEGERS, _REAL_VALUES = "_quantized", "_real"
_ACTIVATIONS = ELEMENTWISE_UNARY | {"Clip", "PRelu"}
_SCALES = frozenset({"Add", "BatchNormalization", "Div", "Mul", "Sub"})


@dataclass(frozen=True)
class PairedLayer:
    """A layer of the quantized model.

    Attributes:
        node: its node in the quantized model.
        result: name of the tensor in the float model that holds what the layer would compute without quantization.
        reads: tensor of the quantized model that is read, perhaps through Q/DQ → its counterpart in the float model.
    """

    node: Node
    result: str
    reads: Mapping[str, str]

    @property
    def output(self) -> str:
        """Name of the result in the quantized model."""
        return self.node.outputs[0].name


@dataclass(frozen=True)
class PairedTensor:
    """An activation that the quantized model rounds.

    Attributes:
        output: name of the DequantizeLinear's result in the quantized model.
        result: name of the tensor in the float model.
        reads: as in `PairedLayer`.
    """

    output: str
    result: str
    reads: Mapping[str, str]


@dataclass(frozen=True)
class Unpaired:
    """A layer of the quantized model without a counterpart, and why."""

    node: str
    op: str
    reason: str


@dataclass(frozen=True)
class Pairing:
    """What `pair_layers` found, in the order of the quantized model."""

    layers: tuple[PairedLayer, ...]
    tensors: tuple[PairedTensor, ...]
    unpaired: tuple[Unpaired, ...]


def pair_layers(reference: Graph, quantized: Graph) -> Pairing:
    """Pair the layers of the main graph of `quantized` with tensors of `reference`. Changes nothing; linear in size."""
    return _Pairing(reference, quantized).result()


def is_carrier(node: Node) -> bool:
    """Whether a node belongs to how a layer reads its input: Q, DQ, and operators that only move values."""
    return is_quantize(node) or is_dequantize(node) or (node.is_standard and node.op in MOVES_VALUES)


class _Pairing:
    def __init__(self, reference: Graph, quantized: Graph) -> None:
        self.reference, self.quantized = reference, quantized
        self.known = {n: t for n, t in reference.tensors().items() if not isinstance(t, Constant)}
        self.by_node = {n.name: n for n in reference.nodes}
        # Results of carriers behind Q/DQ, in graph order.
        self.touched: dict[Tensor, None] = {}
        self.found: dict[Tensor, str | None] = {}

    def result(self) -> Pairing:
        layers: list[PairedLayer] = []
        tensors: dict[str, PairedTensor] = {}
        unpaired: list[Unpaired] = []
        for node in self.quantized.nodes:
            touched = any(t in self.touched for _, t in node.present_inputs())
            if is_carrier(node):
                if touched or is_quantize(node) or is_dequantize(node):
                    self.touched.update(dict.fromkeys(node.present_outputs()))
                if is_dequantize(node) and (found := self.tensor(node)) is not None:
                    tensors.setdefault(found.result, found)
            elif is_integer_operator(node):
                unpaired.append(Unpaired(node.name, node.op, "its operator computes with integers itself"))
            elif touched and not any(True for _ in node.bodies()):
                layer = self.layer(node)
                layers += [layer] if isinstance(layer, PairedLayer) else []
                unpaired += [] if isinstance(layer, PairedLayer) else [Unpaired(node.name, node.op, layer)]
        return Pairing(tuple(layers), tuple(tensors.values()), tuple(unpaired))

    def layer(self, node: Node) -> PairedLayer | str:
        """The paired layer, or why there is none."""
        output = node.outputs[0]
        if output.dtype is None or output.dtype not in FLOAT_TYPES:
            return "its result isn't a float tensor"
        result = self.result_of(node)
        if result is None:
            return f"the float model has no tensor '{output.name}'"
        reads = self.reads(node)
        if isinstance(reads, str):
            return reads
        return self.difference(node, self.known[result]) or PairedLayer(node, result, reads)

    def result_of(self, node: Node) -> str | None:
        """The tensor that holds what `node` should compute.

        A tool that leaves a Relu to the grid behind it gives the Relu's name to the result of the layer.
        """
        name = self.counterpart(node.outputs[0])
        made_by = None if name is None else self.reference.producer(self.known[name])
        if made_by is None or made_by.op == node.op:
            return name
        if made_by.is_op(*_ACTIVATIONS):
            before = made_by.inputs[0]
            layer = self.reference.producer(before)
            return before.name if layer is not None and layer.op == node.op else name
        return name

    def tensor(self, dequantize: Node) -> PairedTensor | None:
        """The activation that a Q → DQ pair rounds, where it has a counterpart."""
        quantize = self.quantized.producer(dequantize.inputs[0])
        if quantize is None or not is_quantize(quantize):
            return None
        root = quantize.inputs[0]
        if isinstance(root, Constant) or root in self.touched:
            return None
        name = self.counterpart(root)
        reads = self.reads(dequantize)
        if name is None or isinstance(reads, str):
            return None
        return PairedTensor(dequantize.outputs[0].name, name, reads)

    def reads(self, node: Node) -> dict[str, str] | str:
        """Where the values that `node` reads come from, behind carriers; or why that isn't known."""
        found: dict[str, str] = {}
        for tensor in self.roots(node):
            name = self.counterpart(tensor)
            if name is None:
                return f"the float model has no tensor '{tensor.name}', which it reads"
            if tensor.dtype is None or self.known[name].dtype != tensor.dtype:
                return f"'{tensor.name}', which it reads, has another type in the float model"
            if tensor.dtype.kind not in "fiub":
                return f"'{tensor.name}', which it reads, is {tensor.dtype}, which can't be fed"
            found[tensor.name] = name
        return found

    def roots(self, node: Node) -> Iterator[Tensor]:
        """The tensors before the carriers that feed `node`, constants left out; each once."""
        seen: set[Tensor] = set()
        pending: list[Tensor] = [t for _, t in node.present_inputs()]
        while pending:
            tensor = pending.pop()
            if tensor in seen or (isinstance(tensor, Constant) and not tensor.is_input):
                continue
            seen.add(tensor)
            producer = self.quantized.producer(tensor)
            if producer is not None and tensor in self.touched:
                pending += [t for _, t in producer.present_inputs()]
            elif producer is None or not producer.is_op("Constant"):
                yield tensor

    def counterpart(self, tensor: Tensor) -> str | None:
        """Name of the tensor in the float model that stands for the same value."""
        if tensor not in self.found:
            self.found[tensor] = self._counterpart(tensor)
        return self.found[tensor]

    def _counterpart(self, tensor: Tensor) -> str | None:
        if tensor.name in self.known:
            return tensor.name
        readers = [
            n
            for q in self.quantized.consumers(tensor)
            if is_quantize(q)
            for n in self.quantized.consumers(q.outputs[0])
        ]
        names = [n.outputs[0].name for n in readers if is_dequantize(n)]
        for name in (*names, tensor.name.removesuffix(_REAL_VALUES).removesuffix(_INTEGERS)):
            if name in self.known:
                return name
        producer = self.quantized.producer(tensor)
        if producer is None:
            return None
        return self.twin_result(producer, next(i for i, t in enumerate(producer.outputs) if t is tensor))

    def twin_result(self, node: Node, index: int) -> str | None:
        """Result number `index` of the float model's node of the same name and operator."""
        twin = self.by_node.get(node.name)
        if twin is None or twin.op != node.op or len(twin.outputs) != len(node.outputs):
            return None
        return None if twin.outputs[index].is_empty() else twin.outputs[index].name

    def difference(self, node: Node, result: Tensor) -> str | None:
        """Why a linear layer doesn't compute what the float model does; None where nothing speaks against it."""
        twin = self.reference.producer(result)
        if twin is None or not node.is_op(*LINEAR):
            return None
        if twin.op != node.op:
            return f"the {twin.op} behind it is left to the grid" if twin.is_op(*_ACTIVATIONS) else None
        if _differ(self.quantized, node, twin):
            return "its weights differ by more than rounding: a rewrite has rescaled them"
        folded = sorted(_scaled_behind(self.reference, result) - _scaled_behind(self.quantized, node.outputs[0]))
        return f"a rewrite has folded the {folded[0]} behind it" if folded else None


def _scaled_behind(graph: Graph, tensor: Tensor) -> set[str]:
    """Operators that scale or shift by constants what they read of `tensor`, Q/DQ between."""
    found: set[str] = set()
    pending = graph.consumers(tensor)
    while pending:
        node = pending.pop()
        if is_quantize(node) or is_dequantize(node):
            pending += graph.consumers(node.outputs[0])
        elif node.is_op(*_SCALES) and sum(weight_of(graph, t) is None for _, t in node.present_inputs()) == 1:
            found.add(node.op)
    return found


def _differ(graph: Graph, node: Node, twin: Node) -> bool:
    """Whether the weights of both layers are further apart than rounding brings them."""
    for (_, quantized), (_, exact) in zip(node.present_inputs()[:2], twin.present_inputs()[:2], strict=False):
        ours, theirs = weight_of(graph, quantized), fixed_value(exact)
        if ours is None or theirs is None:
            continue
        values, step = ours
        if values.shape != theirs.shape:
            return True
        error = np.abs(values - theirs.astype(np.float64))
        unit = step * _SAME_WEIGHT_STEPS if step.any() else _SAME_FLOAT_WEIGHT * np.abs(theirs).max(initial=0.0)
        if error.size and np.median(error - unit) > 0:
            return True
    return False


def weight_of(graph: Graph, tensor: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """A constant's values as they are read, and the step of its grid (0 for floats), both broadcastable; or None."""
    value = fixed_value(tensor)
    if value is not None:
        return value.astype(np.float64), np.zeros(())
    node = graph.producer(tensor)
    if node is None:
        return None
    if node.is_op("Transpose", *RESHAPES):
        moved = weight_of(graph, node.inputs[0])
        if moved is None or not node.is_op("Transpose") or moved[1].ndim not in (0, moved[0].ndim):
            return None
        perm = list(node.attr("perm") or reversed(range(moved[0].ndim)))
        return moved[0].transpose(perm), moved[1].transpose(perm) if moved[1].ndim else moved[1]
    if not is_dequantize(node):
        return None
    stored = node.inputs[0]
    quantize = graph.producer(stored)
    if is_quantize(quantize) and quantize is not None:  # float weights, rounded when the model runs
        weight = weight_of(graph, quantize.inputs[0])
        grid = read_grid(quantize)
        return None if weight is None or grid.scale is None else (weight[0], np.asarray(grid.scale.max()))
    grid, integers = read_grid(node), fixed_value(stored)
    if integers is None or grid.scale is None or grid.zero_point is None or grid.is_block:
        return None
    shape = [-1 if i == grid.axis else 1 for i in range(integers.ndim)] if grid.axis is not None else []
    if grid.axis is None and grid.scale.size != 1:
        return None
    scale, zero_point = grid.scale.reshape(shape), grid.zero_point.reshape(shape)
    return (integers.astype(np.float64) - zero_point) * scale, scale.astype(np.float64)
