"""What `assign-precision` did, as data: for the report, and for whoever takes another point of the front."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graphopt.analysis.precision_types import Problem, Solution


@dataclass(frozen=True)
class PrecisionChoice:
    """The chosen assignment among those that it was chosen from.

    Attributes:
        problem: what was solved: regions, errors, costs, choices.
        front: assignments that no other beats in error and cost at once, the cheapest first. With a replayed plan there
            is none.
        chosen: the one that was taken, as the target's rules let it be carried out.
        demand: what it was chosen for: "latency=0.6x", "the least cost within an error of …", "a saved assignment".
        reasons: name of a region → why it couldn't have another precision: forbidden, pinned by the user.
    """

    problem: Problem
    front: tuple[Solution, ...]
    chosen: Solution
    demand: str
    reasons: Mapping[str, str] = field(default_factory=dict[str, str])
