"""Give each region of the model the precision that costs least for what it loses, and plan accordingly.

    Conv_1 int8 → Conv_2 int8 → Gemm int8       budget latency=0.6x
                                   →      Conv_1 int8 → Conv_2 float32 → Gemm int8

1. What the target runs as one kernel is one region (`analysis/precision/regions.py`): precision never changes inside
   one.
2. What each region, and each tensor between regions, loses in each precision is measured once (`sensitivity`), and
   what each takes (`cost`): in the engine itself, where it runs here.
3. A minimum cut, or an integer program, finds the assignments that no other beats in error and cost at once; the one
   that is asked for is taken (`analysis/precision/front.py`).

It comes behind `calibrate` and `protect-small-values`, when the plan has everything in 8 bits and its ranges, and plans
again. Other precisions than 8 bits and float32 are noted in the plan, for `quantize-weights` and `insert-casts`. Why a
region can't have a precision is said: values that would overflow, the user's rules, a target without such a kernel. A
saved assignment is replayed without samples.

Source of the formulation: HAWQ-V3 (Yao et al., 2021, arXiv:2011.10680): an integer program over layers with errors that
add up; conversions at borders, and tensors that several regions read, are added to it here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from graphopt.analysis.precision.budget import parse_budget
from graphopt.analysis.precision.front import front
from graphopt.analysis.precision.problem import evaluate
from graphopt.analysis.precision.program import least_cost, least_error
from graphopt.analysis.precision.record import PrecisionChoice
from graphopt.analysis.precision.regions import find_regions
from graphopt.analysis.precision.saved import read_plan
from graphopt.analysis.precision.types import CostKind, Costs, Problem, Regions, Sensitivity
from graphopt.backends.precision_sensitivity import measure_sensitivity
from graphopt.errors import ConfigError
from graphopt.ir import Graph
from graphopt.passes._precision_choices import choices, narrowed, saving
from graphopt.passes._precision_costs import costs_of
from graphopt.passes._precision_plan import carry_out, say
from graphopt.passes.plan_quantization import plan_again
from graphopt.pipeline import Context, Pass
from graphopt.quant import TensorPlan
from graphopt.quant.precision import find_precision
from graphopt.quant.precision_rules import parse_rules, unmatched
from graphopt.targets import Target, planned_target


@dataclass(frozen=True)
class AssignPrecision(Pass):
    """Choose a precision for each region.

    Without `budget` and `min_sqnr` the cheapest assignment is taken, whatever it loses.

    Attributes:
        budget: what may be spent: latency=0.6x or latency=3ms, size=0.3x or size=1.5MB, or bits=6, the mean over the
            multiply-accumulates. x is a part of what the float model takes.
        min_sqnr: in place of a budget: the cheapest assignment whose outputs are expected to have so many dB.
        cost: what is saved: latency, in the target's engine where it runs here, else an estimate; size, the bytes of
            the weights; bits, multiply-accumulates times the bits of weights. auto: the budget's, or else latency.
        sensitivity: how errors are found: weights, without samples; local, what each region loses by itself, in one
            pass over the samples; output, what that does to the outputs. auto: output with samples, else weights.
        precisions: what may be chosen, float32 always among them; empty: all that the target has and that save what
            `cost` counts.
        precision: what the user wants: "Softmax=float", "head/*=float16": a pattern of node names, or an operator; of
            several that match a node the last one counts.
        samples: how many of the calibration samples errors are measured on, the first ones.
        device: what costs are estimated for, where the engine has a choice.
        plan: replay the assignment of this file.
    """

    name: ClassVar[str] = "assign-precision"
    summary: ClassVar[str] = "choose each region's precision within a budget, with the least error"

    budget: str | None = None
    min_sqnr: float | None = None
    cost: Literal["auto", "latency", "size", "bits"] = "auto"
    sensitivity: Literal["auto", "weights", "local", "output"] = "auto"
    precisions: tuple[str, ...] = ()
    precision: tuple[str, ...] = ()
    samples: int = 128
    device: str | None = None
    plan: str | None = None

    def __post_init__(self) -> None:
        try:
            asked = None if self.budget is None else parse_budget(self.budget)
            for name in self.precisions:
                find_precision(name)
            parse_rules(self.precision)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        if self.samples < 1:
            raise ValueError(f"samples is {self.samples}; expected at least 1")
        if asked is not None and self.min_sqnr is not None:
            raise ValueError("give a budget or min-sqnr: one is what is demanded, the other what is made the best of")
        if asked is not None and self.cost not in ("auto", asked.kind):
            raise ValueError(f"the budget is about {asked.kind}, and cost is {self.cost}")
        if self.plan is not None and (asked is not None or self.min_sqnr is not None or self.precision):
            raise ValueError("a saved assignment is replayed as it is: give no budget, min-sqnr or precision with it")

    def run(self, graph: Graph, ctx: Context) -> None:
        """Choose, and plan again; what was chosen from is left in the context.

        Raises:
            ConfigError: nothing is planned, ranges are missing, a budget can't be met, or the saved assignment is for
                another model.
            CalibrationError: a sample fails.
        """
        if graph.plan.target is None:
            raise ConfigError("nothing is planned: put 'plan-quantization' and 'calibrate' before 'assign-precision'")
        target = planned_target(graph.plan)
        found = self._choose(graph, ctx, target) if self.plan is None else self._replay(graph, target, self.plan)
        regions = found.problem.regions
        precisions = carry_out(graph, ctx, target, regions, found.chosen.precisions, found.reasons)
        say(regions, precisions, found.reasons, graph, ctx)
        chosen = evaluate(found.problem, precisions, proven=found.chosen.proven)
        ctx.precision = replace(found, chosen=chosen)

    def kind(self) -> CostKind:
        """What is saved."""
        if self.budget is not None:
            return parse_budget(self.budget).kind
        return "latency" if self.cost == "auto" else self.cost

    def _choose(self, graph: Graph, ctx: Context, target: Target) -> PrecisionChoice:
        if any(entry.range is None for entry in graph.plan):
            raise ConfigError("ranges are missing: put 'calibrate' before 'assign-precision'")
        kept = dict(graph.plan.kept_float)
        regions = find_regions(graph, target, device=self.device, kept_float=kept)
        problem, reasons = self._pose(graph, ctx, target, regions)
        if self.budget is not None:
            demand = parse_budget(self.budget)
            chosen = least_error(problem, demand.limit(problem.regions, problem.costs))
        elif self.min_sqnr is not None:
            demand = f"the least {self.kind()} at {self.min_sqnr:g} dB"
            chosen = least_cost(problem, 10 ** (-self.min_sqnr / 10))
        else:
            demand = f"the least {self.kind()}"
            chosen = least_cost(problem, float("inf"))
        solutions = front(problem)
        return PrecisionChoice(problem, solutions, chosen, str(demand), reasons, target.name, kept, _activations(graph))

    def _pose(self, graph: Graph, ctx: Context, target: Target, regions: Regions) -> tuple[Problem, dict[str, str]]:
        """The problem, and why regions can't have what they can't have."""
        allowed = [find_precision(name).name for name in self.precisions] or saving(self.kind(), target.precisions)
        rules = parse_rules(self.precision)
        ops = {node.name: node.op for node in graph.nodes}
        for rule in unmatched(rules, ops.items()):
            ctx.remarks.note(None, f"no node is meant by '{rule}'")
        regions = narrowed(regions, {*allowed, *(rule.precision for rule in rules)})
        grade = self.sensitivity
        if grade == "auto":
            grade = "weights" if ctx.calibration is None else "output"
        samples = None if ctx.calibration is None else ctx.calibration.limited(self.samples)
        budget = ctx.resources.memory_budget
        sensitivity = measure_sensitivity(
            graph, regions, samples, grade=grade, threads=ctx.threads, memory_budget=budget
        )
        left, reasons = choices(regions, ops, allowed, rules, sensitivity.forbidden)
        costs = costs_of(graph, ctx, target, regions, self.kind(), self.device)
        return Problem(regions, left, sensitivity, costs), reasons

    def _replay(self, graph: Graph, target: Target, path: str) -> PrecisionChoice:
        """The saved assignment; planned tensors that have no range get the one that was saved."""
        saved = read_plan(path)
        plan_again(graph, target, saved.kept_float)
        saved.set_ranges(graph.plan)
        regions = find_regions(graph, target, kept_float=saved.kept_float)
        assignment = saved.assignment(regions, target.name)
        problem = Problem(
            regions,
            {name: (precision,) for name, precision in assignment.items()},
            Sensitivity("weights", {}, {}),
            Costs(self.kind(), {}, {}, source="none: a saved assignment is replayed"),
        )
        chosen = evaluate(problem, assignment, proven=False)
        return PrecisionChoice(
            problem, (), chosen, "a saved assignment", {}, target.name, saved.kept_float, _activations(graph)
        )


def _activations(graph: Graph) -> dict[str, TensorPlan]:
    """What is planned, without constants."""
    constants = {constant.name for constant in graph.constants}
    return {name: entry for name, entry in graph.plan.tensors.items() if name not in constants}


@dataclass(frozen=True)
class UseAssignment(Pass):
    """Carry out another assignment for the same model and plan, which is known from a run before."""

    name: ClassVar[str] = "use-assignment"
    summary: ClassVar[str] = "take an assignment of precisions from a run before"

    precisions: Mapping[str, str]

    def run(self, graph: Graph, ctx: Context) -> None:
        """Plan again.

        Raises:
            ConfigError: nothing is planned.
        """
        if graph.plan.target is None:
            raise ConfigError("nothing is planned: put 'plan-quantization' and 'calibrate' before 'use-assignment'")
        target = planned_target(graph.plan)
        regions = find_regions(graph, target, kept_float=dict(graph.plan.kept_float))
        say(regions, carry_out(graph, ctx, target, regions, self.precisions, {}), {}, graph, ctx)
