"""Sizes of all axes, with numbers in place of the model's symbols.

    x: float[N,5,12] → Reshape [-1,5,3,4] → … → Reshape [-1,5,4]       N = 7: the last one's axis 0 has 21 elements

With N known, an axis that several are merged into has a size that tells which elements belong together, and a Reshape
of which inference can't tell the result has one. The numbers are primes that divide no other size, so that no two axes
look alike that aren't; they are drawn twice, and what holds for one draw only is an accident.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from graphopt.ir import Dim, Graph, Shape, Tensor
from graphopt.ir.shapes import shapes_with

_PRIMES = (5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)


class Shapes:
    """The size of each axis.

    Args:
        bound: tensor → its shape with symbols replaced; tensors that aren't there have their stated shape.
        twin: the same for other numbers.
    """

    def __init__(self, bound: Mapping[Tensor, Shape] | None = None, twin: Mapping[Tensor, Shape] | None = None) -> None:
        self._bound = bound or {}
        self._twin = twin or {}

    @property
    def twin(self) -> Shapes:
        """The other draw."""
        return Shapes(self._twin, self._bound)

    def is_known(self, tensor: Tensor) -> bool:
        """Whether the rank is known."""
        return tensor.shape is not None or tensor in self._bound

    def shape(self, tensor: Tensor) -> Shape:
        """All sizes; () where the rank isn't known."""
        return self._bound.get(tensor, tensor.shape or ())

    def rank(self, tensor: Tensor) -> int:
        """The rank; 0 where it isn't known."""
        return len(self.shape(tensor))

    def size(self, tensor: Tensor, axis: int) -> int | None:
        """The number of elements along an axis, where it is known or numbers stand for its symbols."""
        size = self.shape(tensor)[axis]
        return size if isinstance(size, int) else None

    def is_static(self, tensor: Tensor, axis: int) -> bool:
        """Whether the size is the same whatever the caller feeds."""
        size = self.size(tensor, axis)
        return size is not None and size == self.twin.size(tensor, axis)


def shapes_of(graph: Graph) -> Shapes:
    """Sizes with symbols replaced.

    Where the model doesn't allow for numbers (two symbols that have to be equal), only those of the batch are replaced,
    or none at all.
    """
    batch, others = _symbols(graph)
    taken = [d for t in graph.tensors().values() for d in t.shape or () if isinstance(d, int) and d > 0]
    primes = [p for p in _PRIMES if not any(d % p == 0 for d in set(taken))]
    for names in dict.fromkeys(((*batch, *others), batch)):
        if not names or len(primes) < 2 * len(names):
            continue
        draws = primes[: len(names)], primes[len(names) : 2 * len(names)]
        found = [shapes_with(graph, dict(zip(names, draw, strict=True))) for draw in draws]
        bound = [_kept(shapes) for shapes in found if shapes is not None]
        if len(bound) == 2:
            return Shapes(*bound)
    return Shapes()


def _symbols(graph: Graph) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Symbols of the graph inputs: those of axis 0, and the others."""
    first = {t.shape[0] for t in graph.inputs if t.shape}
    names = dict.fromkeys(d for t in graph.inputs for d in t.shape or () if isinstance(d, str))
    return tuple(n for n in names if n in first), tuple(n for n in names if n not in first)


def _kept(bound: Mapping[Tensor, Shape]) -> dict[Tensor, Shape]:
    """Known sizes stay what they are, whatever inference makes of the numbers."""
    found: dict[Tensor, Shape] = {}
    for tensor, shape in bound.items():
        stated = tensor.shape
        if stated is None or len(stated) == len(shape):
            pairs: Iterator[tuple[Dim, Dim]] = zip(shape, stated or shape, strict=True)
            found[tensor] = tuple(known if isinstance(known, int) else new for new, known in pairs)
    return found
