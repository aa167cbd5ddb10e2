"""Elements of slots as numbers, and which of them hang together.

Slots whose elements always go together one by one share their numbers (a residual stream is one run of numbers however
many tensors it has), so that large graphs have few.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphopt.analysis.coupling.groups import Freeze, Slot
from graphopt.analysis.coupling.links import Hold, Indices, Links, every
from graphopt.analysis.coupling.shapes import Shapes


@dataclass(frozen=True)
class Ways:
    """What one way of a node says, in numbers of elements.

    Attributes:
        edges: [2, count] elements that go together.
        held: elements that stay.
        reasons: for each of `held`, the position of its Freeze in `Elements.freezes`.
        runs: the runs that are mentioned.
        batches: the runs that number separate products.
        balances: elements [groups, channels of a group] of axes whose groups must stay equally large.
    """

    edges: Indices
    held: Indices
    reasons: Indices
    runs: tuple[int, ...]
    batches: tuple[int, ...]
    balances: tuple[Indices, ...]


class Elements:
    """Numbers for the elements of slots.

    Attributes:
        slots: every slot that anything was said about, in the order in which it was first.
        position: slot → its place in `slots`.
        run: slot → its run of numbers.
        starts: [runs + 1] the first number of each run.
        freezes: reasons that `Ways.reasons` refers to.
    """

    def __init__(self, slots: Iterable[Slot], wholes: Iterable[tuple[Slot, Slot]], shapes: Shapes) -> None:
        self.slots = list(dict.fromkeys(slots))
        self.position = {slot: i for i, slot in enumerate(self.slots)}
        parents = list(range(len(self.slots)))
        for left, right in wholes:
            first, second = sorted((_root(parents, self.position[left]), _root(parents, self.position[right])))
            parents[second] = first
        numbers: dict[int, int] = {}
        self.run: dict[Slot, int] = {}
        sizes: list[int] = []
        for i, slot in enumerate(self.slots):
            root = _root(parents, i)
            if root not in numbers:
                numbers[root] = len(sizes)
                sizes.append(shapes.size(slot.tensor, slot.axis) or 0)
            self.run[slot] = numbers[root]
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.freezes: list[Freeze] = []

    @property
    def count(self) -> int:
        """How many elements there are."""
        return int(self.starts[-1])

    def span(self, run: int) -> slice:
        """The numbers of a run."""
        return slice(int(self.starts[run]), int(self.starts[run + 1]))

    def size(self, run: int) -> int:
        """How many elements a run has."""
        return int(self.starts[run + 1] - self.starts[run])

    def run_of_elements(self) -> Indices:
        """The run of each element."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def ways(self, links: Sequence[Links], holds: Sequence[Hold] = ()) -> Ways:
        """Links in numbers; `holds` come before those of the links."""
        edges: list[NDArray[np.int64]] = [np.empty((2, 0), np.int64)]
        held: list[Indices] = [np.empty(0, np.int64)]
        reasons: list[Indices] = [np.empty(0, np.int64)]
        runs: dict[int, None] = {}
        for hold in (*holds, *(h for one in links for h in one.holds)):
            run = self.run[hold.slot]
            runs[run] = None
            at = every(self.size(run)) if hold.at is None else np.unique(hold.at)
            held.append(self.starts[run] + at)
            reasons.append(np.full(len(at), len(self.freezes)))
            self.freezes.append(hold.freeze)
        for one in links:
            for left, right in one.wholes:
                runs.update(dict.fromkeys((self.run[left], self.run[right])))
                if self.run[left] != self.run[right]:
                    size = every(self.size(self.run[left]))
                    edges.append(np.stack([self.starts[self.run[left]] + size, self.starts[self.run[right]] + size]))
            for tie in one.ties:
                left_run, right_run = self.run[tie.left], self.run[tie.right]
                runs.update(dict.fromkeys((left_run, right_run)))
                edges.append(np.stack([self.starts[left_run] + tie.left_at, self.starts[right_run] + tie.right_at]))
        batches = tuple(dict.fromkeys(self.run[slot] for one in links for slot in one.batches if slot in self.run))
        balances = [(self.run[slot], groups) for one in links for slot, groups in one.balances]
        runs.update(dict.fromkeys(run for run, _ in balances))
        return Ways(
            np.concatenate(edges, axis=1),
            np.concatenate(held),
            np.concatenate(reasons),
            tuple(runs),
            batches,
            tuple((self.starts[run] + every(self.size(run))).reshape(groups, -1) for run, groups in balances),
        )


def _root(parents: list[int], item: int) -> int:
    while parents[item] != item:
        parents[item] = parents[parents[item]]
        item = parents[item]
    return item
