"""What `assign-precision` did, as data: for the report, and for whoever takes another point of the front."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from graphopt.analysis.precision.saved import save_precisions
from graphopt.analysis.precision.types import Problem, Solution
from graphopt.quant import Range, TensorPlan


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
        target: name of the target that it is for.
        kept_float: nodes that get no 8 bits whatever is assigned → why; what the regions were found with.
        tensors: the activations of the plan with everything in 8 bits, with their ranges.
        decisions: what passes before chose by the samples (`Context.kept`).
    """

    problem: Problem
    front: tuple[Solution, ...]
    chosen: Solution
    demand: str
    reasons: Mapping[str, str] = field(default_factory=dict[str, str])
    target: str = ""
    kept_float: Mapping[str, str] = field(default_factory=dict[str, str])
    tensors: Mapping[str, TensorPlan] = field(default_factory=dict[str, TensorPlan])
    decisions: Mapping[str, Range] = field(default_factory=dict[str, Range])

    @property
    def points(self) -> tuple[Solution, ...]:
        """The front, the cheapest first, with the chosen point among them."""
        others = [point for point in self.front if dict(point.precisions) != dict(self.chosen.precisions)]
        return tuple(sorted((*others, self.chosen), key=lambda point: (point.cost, -point.error)))

    def save_plan(self, path: str | Path) -> None:
        """Write the chosen assignment as JSON, whole or not at all; `saved.read_plan` reads it.

        Raises:
            EmitError: the file can't be written.
        """
        save_precisions(
            path,
            self.problem,
            self.chosen,
            target=self.target,
            demand=self.demand,
            reasons=self.reasons,
            kept_float=self.kept_float,
            tensors=self.tensors,
            decisions=self.decisions,
        )
