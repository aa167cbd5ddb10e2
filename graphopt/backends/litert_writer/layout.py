"""Axis orders: which axis of the ONNX tensor each axis of the stored one is.

An order is a permutation: stored axis k holds ONNX axis order[k]. A Transpose of the ONNX model changes no bytes, only
what the axes are called; so does a Reshape that splits or joins axes which are next to each other as stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from graphopt.backends.litert_writer.values import Value

Order: TypeAlias = tuple[int, ...]

# Stands for the batch in products of sizes: a prime that no size has as a factor.
_BATCH = 1_000_003


def logical(rank: int) -> Order:
    """ONNX's own order."""
    return tuple(range(rank))


def channels_last(rank: int) -> Order:
    """N, C, spatial axes → N, spatial axes, C."""
    return (0, *range(2, rank), 1) if rank > 2 else logical(rank)


def is_nontrivial(value: Value, axis: int) -> bool:
    """Whether the axis can have more than one index."""
    return value.shape[axis] != 1 or axis in value.dynamic


def core(value: Value, order: Iterable[int]) -> Order:
    """The order without axes of size 1, which can be anywhere without moving a byte."""
    return tuple(axis for axis in order if is_nontrivial(value, axis))


def transposed(order: Order, perm: Sequence[int]) -> Order:
    """The order of Transpose's output, when its input's bytes are left as they are: output axis i is axis perm[i]."""
    position = {axis: i for i, axis in enumerate(perm)}
    return tuple(position[axis] for axis in order)


def before_transpose(order: Order, perm: Sequence[int]) -> Order:
    """The order that Transpose's input needs for its output to have `order`."""
    return tuple(perm[axis] for axis in order)


def without(order: Order, axes: Iterable[int]) -> Order:
    """The order after `axes` were removed from the tensor."""
    gone = set(axes)
    kept = sorted(a for a in order if a not in gone)
    renamed = {axis: i for i, axis in enumerate(kept)}
    return tuple(renamed[a] for a in order if a not in gone)


def axis_groups(source: Value, target: Value) -> list[tuple[list[int], list[int]]] | None:
    """Which axes of a Reshape's input make which of its output, group by group; None where sizes aren't comparable.

    [N, C, H, W] → [N, C·H·W] gives ([0], [0]) and ([1, 2, 3], [1]).
    """
    left = [size * (_BATCH if axis in source.dynamic else 1) for axis, size in enumerate(source.shape)]
    right = [size * (_BATCH if axis in target.dynamic else 1) for axis, size in enumerate(target.shape)]
    if 0 in left or 0 in right:
        return None
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(left) or j < len(right):
        if i >= len(left) or j >= len(right):
            # Axes of size 1 at the end.
            rest = (list(range(i, len(left))), list(range(j, len(right))))
            groups.append(rest)
            break
        ins, outs, a, b = [i], [j], left[i], right[j]
        i, j = i + 1, j + 1
        while a != b:
            if a < b and i < len(left):
                a *= left[i]
                ins.append(i)
                i += 1
            elif b < a and j < len(right):
                b *= right[j]
                outs.append(j)
                j += 1
            else:
                return None
        groups.append((ins, outs))
    return groups


def reshaped(source: Value, target: Value, order: Order, wish: Order | None = None) -> Order | None:
    """The order of a Reshape's output when its input's bytes are left as they are; None where that can't be.

    Axes of size 1 can be anywhere: `wish` is taken if it differs from what comes out only in these.
    """
    groups = axis_groups(source, target)
    if groups is None:
        return logical(target.rank) if order == logical(source.rank) else None
    stored = core(source, order)
    found: list[tuple[int, list[int]]] = []
    trivial: list[int] = []
    for ins, outs in groups:
        wanted = core(source, ins)
        if not wanted:
            trivial += outs
            continue
        begin = stored.index(wanted[0])
        if stored[begin : begin + len(wanted)] != wanted:
            return None
        found.append((begin, outs))
    sequence = [axis for _, outs in sorted(found) for axis in outs]
    result = core(target, sequence)
    if wish is not None and core(target, wish) == result:
        return wish
    if result == core(target, logical(target.rank)):
        return logical(target.rank)
    return (*sequence, *trivial)
