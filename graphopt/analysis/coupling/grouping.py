"""Components of elements → groups of units, with names and reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.analysis.coupling.balance import balanced_components
from graphopt.analysis.coupling.elements import Elements, Ways
from graphopt.analysis.coupling.groups import Freeze, Group, Slot, Units
from graphopt.analysis.coupling.links import Indices, is_stored

_ONE_UNIT = Freeze("it only goes as a whole, and something has to stay")
_SIZES = (np.dtype(np.int64), np.dtype(np.int32), np.dtype(np.bool_))  # a frozen vector of sizes is nobody's channels
_LAST = np.iinfo(np.int64).max


def grouped(elements: Elements, said: Sequence[Ways]) -> Iterator[Group]:
    """The groups, in the order of their first slots.

    Args:
        elements: numbers of all elements.
        said: what holds, and the way that each choice took.
    """
    edges = np.concatenate([ways.edges for ways in said], axis=1)
    labels = balanced_components(elements.count, edges, [rows for ways in said for rows in ways.balances])
    reasons = np.full(len(labels), _LAST)
    for ways in said:
        np.minimum.at(reasons, labels[ways.held], ways.reasons)
    slots_of: dict[int, list[Slot]] = {}
    for slot in elements.slots:
        if _is_stated(slot):
            slots_of.setdefault(elements.run[slot], []).append(slot)
    place = _Places(elements, labels, np.full(len(labels), -1), np.full(len(labels), -1))
    names: Counter[str] = Counter()
    for number, (runs, units) in enumerate(_alike(elements, labels, reasons)):
        reason = int(reasons[units[0]])
        slots = [slot for run in runs for slot in slots_of.get(run, ())]
        stored = {is_stored(s.tensor) and s.tensor.dtype not in _SIZES for s in slots}
        if all(elements.size(elements.run[slot]) == 1 for slot in slots) or (reason != _LAST and len(stored) == 1):
            continue
        place.group[units], place.unit[units] = number, np.arange(len(units))
        order = {slot: elements.position[slot] for slot in slots}
        members = _Members(place, number, tuple(sorted(slots, key=order.__getitem__)))
        freeze = elements.freezes[reason] if reason != _LAST else _ONE_UNIT if len(units) == 1 else None
        yield Group(_name(members.slots, names), len(units), members, freeze)


def _alike(elements: Elements, labels: Indices, reasons: Indices) -> list[tuple[list[int], Indices]]:
    """(runs, components) of the components that run through the same runs equally often, frozen ones apart."""
    runs = elements.run_of_elements()
    width = len(elements.starts)
    pairs, counts = np.unique(labels * width + runs, return_counts=True)
    owners, through = pairs // width, pairs % width
    starts = np.searchsorted(owners, np.arange(len(np.unique(labels)) + 1))
    found: dict[tuple[bytes, bytes, bool], list[int]] = {}
    for label, (start, end) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
        key = through[start:end].tobytes(), counts[start:end].tobytes(), bool(reasons[label] != _LAST)
        found.setdefault(key, []).append(label)
    return [(np.frombuffer(key[0], np.int64).tolist(), np.array(units)) for key, units in found.items()]


def _is_stated(slot: Slot) -> bool:
    """Whether the graph says how many elements there are; others served to find what goes together."""
    shape = slot.tensor.shape
    return shape is not None and len(shape) > slot.axis and isinstance(shape[slot.axis], int)


def _name(slots: Sequence[Slot], names: Counter[str]) -> str:
    first = next((s for s in slots if not is_stored(s.tensor)), slots[0])
    base = f"{first.tensor.name}:{first.axis}"
    names[base] += 1
    return base if names[base] == 1 else f"{base}#{names[base]}"


@dataclass(frozen=True)
class _Places:
    """For each component, its group and its number in it; −1 where it is in none that is told of."""

    elements: Elements
    labels: Indices
    group: Indices
    unit: Indices


class _Members(Mapping[Slot, Units]):
    """A group's units by slot, worked out when asked for: a large Concat is in hundreds of groups."""

    def __init__(self, places: _Places, group: int, slots: tuple[Slot, ...]) -> None:
        self.slots = slots
        self._places = places
        self._group = group
        self._known = frozenset(slots)

    def __getitem__(self, slot: Slot) -> Units:
        if slot not in self._known:
            raise KeyError(slot)
        elements = self._places.elements
        labels = self._places.labels[elements.span(elements.run[slot])]
        return np.where(self._places.group[labels] == self._group, self._places.unit[labels], -1)

    def __iter__(self) -> Iterator[Slot]:
        return iter(self.slots)

    def __len__(self) -> int:
        return len(self.slots)
