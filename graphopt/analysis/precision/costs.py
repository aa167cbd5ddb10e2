"""What an assignment of precisions takes that can be counted: multiply-accumulates times bits, and bytes of weights.

    bits   Σ MACs of a layer · bits of what it multiplies with: its weight's, or an activation's where it has no weight
    size   Σ bytes of the constants as the file holds them in each precision:

    | precision         | weight                                           | bias (where the target wants int32)    |
    |-------------------|--------------------------------------------------|----------------------------------------|
    | float32           | 4 bytes a value                                  | 4                                      |
    | float16, bfloat16 | 2                                                | 2                                      |
    | float16-weights   | 2                                                | 4                                      |
    | int8, int16x8     | 1, and 5 a channel: float32 scale and zero point | 12: int32, its scale, int32 zero point |
    | int4-weights      | 1/2 (packed), and 4 a block: float32 scale       | 4                                      |

A constant that several regions read is counted for the first. Scale and zero point of activations (5 bytes each) and a
bias that planning adds aren't counted; nor are names and the operators themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from graphopt.analysis.macs import linear_kind, node_macs
from graphopt.analysis.precision.types import Costs, Region, Regions
from graphopt.ir import FLOAT_TYPES, Constant, Graph, Node
from graphopt.ir.dtypes import onnx_dtype
from graphopt.ir.external import stored_bytes
from graphopt.ir.linear import bias_add, bias_operand, linear_view
from graphopt.quant.block_scales import fitting_block
from graphopt.quant.precision import PRECISIONS
from graphopt.targets import Target, planned_target

_SCALE_BYTES, _ZERO_POINT_BYTES, _INT32_BYTES = 4, 1, 4
_INTEGER = frozenset({"int8", "int16x8"})
_HALF = frozenset({"float16", "bfloat16"})


def bit_costs(graph: Graph, regions: Regions, shapes: Mapping[str, Sequence[int]] | None = None) -> Costs:
    """Multiply-accumulates times bits, of each region in each of its precisions.

    Layers outside of regions, those of nested graphs, are in `fixed`, in 32 bits. Divided by `total_macs` the cost of
    an assignment is its mean number of bits.

    Args:
        graph: shapes are inferred.
        regions: of this graph.
        shapes: those of tensors for one sample, where the graph leaves them open. A layer whose sizes aren't known
            counts nothing; `source` says how many there are.
    """
    layers = [(node, scope) for scope in graph.walk() for node in scope.nodes if linear_kind(node)]
    macs = {node.name: node_macs(node, shapes) for node, _ in layers}
    weighted = {node.name: any(isinstance(t, Constant) for t in node.inputs[:2]) for node, _ in layers}
    found: dict[tuple[str, str], float] = {}
    inside: set[str] = set()
    for region in regions.regions:
        own = [name for name in region.nodes if name in macs]
        inside.update(own)
        for name in region.precisions:
            precision = PRECISIONS[name]
            bits = (precision.activation_bits, precision.weight_bits)
            found[region.name, name] = float(sum((macs[layer] or 0) * bits[weighted[layer]] for layer in own))
    fixed = 32.0 * sum(count or 0 for layer, count in macs.items() if layer not in inside)
    unknown = sum(count is None for count in macs.values())
    note = f"; {unknown} layers of unknown size count nothing" if unknown else ""
    return Costs("bits", found, {}, fixed, f"multiply-accumulates times bits{note}", estimated=True)


def total_macs(costs: Costs) -> float:
    """The multiply-accumulates of all layers whose sizes are known, from `bit_costs`."""
    return (costs.fixed + sum(cost for (_, name), cost in costs.regions.items() if name == "float32")) / 32


def size_costs(graph: Graph, regions: Regions, *, block: int = 32) -> Costs:
    """Bytes of the constants as the ONNX file holds them, of each region in each of its precisions.

    Args:
        graph: with the plan for 8 bits, which says how each constant is stored.
        regions: of this graph.
        block: weights that share a scale in 4 bits, or fewer where the target wants blocks of one size.
    """
    constants = {c.name: c for c in graph.constants}
    everything = sum(_bytes(c) for scope in graph.walk() for c in scope.constants)
    nodes = {node.name: node for node in graph.nodes}
    counted: set[str] = set()
    found: dict[tuple[str, str], float] = {}
    for region in regions.regions:
        members = [nodes[name] for name in region.nodes]
        read = [t.name for node in members for t in node.inputs if isinstance(t, Constant) and t.name in constants]
        own = [n for n in dict.fromkeys([*region.weights, *read]) if n in constants and n not in counted]
        counted.update(own)
        held = _Held(graph, region, members, [constants[name] for name in own], block)
        found.update(((region.name, name), held.bytes(name)) for name in region.precisions)
    fixed = everything - sum(_bytes(constants[name]) for name in counted)
    return Costs("size", found, {}, float(fixed), "bytes of constants in the ONNX file")


@dataclass(frozen=True)
class _Held:
    """What a region holds: the constants that are counted for it."""

    graph: Graph
    region: Region
    nodes: Sequence[Node]
    constants: Sequence[Constant]
    block: int

    def bytes(self, precision: str) -> float:
        """Bytes of all of them in a precision."""
        integer_bias = precision in _INTEGER and self._target is not None and self._target.bias == "int32"
        biases = dict(self._biases()) if integer_bias else {}
        return float(sum(self._bytes(constant, precision, biases.get(constant.name)) for constant in self.constants))

    def _bytes(self, constant: Constant, precision: str, channels: int | None) -> int:
        """Bytes of one; `channels`: of the layer that it is the bias of, None for what is no bias."""
        stored = constant.name in self.region.weights
        if constant.dtype not in FLOAT_TYPES:
            return _bytes(constant)
        if precision in _INTEGER:
            if channels is not None:
                return max(prod(constant.shape), channels) * (2 * _INT32_BYTES + _SCALE_BYTES)
            if stored or constant.name in self.graph.plan.tensors:
                return prod(constant.shape) + self._scales(constant) * (_SCALE_BYTES + _ZERO_POINT_BYTES)
        if precision in _HALF or (stored and precision == "float16-weights"):
            return 2 * prod(constant.shape)
        if stored and precision == "int4-weights" and (blocks := self._blocks(constant)):
            return -(-prod(constant.shape) // 2) + blocks * _SCALE_BYTES
        return _bytes(constant)

    def _scales(self, constant: Constant) -> int:
        """Scales of a constant in 8 bits: one a channel, as planned, or as its layer has channels."""
        entry = self.graph.plan.tensors.get(constant.name)
        if entry is not None:
            axis = entry.scheme.channel_axis
            return 1 if axis is None else constant.shape[axis]
        views = [linear_view(self.graph, node) for node in self.nodes]
        axes = [view.out_axis for view in views if view is not None and view.weight is constant]
        return constant.shape[axes[0]] if axes else 1

    def _blocks(self, constant: Constant) -> int:
        """Scales of a constant in blocks of 4 bits along the summed axis; 0 where the target has no block for it."""
        views = [linear_view(self.graph, node) for node in self.nodes]
        axes = [view.in_axis for view in views if view is not None and view.weight is constant]
        if not axes or not prod(constant.shape):
            return 0
        size = constant.shape[axes[0]]
        rule = None if self._target is None else self._target.block_weights
        block = fitting_block(size, self.block, divides=rule is None or not rule.sizes)
        return 0 if block is None else prod(constant.shape) // size * -(-size // block)

    @property
    def _target(self) -> Target | None:
        return planned_target(self.graph.plan) if self.graph.plan.target else None

    def _biases(self) -> Iterable[tuple[str, int]]:
        """Name of each bias, and the channels of its layer."""
        for node in self.nodes:
            view = linear_view(self.graph, node)
            if view is None:
                continue
            add = bias_add(self.graph, view)
            bias = node.input(view.bias_index) if view.bias_index is not None else None
            if add is not None:
                bias = add.inputs[1 - bias_operand(add, view.output)]
            if isinstance(bias, Constant):
                yield bias.name, self._scales(view.weight)


def _bytes(constant: Constant) -> int:
    return stored_bytes(onnx_dtype(constant.dtype), prod(constant.shape))
