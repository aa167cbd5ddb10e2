"""How channels go through an operation that keeps elements in order under another shape.

    [N,C,H,W] → [N,C·H·W]      a unit of C takes H·W elements of the flat axis (or a unit of H, or of W)
    [N,C] → [N,g,C/g]          a unit is one of g and C/g channels, or one of C/g and a channel of each of g

Both shapes are cut into blocks of equal size, and each block into the factors that both sides are products of. One
factor of a block can carry units; the block's other axes stay whole then. Axes of size 1 don't count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from math import prod

from graphopt.analysis.coupling.groups import Slot
from graphopt.analysis.coupling.links import Links, axes_or_none, every, front_axis
from graphopt.analysis.coupling.shapes import Shapes
from graphopt.ir import Dim, Node, Shape, Tensor, fixed_value
from graphopt.ir.operands import int_list, is_given

_MOST_WAYS = 12


@dataclass(frozen=True)
class Block:
    """Axes of the operand and of the result that hold the same elements."""

    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Carrier:
    """An axis that a factor is part of: element i belongs to unit i // stride % units."""

    axis: int
    stride: int


def reshape(node: Node, shapes: Shapes) -> list[Links]:
    """Reshape with a target that is known, Flatten, Squeeze and Unsqueeze."""
    ways, others = _reshaped(node, shapes), _reshaped(node, shapes.twin)
    if [_pairs(way) for way in ways] != [_pairs(way) for way in others]:
        return [_held(node, shapes, f"what {node.op} merges depends on sizes that aren't known")]
    return ways


def _held(node: Node, shapes: Shapes, reason: str) -> Links:
    links = Links(node, shapes)
    for tensor in (node.inputs[0], node.outputs[0]):
        for axis in range(links.rank(tensor)):
            links.hold(tensor, axis, reason)
    return links


def _pairs(links: Links) -> list[tuple[Slot, Slot]]:
    return [*links.wholes, *((tie.left, tie.right) for tie in links.ties)]


def _reshaped(node: Node, shapes: Shapes) -> list[Links]:
    x, y = node.inputs[0], node.outputs[0]
    moved = _moved_axes(node, shapes.rank(x), shapes.rank(y))
    if moved is not None:
        links = Links(node, shapes)
        for before, after in moved:
            links.same(x, before, y, after)
        return [links]
    blocks = _flattened(node, shapes.rank(x)) or matching_blocks(shapes.shape(x), shapes.shape(y))
    ways = [_ways(shapes, x, y, block) for block in blocks]
    return [_links(node, shapes, way) for way in list(product(*ways))[:_MOST_WAYS]]


def matching_blocks(before: Shape, after: Shape) -> list[Block]:
    """Runs of axes of both shapes with equally many elements, as short as can be; what doesn't match is one block."""
    before, after = _same_symbols(before, after)
    blocks: list[Block] = []
    start_left = start_right = left = right = 0
    while left < len(before) or right < len(after):
        sizes = _size(before[start_left:left]), _size(after[start_right:right])
        if sizes[0] == sizes[1] and (left > start_left or right > start_right):
            blocks.append(Block(tuple(range(start_left, left)), tuple(range(start_right, right))))
            start_left, start_right = left, right
        grow_left = right >= len(after) or (left < len(before) and _is_behind(sizes[0], sizes[1]))
        if grow_left and left < len(before):
            left += 1
        else:
            right += 1
    kept: list[Block] = []
    while left > start_left and right > start_right and _is_same(before[left - 1], after[right - 1]):
        # With equal last axes what is before them has equally many elements, too, whether or not anyone knows how many.
        left, right = left - 1, right - 1
        kept.append(Block((left,), (right,)))
    if left > start_left or right > start_right:
        blocks.append(Block(tuple(range(start_left, left)), tuple(range(start_right, right))))
    return [*blocks, *reversed(kept)]


def _is_same(left: Dim, right: Dim) -> bool:
    return left is not None and left == right and left != 0


def _is_behind(left: tuple[int, Counter[str]], right: tuple[int, Counter[str]]) -> bool:
    """Whether the left side is the one to grow: it lacks a symbol of the right one, or has fewer elements."""
    missing_left, missing_right = right[1] - left[1], left[1] - right[1]
    if bool(missing_left) != bool(missing_right):
        return bool(missing_left)
    return left[0] <= right[0]


def _same_symbols(before: Shape, after: Shape) -> tuple[Shape, Shape]:
    """A single size that isn't known on either side is the same one when the known ones agree."""
    unknown = [[i for i, d in enumerate(shape) if not isinstance(d, int)] for shape in (before, after)]
    if [len(u) for u in unknown] != [1, 1] or _size(before)[0] != _size(after)[0]:
        return before, after
    renamed: list[Dim] = list(after)
    renamed[unknown[1][0]] = before[unknown[0][0]] or "?"
    kept: list[Dim] = list(before)
    kept[unknown[0][0]] = before[unknown[0][0]] or "?"
    return tuple(kept), tuple(renamed)


