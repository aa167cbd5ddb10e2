"""Numbers that a graph computes from the shapes of its tensors, before and after channels are removed.

    target = Concat(Shape(x)[0], 8, Shape(x)[1] / 8)      x: [N, 64]:  [N?, 8, 8]      x: [N, 48]:  [N?, 8, 6]

Sizes that nobody knows before the model runs are stood in for by two sets of numbers: what comes out the same from both
doesn't depend on them. So any operator can be followed, as all are evaluated on numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.ir import Graph, Node, Shape, Tensor, fixed_value
from graphopt.ir.evaluate import evaluate
from graphopt.ir.kernels import KERNELS, NotEvaluableError

# Odd and even, and not multiples of each other, so that no common division or remainder gives the same from both.
_STAND_INS = ((1009, 1), (4098, 3))

_FOLLOWED = frozenset(
    {*KERNELS, "Ceil", "Floor", "Max", "Min", "Mod", "Neg", "Pow", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum"}
    | {"Reciprocal", "Round", "Sqrt", "Where"}
)
"""What sizes are computed with."""


@dataclass(frozen=True)
class Sizes:
    """A tensor of at most one axis, known in part.

    Attributes:
        values: the elements; meaningless where they aren't known.
        known: which elements are the same whatever the sizes that aren't known are.
    """

    values: NDArray[Any]
    known: NDArray[np.bool_]

    @staticmethod
    def of(values: NDArray[Any]) -> Sizes:
        """All known."""
        return Sizes(values, np.ones(values.shape, dtype=bool))


class SizeArithmetic:
    """Values of tensors of the main graph that follow from shapes and constants alone."""

    def __init__(self, graph: Graph, cut_shapes: Mapping[Tensor, Shape]) -> None:
        """Look at a graph that is not cut yet; `cut_shapes` are the shapes to come, of tensors that lose elements."""
        self._graph = graph
        self._cut_shapes = cut_shapes
        self._found: dict[tuple[Tensor, bool, int], NDArray[Any] | None] = {}
        self._stand_ins: dict[object, int] = {}

    def before(self, tensor: Tensor) -> Sizes | None:
        """The value while nothing is cut; None when it can't be told, or has more than one axis."""
        return self._sizes(tensor, after=False)

    def after(self, tensor: Tensor) -> Sizes | None:
        """The value once the tensors are cut, if nothing else is changed."""
        return self._sizes(tensor, after=True)

    def unchanged(self, tensor: Tensor) -> NDArray[np.bool_] | None:
        """Which elements are the same before and after; None when the value can't be told, or has another shape."""
        found = np.ones((), dtype=bool)
        for number in range(len(_STAND_INS)):
            before, after = self._value(tensor, False, number), self._value(tensor, True, number)
            if before is None or after is None or before.shape != after.shape:
                return None
            found = found & (before == after)
        return found

    def leaves(self) -> list[tuple[Node, int]]:
        """(node, input index) of every reader of a changed value whose own result can't be followed any further.

        The nodes of the graph have to be sorted. A graph output that changes isn't a reader; see `changed_outputs`.
        """
        return [(node, index) for t in self._changed() for node, index in self._graph.uses(t) if self._ends_at(node)]

    def changed_outputs(self) -> list[Tensor]:
        """Outputs of the model, or of a nested graph, that would tell other sizes."""
        return [tensor for tensor in self._changed() if self._graph.is_output(tensor)]

    def _changed(self) -> list[Tensor]:
        found: dict[Tensor, None] = {}
        for node in self._graph.nodes:
            asks = node.is_op("Shape", "Size") and node.inputs[0] in self._cut_shapes
            if (asks or any(t in found for t in node.inputs)) and not self._ends_at(node):
                found.update((t, None) for t in node.present_outputs() if not self._is_same(t))
        return list(found)

    def _is_same(self, tensor: Tensor) -> bool:
        unchanged = self.unchanged(tensor)
        return unchanged is not None and bool(unchanged.all())

    def _ends_at(self, node: Node) -> bool:
        return node.scope is not self._graph or any(self.before(t) is None for t in node.present_outputs())

    def _sizes(self, tensor: Tensor, *, after: bool) -> Sizes | None:
        first, second = (self._value(tensor, after, number) for number in range(len(_STAND_INS)))
        if first is None or second is None or first.shape != second.shape:
            return None
        return Sizes(first, np.asarray(first == second))

    def _value(self, tensor: Tensor, after: bool, number: int) -> NDArray[Any] | None:
        constant = fixed_value(tensor) if tensor.shape is not None and len(tensor.shape) <= 1 else None
        if constant is not None:
            return constant
        key = (tensor, after, number)
        if key not in self._found:
            self._found[key] = self._computed(tensor, after, number)
        return self._found[key]

    def _computed(self, tensor: Tensor, after: bool, number: int) -> NDArray[Any] | None:
        node = tensor.inputs[0] if tensor.inputs else None
        if node is None or not node.is_standard or (tensor.shape is not None and len(tensor.shape) > 1):
            return None
        if node.op in ("Shape", "Size"):
            return self._asked(node, after, number)
        if node.op == "Constant":
            value = node.attr("value")
            return None if value is None else np.asarray(value.values)
        if node.op not in _FOLLOWED or len(node.outputs) != 1:
            return None
        values = [None if t.is_empty() else self._value(t, after, number) for t in node.inputs]
        if any(value is None and not t.is_empty() for value, t in zip(values, node.inputs, strict=True)):
            return None
        try:
            (found,) = evaluate(node, values, self._graph.opset)
        except NotEvaluableError:
            return None
        return found if found.ndim <= 1 else None

    def _asked(self, node: Node, after: bool, number: int) -> NDArray[Any] | None:
        tensor = node.inputs[0]
        shape = self._cut_shapes.get(tensor, tensor.shape) if after else tensor.shape
        if shape is None:
            return None
        dims = [d if isinstance(d, int) else self._stand_in(tensor, axis, number) for axis, d in enumerate(shape)]
        if node.op == "Size":
            return np.asarray(np.prod(dims, dtype=np.int64))
        return np.array(dims[node.attr("start", 0) : node.attr("end", len(dims))], dtype=np.int64)

    def _stand_in(self, tensor: Tensor, axis: int, number: int) -> int:
        """One symbol has one size throughout the model; an axis without a symbol has its own."""
        dim = None if tensor.shape is None else tensor.shape[axis]
        place = self._stand_ins.setdefault(dim if dim is not None else (tensor, axis), len(self._stand_ins))
        first, step = _STAND_INS[number]
        return first + step * place
