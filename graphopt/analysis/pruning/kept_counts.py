"""How many units each group may keep: sizes that engines run well.

    64 channels, align 8:   8, 16, 24, 32, 40, 48, 56, 64
    16 channels, align 8:   4, 8, 12, 16             only two multiples of 8: finer steps
    768 channels, align 8:  64, 128, …, 768          more than twelve multiples of 8: coarser steps, and rounder numbers

The rule: the channels that stay are a multiple of `align`; where a group has fewer than four such sizes `align` is
halved until it has four, or is 1, and where it has more than twelve `align` is doubled until it hasn't. Keeping
everything is always possible, aligned or not. Where a group is only a part
of a channel axis (Concat), its own part is aligned.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from math import gcd
from typing import TypeAlias

from graphopt.analysis.coupling.groups import Coupling, Group, Slot
from graphopt.analysis.macs import linear_kind
from graphopt.ir import Constant, Node

KeptCounts: TypeAlias = Mapping[str, tuple[int, ...]]
"""For each group that may lose units, the numbers of units that it may keep: ascending, the last is all of them."""

_FEWEST = 4
MOST = 12


def kept_counts(
    coupling: Coupling,
    *,
    align: int = 8,
    min_channels: int = 1,
    exclude: Collection[str] = (),
    most: int = MOST,
) -> KeptCounts:
    """The sizes to choose from, for each removable group that has more than one.

    Args:
        coupling: the groups.
        align: the channels that a group keeps are a multiple of it.
        min_channels: and at least this many.
        exclude: patterns (as in file names) of groups that stay whole, by their own name or by the name of a node
            that makes or reads their tensors.
        most: sizes of a group at most.
    """
    found: dict[str, tuple[int, ...]] = {}
    for group in coupling.removable:
        if is_excluded(group, exclude):
            continue
        each = channels_each(group)
        aligned = _aligned(group.units, each, align, most)
        sizes = tuple(k for k in aligned if k * each >= min_channels or k == group.units)
        if len(sizes) > 1:
            found[group.name] = sizes
    return found


def channels_each(group: Group) -> int:
    """Channels that a unit has in the layers that make the group's values: 64 for an attention head of 64.

    The fewest over the results of layers with a stored weight; where there is none, over the results of all linear
    layers, and without these over all activations. What a Flatten makes of a channel doesn't count.
    """
    activations = [slot for slot in group.members if not isinstance(slot.tensor, Constant)]
    linear = [slot for slot in activations if (node := _producer(slot)) is not None and linear_kind(node)]
    stored = [slot for slot in linear if any(isinstance(t, Constant) for t in slot.tensor.inputs[0].inputs[:2])]
    counted = stored or linear or activations or list(group.members)
    return min(int(group.elements(slot)[0]) for slot in counted)


def is_excluded(group: Group, exclude: Collection[str]) -> bool:
    """Whether one of the patterns names the group, or a node that makes or reads its tensors."""
    if not exclude:
        return False
    nodes = [node for slot in group.members for node in (*slot.tensor.inputs, *slot.tensor.outputs)]
    names = {group.name, *(node.name for node in nodes)}
    return any(fnmatchcase(name, pattern) for name in names for pattern in exclude)


def _aligned(units: int, each: int, align: int, most: int) -> list[int]:
    """Counts of units whose channels are a multiple of `align`, or what becomes of it; ascending, then all."""
    sizes = _multiples(units, each, align)
    while len(sizes) < _FEWEST and align > 1:
        align //= 2
        sizes = _multiples(units, each, align)
    while len(sizes) > most:
        align *= 2
        sizes = _multiples(units, each, align)
    return sizes


def _multiples(units: int, each: int, align: int) -> list[int]:
    step: int = align // gcd(align, each)
    return sorted({*range(step, units + 1, step), units})


def _producer(slot: Slot) -> Node | None:
    return slot.tensor.inputs[0] if slot.tensor.inputs else None