def _size(shape: Sequence[Dim]) -> tuple[int, Counter[str]]:
    """Product of the known sizes, and the others; an unknown one is like no other."""
    known = prod(d for d in shape if isinstance(d, int))
    return known, Counter(d if isinstance(d, str) else f"?{id(shape)}" for d in shape if not isinstance(d, int))


def _moved_axes(node: Node, rank: int, result_rank: int) -> list[tuple[int, int]] | None:
    """(axis before, axis after) of those that Squeeze and Unsqueeze keep, where their axes are known."""
    if node.op == "Squeeze" and is_given(node, "axes", 1):
        gone = axes_or_none(int_list(node, "axes", 1), rank)
        if gone is not None:
            return list(zip((a for a in range(rank) if a not in gone), range(rank - len(gone)), strict=True))
    if node.op == "Unsqueeze":
        new = axes_or_none(int_list(node, "axes", 1), result_rank)
        if new is not None:
            return list(zip(range(rank), (a for a in range(result_rank) if a not in new), strict=True))
    return None


def _flattened(node: Node, rank: int) -> list[Block] | None:
    if node.op != "Flatten":
        return None
    axis = front_axis(node, "axis", 1, rank)
    return [Block(tuple(range(axis)), (0,)), Block(tuple(range(axis, rank)), (1,))]


def _ways(shapes: Shapes, x: Tensor, y: Tensor, block: Block) -> list[tuple[int, list[tuple[Tensor, Carrier]]]]:
    """For each factor of a block: (its size, the axes of both sides that it is part of)."""
    sides = [
        [(tensor, a, shapes.size(tensor, a)) for a in axes] for tensor, axes in ((x, block.before), (y, block.after))
    ]
    sides = [[(tensor, axis, size) for tensor, axis, size in side if size != 1] for side in sides]
    if any(size is None or size == 0 for side in sides for _, _, size in side):
        return [(1, [])]
    runs = [[(tensor, axis, size or 1) for tensor, axis, size in side] for side in sides]
    total = prod(size for _, _, size in runs[0])
    if total != prod(size for _, _, size in runs[1]) or total == 1:
        return [(1, [])]
    # Numbers of elements behind each place where either side begins an axis.
    breaks = sorted({prod(s for _, _, s in run[i:]) for run in runs for i in range(len(run) + 1)}, reverse=True)
    found: list[tuple[int, list[tuple[Tensor, Carrier]]]] = []
    for outer, inner in pairwise(breaks):
        if outer % inner:
            continue
        carriers = [c for run in runs for c in _carriers(run, outer, inner)]
        if len(carriers) == 2:
            found.append((outer // inner, carriers))
    return found or [(1, [])]


def _carriers(run: list[tuple[Tensor, int, int]], outer: int, inner: int) -> list[tuple[Tensor, Carrier]]:
    """The axis of one side that the factor between two breaks is part of, if the breaks divide it."""
    behind = prod(size for _, _, size in run)
    for tensor, axis, size in run:
        whole, behind = behind, behind // size
        if behind <= inner < outer <= whole:
            fits = inner % behind == 0 and whole % outer == 0
            return [(tensor, Carrier(axis, inner // behind))] if fits else []
    return []


def _links(node: Node, shapes: Shapes, way: Sequence[tuple[int, list[tuple[Tensor, Carrier]]]]) -> Links:
    """One factor of each block carries units."""
    links = Links(node, shapes)
    is_computed = node.op == "Reshape" and fixed_value(node.input(1)) is None
    for units, carriers in way:
        if not carriers:
            continue
        (before, left), (after, right) = carriers
        if is_computed and not all(shapes.is_static(t, c.axis) for t, c in carriers):
            # What is computed would change with the channels, and nobody knows what to write.
            for tensor, carrier in carriers:
                links.hold(tensor, carrier.axis, "the target of Reshape is computed")
            continue
        if links.size(before, left.axis) == links.size(after, right.axis) == units:
            links.same(before, left.axis, after, right.axis)
            continue
        for tensor, carrier in carriers:
            count = every(links.size(tensor, carrier.axis) or 0)
            links.tie(tensor, carrier.axis, count, after, right.axis, count // carrier.stride % units * right.stride)
    for tensor in (node.inputs[0], node.outputs[0]):
        for axis in range(links.rank(tensor)):
            carries = any(tensor is t and c.axis == axis for _, carriers in way for t, c in carriers)
            if not carries and links.size(tensor, axis) != 1:
                links.hold(tensor, axis, f"{node.op} merges it with other axes")
    return links
