"""`python -m benchmarks.mixed curve`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import graphopt
from benchmarks._common import Table, script, zoo_names
from benchmarks._mixed_subject import Measured, Subject
from graphopt.analysis.precision.budget import float_cost
from graphopt.analysis.precision.front import front, undominated
from graphopt.analysis.precision.greedy import greedy_curve
from graphopt.analysis.precision.problem import evaluate
from graphopt.analysis.precision.program import least_error
from graphopt.analysis.precision.record import PrecisionChoice
from graphopt.analysis.precision.types import CostKind, Problem, Solution
from graphopt.report.precision_front import draw_front, save_front

COLUMNS = (
    ("model", 27), ("cost", 7), ("budget", 6), ("greedy dB", 9), ("ours dB", 7), ("ahead", 6), ("± se", 5),
    ("expected", 8), ("greedy %", 8), ("ours %", 6), ("verdict", 7),
)  # fmt: skip
# What is within this of the greedy curve, or within two standard errors, is on it.
ON_DB = 0.1
NOT_CONVOLUTIONAL = ("silero_vad_v2_mini", "silero_vad_v6_16k_op15")
CALIBRATION, UNLABELLED, UNLABELLED_VALUES = 128, 24, 4_000_000


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    names = [name for name in zoo_names() if name not in NOT_CONVOLUTIONAL]
    parser.add_argument("--models", nargs="+", default=names, metavar="NAME", help="default: all CNNs of the zoo")
    parser.add_argument("--target", default="onnxruntime", choices=["onnxruntime", "openvino"])
    parser.add_argument("--costs", nargs="+", default=["bits"], choices=["bits", "latency", "size"])
    parser.add_argument("--points", type=int, default=4, metavar="N", help="budgets of each model")
    parser.add_argument("--samples", type=int, default=200, metavar="N", help="labelled images to judge by")
    parser.add_argument("--out", type=Path, metavar="DIR", help="each model's front, as table and picture")
    parser.add_argument("--markdown", action="store_true")


def main(options: argparse.Namespace) -> None:
    """Print the table, then which models are on or above the greedy curve."""
    table = Table(COLUMNS, options.markdown)
    table.head()
    verdicts: list[str] = []
    for name in options.models:
        began = time.perf_counter()
        try:
            subject = prepared(name, options.target, options.samples)
            for kind in options.costs:
                points = compared(subject, kind, options.points)
                for point in points:
                    table.row([name, kind, *point.cells(subject)])
                below = [p for p in points if p.verdict == "below"]
                verdict = f"below it at {len(below)} of {len(points)} points" if below else "on or above it"
                verdicts.append(f"{name}, {kind}: {verdict} ({time.perf_counter() - began:.0f} s so far)")
                if options.out is not None:
                    drawn(options.out / f"{name}-{kind}", subject.problem(kind), subject.problem(kind, "local"))
        except graphopt.GraphoptError as error:
            verdicts.append(f"{name}: fails: {error}")
    print("\nAgainst the greedy curve:\n" + "\n".join(f"- {verdict}" for verdict in verdicts))


def prepared(name: str, target: str, samples: int) -> Subject:
    """A model of the zoo; without labels the fewer samples, the larger they are."""
    entry = script("zoo").model(name)
    if entry.spec["task"] == "classification":
        return Subject(name, target, CALIBRATION, samples)
    size = sum(values.size for values in entry.calibration(1)[0].values())
    few = max(2, min(UNLABELLED, UNLABELLED_VALUES // size))
    return Subject(name, target, 2 * few, few)


@dataclass(frozen=True)
class Point:
    """A point of the greedy curve, and the least error at its cost.

    Attributes:
        budget: its cost, as a part of what all float32 takes.
        greedy, ours: measured on the held-out samples.
        expected: decibels that ours is expected to be ahead.
    """

    budget: float
    greedy: Measured
    ours: Measured
    expected: float

    @property
    def verdict(self) -> str:
        """Where ours is."""
        ahead, error = self.ours.ahead(self.greedy)
        slack = max(ON_DB, 2 * error)
        return "above" if ahead > slack else "on" if ahead >= -slack else "below"

    def cells(self, subject: Subject) -> list[str]:
        """Its line, behind model and cost."""
        ahead, error = self.ours.ahead(self.greedy)
        count = len(subject.feeds)
        right = ["–" if m.right is None else f"{100 * m.right / count:.1f}" for m in (self.greedy, self.ours)]
        decibels = [f"{m.decibels:.1f}" for m in (self.greedy, self.ours)]
        lead = [f"{ahead:+.2f}", f"{error:.2f}", f"{self.expected:+.2f}"]
        return [f"{self.budget:.2f}x", *decibels, *lead, *right, self.verdict]


def compared(subject: Subject, kind: CostKind, count: int) -> list[Point]:
    """Points spread over the greedy curve's costs, each with the solver's answer for the same budget.

    Greedy goes by what each region loses by itself; the solver by what that does to the outputs.
    """
    problem, local = subject.problem(kind), subject.problem(kind, "local")
    whole = float_cost(problem.regions, problem.costs)
    found: list[Point] = []
    for greedy in spread(undominated(greedy_curve(local)), count):
        ours = least_error(problem, greedy.cost)
        expected = evaluate(problem, greedy.precisions).error / max(ours.error, 1e-30)
        measured = subject.measured(greedy.precisions), subject.measured(ours.precisions)
        found.append(Point(greedy.cost / whole, *measured, 10 * float(np.log10(max(expected, 1e-30)))))
    return found


def spread(curve: Sequence[Solution], count: int) -> list[Solution]:
    """All in 8 bits, and others at about equal distances in cost; what loses nothing is left out."""
    lossy = [solution for solution in curve if solution.error > 0]
    if len(lossy) <= count:
        return lossy
    costs = np.array([solution.cost for solution in lossy])
    wanted = (costs[0] + (costs[-1] - costs[0]) * k / (count - 1) for k in range(count))
    return [lossy[k] for k in sorted({int(np.abs(costs - cost).argmin()) for cost in wanted})]


def drawn(folder: Path, problem: Problem, local: Problem) -> None:
    """Write the front and the greedy curve, both with the errors that the solver goes by."""
    points = front(problem)
    curve = tuple(evaluate(problem, solution.precisions) for solution in greedy_curve(local))
    choice = PrecisionChoice(problem, points, points[0], f"the least {problem.costs.kind}")
    folder.mkdir(parents=True, exist_ok=True)
    save_front(folder / "front.csv", choice)
    draw_front(folder / "front.png", choice, {"greedy, by local error": curve})
