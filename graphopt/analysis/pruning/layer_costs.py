"""What each layer of the main graph costs when the groups keep so many units: exact, without pruning anything.

    Conv [64 → 128, 3×3] on 28×28, input of group a, output of group b:
    MACs = 28·28·3·3·a·b        parameters = 9·a·b + b (bias)        bytes = 4 · parameters in float32

Every size is a constant plus elements a unit × units kept (`CountPolynomial`), for any operator and layout, since it is
read off the slots that the groups run through. The copy of an operand that says sizes (a Reshape's target that others
read, too), which removal may have to make, is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from graphopt.analysis.coupling.groups import Coupling, Slot
from graphopt.analysis.macs import linear_kind, mac_axes, node_macs, sizes_of_sample
from graphopt.analysis.pruning.count_polynomial import CountPolynomial
from graphopt.ir import Constant, Graph, Node, Tensor
from graphopt.ir.dtypes import onnx_dtype
from graphopt.ir.external import stored_bytes


@dataclass(frozen=True)
class LayerCost:
    """What one node costs, as functions of the units kept.

    Attributes:
        node: its name; "" for what belongs to no node (initializers of nested graphs, or that nothing reads).
        macs: multiply-accumulates of one call; None for a linear layer whose shapes aren't known. 0 for nodes that
            aren't linear layers. An unknown first dimension (the batch) counts as 1.
        params: values in the initializers that it reads. One that several nodes read counts for the first.
        bytes: of these initializers, as a file holds them.
    """

    node: str
    macs: CountPolynomial | None
    params: CountPolynomial
    bytes: CountPolynomial


class AxisSizes:
    """The size of any axis of a tensor, as a function of the units kept."""

    def __init__(self, coupling: Coupling) -> None:
        self.units = {group.name: group.units for group in coupling.removable}
        self._through: dict[Slot, list[tuple[str, int, int]]] = {}
        for group in coupling.removable:
            for slot in group.members:
                # Units of a group are alike: each takes as many elements of a slot.
                taken = int(group.elements(slot)[0])
                self._through.setdefault(slot, []).append((group.name, taken, group.units))

    def of(self, tensor: Tensor, axis: int, size: int) -> CountPolynomial:
        """The size of `axis` (≥ 0), which is `size` with all units kept."""
        through = self._through.get(Slot(tensor, axis), ())
        terms: dict[tuple[str, ...], float] = {(name,): taken for name, taken, _ in through}
        left = size - sum(taken * units for _, taken, units in through)
        return CountPolynomial({**({(): left} if left else {}), **terms})

    def shape(
        self, tensor: Tensor, shapes: Mapping[str, Sequence[int]] | None = None
    ) -> tuple[CountPolynomial, ...] | None:
        """The size of every axis for one sample (`sizes_of_sample`); None when one isn't known."""
        sizes = sizes_of_sample(tensor, shapes)
        if sizes is None:
            return None
        known = [size for size in sizes if size is not None]
        return tuple(self.of(tensor, *axis) for axis in enumerate(known)) if len(known) == len(sizes) else None


class LayerCosts:
    """Costs of a graph whose groups are `coupling`.

    Attributes:
        layers: one for each node of the main graph that has any cost, in graph order; nested graphs count for the node
            that owns them.
        units: units of each removable group.
        sizes: of axes.
    """

    def __init__(self, graph: Graph, coupling: Coupling, shapes: Mapping[str, Sequence[int]] | None = None) -> None:
        """Read the costs off a graph whose shapes are inferred; values aren't read.

        Args:
            graph: the main graph.
            coupling: of this graph.
            shapes: those of tensors for one sample, where the graph leaves them open.
        """
        self.sizes = AxisSizes(coupling)
        self.units: Mapping[str, int] = self.sizes.units
        self.layers = tuple(cost for cost in self._costs(graph, shapes) if cost.macs is None or _is_any(cost))

    def _costs(self, graph: Graph, shapes: Mapping[str, Sequence[int]] | None) -> list[LayerCost]:
        counted: set[int] = set()
        costs: list[LayerCost] = []
        for node in graph.nodes:
            read = [t for t in node.inputs if isinstance(t, Constant) and t.scope is graph and not t.is_empty()]
            held = [t for t in dict.fromkeys(read) if id(t) not in counted]
            counted.update(id(t) for t in held)
            costs.append(LayerCost(node.name, self._macs(node, shapes), *self._stored(held)))
        others = [c for scope in graph.walk() for c in scope.constants if id(c) not in counted]
        return [*costs, LayerCost("", CountPolynomial({}), *self._stored(others))]

    def _macs(self, node: Node, shapes: Mapping[str, Sequence[int]] | None) -> CountPolynomial | None:
        nested = [n for _, body in node.bodies() for scope in body.walk() for n in scope.nodes if linear_kind(n)]
        inside = CountPolynomial.constant(sum(node_macs(n, shapes) or 0 for n in nested))
        if linear_kind(node) is None:
            return inside
        axes = mac_axes(node, shapes)
        if axes is None:
            return None
        known = [(tensor, axis, size) for tensor, axis, size in axes if size is not None]
        if len(known) < len(axes):
            return None
        return CountPolynomial.product(self.sizes.of(*factor) for factor in known)

    def _stored(self, constants: Sequence[Constant]) -> tuple[CountPolynomial, CountPolynomial]:
        params = [
            CountPolynomial.product(self.sizes.of(c, axis, size) for axis, size in enumerate(c.shape))
            for c in constants
        ]
        scaled = [p.scaled(_bytes_each(c)) for p, c in zip(params, constants, strict=True)]
        return CountPolynomial.sum(params), CountPolynomial.sum(scaled)

    @cached_property
    def macs_cost(self) -> CountPolynomial:
        """Multiply-accumulates of all layers whose shapes are known."""
        return CountPolynomial.sum(layer.macs for layer in self.layers if layer.macs is not None)

    @cached_property
    def params_cost(self) -> CountPolynomial:
        """Values of all initializers."""
        return CountPolynomial.sum(layer.params for layer in self.layers)

    @cached_property
    def bytes_cost(self) -> CountPolynomial:
        """Bytes of all initializers."""
        return CountPolynomial.sum(layer.bytes for layer in self.layers)

    def macs(self, keep: Mapping[str, int]) -> int:
        """Multiply-accumulates of one call when each group keeps `keep[group]` units; others keep all."""
        return round(self.macs_cost.at({**self.units, **keep}))

    def params(self, keep: Mapping[str, int]) -> int:
        """Values in initializers, likewise."""
        return round(self.params_cost.at({**self.units, **keep}))

    def bytes(self, keep: Mapping[str, int]) -> int:
        """Bytes of the initializers, likewise."""
        return round(self.bytes_cost.at({**self.units, **keep}))

    @property
    def macs_unknown(self) -> int:
        """Linear layers whose shapes aren't known; they are in no sum of multiply-accumulates."""
        return sum(layer.macs is None for layer in self.layers)


def _is_any(cost: LayerCost) -> bool:
    return bool(cost.params.terms or (cost.macs is not None and cost.macs.terms))


def _bytes_each(constant: Constant) -> float:
    """Bytes of one value; less than 1 for packed types."""
    return stored_bytes(onnx_dtype(constant.dtype), 8) / 8
