"""What the rules look at: the model as it is, the float model inside it, and what the target wants of that one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.analysis.fragile import fragile
from graphopt.analysis.legality.grid import EIGHT_BITS, SIXTEEN_BITS, Grid
from graphopt.analysis.legality.skeleton import NARROW_FLOATS, Skeleton, strip
from graphopt.analysis.placement import Placement, place
from graphopt.analysis.precision.wide_placement import place_widths
from graphopt.ir import Graph, Node, Tensor, Variable, from_proto, to_proto
from graphopt.ir.linear import linear_view
from graphopt.ir.ops import LINEAR
from graphopt.quant import Scheme
from graphopt.targets import Role, Target


@dataclass(frozen=True)
class Found:
    """A rule that is broken, before the target is asked what comes of it.

    Attributes:
        rule: its id.
        node: where.
        text: what is there.
        tensor: the tensor at fault.
        affects: other nodes whose integer kernels it concerns.
        fixable: overrides the rule's own.
    """

    rule: str
    node: Node
    text: str
    tensor: str = ""
    affects: tuple[Node, ...] = ()
    fixable: bool | None = None


Check = Callable[["Scene"], Iterator[Found]]


@dataclass(frozen=True)
class Scene:
    """A Q/DQ model (`graph`, never changed), the float model inside it, and where the target wants integers there.

    `narrow`: it computes in 16-bit floats around its integers, which `lint --fix` leaves alone. `wide`: nodes of the
    float model that read activations of 16 bits.
    """

    graph: Graph
    target: Target
    skeleton: Skeleton
    placement: Placement
    narrow: bool = False
    wide: frozenset[Node] = frozenset()

    def table(self, node: Node) -> Target:
        """What the target wants of a node of the float model: of kernels with 16-bit activations, if it reads these."""
        return self.target.wide or self.target if node in self.wide else self.target

    @property
    def inner(self) -> Graph:
        """The float model."""
        return self.skeleton.graph

    def data_grid(self, node: Node, index: int | None) -> Grid | None:
        """The grid that input `index` of a node of the float model is read on, or None when it is read in float."""
        grids = self.skeleton.read(node, index)
        return grids[-1] if grids else None

    def in_integers(self, node: Node, index: int) -> Grid | None:
        """`data_grid`, also through operators for which the target wants Q/DQ before them only."""
        grid, tensor = self.data_grid(node, index), node.inputs[index]
        while grid is None and tensor.inputs:
            mover = tensor.inputs[0]
            rule = self.target.rules.get(mover.op)
            if mover not in self.placement.quantized or rule is None or rule.output_quantized:
                return None
            if rule.role is not Role.SAME_SCALE:
                return None
            grid, tensor = self.data_grid(mover, 0), mover.inputs[0]
        return grid

    def scheme_of(self, tensor: Tensor, grid: Grid) -> Scheme:
        """How the target wants an activation that is on `grid`, whose number of bits may be told from it."""
        if self.target.wide is not None and grid.dtype in SIXTEEN_BITS:
            return self.target.wide.activation
        for member, scheme in self.placement.schemes.items():
            if member is tensor or self.share(member, tensor):
                return scheme
        return self.target.activation

    def share(self, one: Tensor, other: Tensor) -> bool:
        """Whether the target wants one scale for both."""
        shared = self.placement.shared
        return one in shared.parents and other in shared.parents and shared[one] is shared[other]


def look(graph: Graph, target: Target) -> Scene:
    """Compare a model with what the target wants of its float model; layers that are float on both inputs stay so.

    `graph` is copied: weights are dequantized for the time of the check.
    """
    inner = from_proto(to_proto(graph))
    narrow = False
    for tensor in inner.tensors().values():
        # Strongly typed models compute in float16 around the same integers.
        if isinstance(tensor, Variable) and str(tensor.dtype) in NARROW_FLOATS:
            inner.set_type(tensor, np.dtype(np.float32), tensor.shape)
            narrow = True
    skeleton = strip(inner)
    stays = _stays_float(skeleton, target)
    wide = _readers(skeleton, SIXTEEN_BITS) if target.wide is not None else frozenset[Node]()
    if not wide:
        return Scene(graph, target, skeleton, place(inner, target, stays), narrow)
    kept = {node.name: "the model's maker left it in float" for node in inner.nodes if stays(node)}
    others = {node.name for node in _readers(skeleton, EIGHT_BITS) - wide}
    widths = place_widths(inner, target, kept, {node.name for node in wide} if others else None, others)
    return Scene(graph, target, skeleton, widths.merged(), narrow, wide)


def _readers(skeleton: Skeleton, dtypes: frozenset[np.dtype[Any]]) -> frozenset[Node]:
    """Nodes of the float model that read activations of these types."""
    found: set[Node] = set()
    for node in skeleton.graph.nodes:
        read = (skeleton.read(node, i) for i, t in node.present_inputs() if isinstance(t, Variable))
        if any(grids and grids[-1].dtype in dtypes for grids in read):
            found.add(node)
    return frozenset(found)


def is_integer_read(grids: tuple[Grid, ...]) -> bool:
    """Whether these are activations or weights of 8 or 16 bits (a bias has 32)."""
    return bool(grids) and grids[-1].dtype in EIGHT_BITS | SIXTEEN_BITS


def _stays_float(skeleton: Skeleton, target: Target) -> Callable[[Node], bool]:
    """What the model's maker left in float: layers of which neither weight nor activation is quantized, or that are
    kept apart from what is behind them, where the target would mistake their type; and operators that combine nothing
    quantized with the result of a float operator, where integers gain nothing, or that planning finds fragile.
    """
    delicate = fragile(skeleton.graph, target)

    def kept(node: Node) -> bool:
        rule = target.rules.get(node.op) if node.is_standard else None
        if target.mistakes_products and _is_identity(node):
            return True
        if not node.is_op(*LINEAR):
            if node in delicate:
                activations = [i for i, t in node.present_inputs() if isinstance(t, Variable)]
                read_whole = all(is_integer_read(skeleton.read(node, i)) for i in activations)
                return not (read_whole and any(skeleton.writes.get(t) for t in node.present_outputs()))
            read = any(is_integer_read(skeleton.read(node, i)) for i, _ in node.present_inputs())
            if rule is None or rule.role is not Role.COMPUTE:
                return False
            return not read and any(_is_float_result(skeleton.graph, target, t) for _, t in node.present_inputs())
        linear = linear_view(skeleton.graph, node)
        indices = (0, 1) if linear is None else (linear.data_index, linear.weight_index)
        behind = skeleton.graph.sole_consumer(node.outputs[0])
        if target.mistakes_products and behind is not None and _is_identity(behind):
            indices = indices[1:]
        return not any(is_integer_read(skeleton.read(node, i)) for i in indices)

    return kept


def _is_identity(node: Node) -> bool:
    """Whether it is a LeakyRelu that changes nothing: it keeps a product's type apart from what is behind it."""
    return node.is_op("LeakyRelu") and node.attr("alpha", 0.01) == 1.0


def _is_float_result(graph: Graph, target: Target, tensor: Tensor) -> bool:
    """Whether an operator makes `tensor` that the target only runs in float."""
    node = graph.producer(tensor)
    return node is not None and node.op not in target.rules and node.op not in target.fused_activations
