"""How channels go through operations that ask for sizes, or make tensors of given sizes.

    Reshape(x, Concat(Shape(x)[0], 64))      Shape(x)[1] isn't used: removing channels of x changes nothing
    a / Sqrt(Shape(a)[1])                    the factor stays what it was, as a stored number
    Reshape(x, Shape(x)[0] · Shape(x)[1])    nobody knows what to write: x's axis 1 stays whole

What is computed from a size that is the same whatever the caller feeds can be stored; so such axes may lose elements
unless their size is told to the model's caller, or is combined with one that isn't known.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.analysis.coupling.links import Links
from graphopt.analysis.coupling.shapes import Shapes
from graphopt.ir import Graph, Node, Tensor, fixed_value
from graphopt.ir.operands import int_list, is_given

_SAME_PLACES = ("Cast", "Identity", "Squeeze", "Unsqueeze")
_TAKE_SIZES = ("ConstantOfShape", "Expand", "Pad", "Reshape", "Resize", "Slice", "Split", "Tile", "Upsample")


def shape(node: Node, links: Links) -> None:
    """Shape and Size: axes whose size can't be mended where it is used stay whole."""
    x, y, graph = node.inputs[0], node.outputs[0], node.scope
    axes = list(range(links.rank(x)))
    told = set(axes)
    if graph is not None and node.op == "Shape":
        places = axes[int(node.attr("start", 0)) : int(node.attr("end", len(axes)))]
        told = _Use(graph, links.shapes, x).told(y, frozenset(places), places)
    elif graph is not None and all(links.shapes.is_static(x, axis) for axis in axes):
        told = _Use(graph, links.shapes, x).told(y, frozenset(axes), None)
    for axis in axes:
        if axis in told:
            links.hold(x, axis, f"{node.op} reads its size")
        else:
            links.free(x, axis)


@dataclass(frozen=True)
class _Use:
    """What becomes of the sizes of `x`."""

    graph: Graph
    shapes: Shapes
    x: Tensor

    def told(self, value: Tensor, axes: frozenset[int], places: list[int] | None) -> set[int]:
        """Axes of `x` whose sizes are used where they couldn't be mended.

        Args:
            value: what is computed from sizes.
            axes: those whose sizes are in it.
            places: whose size each of its elements is; None where that isn't known.
        """
        if self.graph.is_output(value):
            return set(axes)
        found: set[int] = set()
        for reader in self.graph.consumers(value):
            picked = _picked(reader, value, places)
            if reader.scope is not self.graph:
                found |= axes
            elif picked is not None:
                found |= self.told(reader.outputs[0], frozenset(picked), picked)
            elif reader.is_op(*_SAME_PLACES):
                found |= self.told(reader.outputs[0], axes, places)
            elif reader.is_op("Concat"):
                found |= self.told(reader.outputs[0], axes, None)
            elif self.shapes.rank(reader.outputs[0]) <= 1 and not reader.is_op(*_TAKE_SIZES):
                found |= self.computed(reader, value, axes)
        return found

    def computed(self, reader: Node, value: Tensor, axes: frozenset[int]) -> set[int]:
        """An operation on sizes: its result is known where all that goes in is."""
        others = [t for _, t in reader.present_inputs() if t is not value]
        is_known = all(self.shapes.is_static(self.x, axis) for axis in axes)
        if not is_known or len(reader.outputs) != 1 or any(fixed_value(t) is None for t in others):
            return set(axes)
        return self.told(reader.outputs[0], axes, None)


def _picked(reader: Node, value: Tensor, places: list[int] | None) -> list[int] | None:
    """Whose sizes a Gather or Slice takes; None where the reader is neither, or it isn't known."""
    if not places or reader.input(0) is not value:
        return None
    if reader.is_op("Gather"):
        indices = fixed_value(reader.input(1))
        if indices is None or any(not -len(places) <= i < len(places) for i in indices.reshape(-1).tolist()):
            return None
        return [places[int(i)] for i in indices.reshape(-1)]
    if reader.is_op("Slice"):
        starts, ends = int_list(reader, "starts", 1), int_list(reader, "ends", 2)
        if starts is None or ends is None or is_given(reader, "steps", 4) or len(starts) != 1:
            return None
        return places[starts[0] : ends[0]]
    return None


def constant(node: Node, links: Links) -> None:
    """A stored tensor, cut as an initializer is."""
    y = node.outputs[0]
    for axis in range(links.rank(y)):
        if "value" in node.attrs:
            links.free(y, axis)
        else:
            links.hold(y, axis, "it isn't stored as a tensor")


def constant_of_shape(node: Node, links: Links) -> None:
    """Any of the equal elements may go, along axes of known size."""
    y = node.outputs[0]
    for axis in range(links.rank(y)):
        if links.shapes.is_static(y, axis):
            links.free(y, axis)


def made(node: Node, links: Links) -> None:
    """Tensors that are computed from sizes alone (Range, random ones): their elements aren't interchangeable."""
    for tensor in links.results():
        for axis in range(links.rank(tensor)):
            links.hold(tensor, axis, f"{node.op} makes it")
