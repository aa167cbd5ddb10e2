"""Mixed precision: the assignment, what it was chosen from, and what was turned back to float to hold a demand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from graphopt.quant.precision import PRECISIONS
from graphopt.report.guarding import Guarded, value_text
from graphopt.report.html.gathered import Gathered, brief, filled, sentence
from graphopt.report.html.payload import Cell, Column, Figure, Point, Scatter, Section, TableData, Unit
from graphopt.report.precision import Candidate, Mixed, candidate_seconds, shares_text
from graphopt.report.units import bytes_text, counted, decibel_text, finite, percent_text

if TYPE_CHECKING:  # scipy
    from graphopt.analysis.precision.record import PrecisionChoice

_COST_UNITS: dict[str, Unit] = {"latency": "seconds", "size": "bytes", "bits": "count"}


def precision_section(found: Gathered) -> Section | None:
    """The assignment of precisions; None where none was made."""
    choice, mixed = found.precision, found.report.mixed
    if choice is None and mixed is None:
        return None
    tables = [*([] if mixed is None else [_candidates(mixed)]), *([] if choice is None else [_regions(choice)])]
    charts = [*([] if choice is None else _front(choice)), *([] if mixed is None else _measured(mixed))]
    return Section(
        "precision", "Mixed precision", tuple(_text(mixed, choice)), tables=tuple(tables), charts=tuple(charts)
    )


def guard_section(found: Gathered) -> Section | None:
    """What the accuracy guard did; None where nothing was demanded."""
    guarded = found.report.guarded
    if guarded is None:
        return None
    columns = (Column("back in float", "node"), Column("operator"), Column("SQNR in 8 bits", "number", "dB"))
    rows = tuple((t.node, t.op, finite(t.isolated_db)) for t in guarded.turned_back)
    return Section(
        "guard",
        "Accuracy guard",
        tuple(_guard_text(guarded)),
        figures=(
            Figure("Float model", value_text(guarded.metric, guarded.reference)),
            Figure("As planned at first", value_text(guarded.metric, guarded.before)),
            Figure("Result", value_text(guarded.metric, guarded.after), guarded.demand, "good"),
            Figure(
                "Weights", bytes_text(guarded.bytes_after), f"{bytes_text(guarded.bytes_before)} as planned at first"
            ),
        ),
        tables=(TableData("Turned back to float", columns, rows),) if rows else (),
    )


def _guard_text(guarded: Guarded) -> Iterator[str]:
    yield sentence(f"{guarded.summary}; {counted(guarded.trials, 'plan')} tried on {guarded.data}")
    if guarded.turned_back:
        share = "an unknown share" if guarded.macs_share is None else percent_text(guarded.macs_share)
        yield f"It costs the 8 bits of {share} of the multiply-accumulates."
    if guarded.on_calibration_data:
        yield "Guarded on calibration samples, which flatter the result: --validation-data is better."


def _text(mixed: Mixed | None, choice: PrecisionChoice | None) -> Iterator[str]:
    if mixed is not None:
        origin = "as demanded" if mixed.floor_given else "the default; --max-drop and --min-sqnr set another"
        yield sentence(mixed.summary)
        yield f"Floor: {mixed.floor} on {mixed.data} ({origin}), measured in onnxruntime."
        yield from (f"Note: {note}" for note in mixed.notes)
    elif choice is not None:
        yield f"Assigned for {choice.demand}."
    if choice is not None:
        costs = choice.problem.costs
        estimate = " (an estimate, nothing was measured)" if costs.estimated else ""
        yield f"Costs: {costs.source or costs.kind}{estimate}."


def _candidates(mixed: Mixed) -> TableData:
    columns = (
        Column("candidate"),
        Column("multiply-accumulates"),
        Column("top-1", "number", "percent"),
        Column(mixed.metric, "number"),
        Column("SQNR", "number", "dB"),
        Column("latency", "number", "seconds"),
        Column("times as fast", "number"),
        Column("cost, of float32's", "number", "percent"),
        Column("weights", "number", "bytes"),
        Column("budget"),
        Column("floor"),
        Column("result"),
    )
    rows = tuple(_candidate(c, mixed) for c in mixed.candidates)
    return filled("Candidates", columns, rows, "No SQNR stands for the same outputs as the original's.")


def _candidate(c: Candidate, mixed: Mixed) -> tuple[Cell, ...]:
    return (
        c.name,
        shares_text(c.shares),
        None if c.accuracy is None else 100 * c.accuracy,
        None if mixed.metric in ("top1", "sqnr") else finite(c.value),
        finite(c.sqnr_db),
        candidate_seconds(c, mixed),
        None if c.latency is None else brief(c.latency.speedup),
        None if c.cost_share is None else brief(100 * c.cost_share),
        c.weight_bytes,
        "" if c.within_budget is None else "met" if c.within_budget else "missed",
        "holds" if c.holds else "fails",
        "shipped" if c.shipped else "",
    )


def _regions(choice: PrecisionChoice) -> TableData:
    problem, taken = choice.problem, choice.chosen.precisions
    costs, losses = problem.costs.regions, problem.sensitivity.weights
    offered = [p for p in PRECISIONS if any(p in choices for choices in problem.choices.values())]
    lossy = [p for p in offered if any(losses.get((r.name, p)) for r in problem.regions.regions)]
    columns = (
        Column("region", "node"),
        Column("operator"),
        Column("precision"),
        Column("nodes", "number", "count"),
        *(Column(f"cost in {p}", "number", _COST_UNITS[problem.costs.kind]) for p in offered),
        *(Column(f"error in {p}", "number") for p in lossy),
        Column("why not another"),
    )
    rows: list[tuple[Cell, ...]] = [
        (
            region.name,
            region.op,
            taken[region.name],
            len(region.nodes),
            *(brief(costs.get((region.name, p))) for p in offered),
            *(brief(losses.get((region.name, p))) for p in lossy),
            choice.reasons.get(region.name, ""),
        )
        for region in problem.regions.regions
    ]
    note = (
        "A region is what the target runs as one kernel. Errors are those of its weights and arithmetic alone, as "
        "relative powers of noise at the outputs."
    )
    return filled("Assignment", columns, rows, note)


def _front(choice: PrecisionChoice) -> list[Scatter]:
    from graphopt.report.precision_front import AXES, predicted_db

    label, unit = AXES[choice.problem.costs.kind]
    known = [predicted_db(p) for p in choice.points if p.error > 0]
    if not known:
        return []
    # A point without an error has no decibels: it is drawn above all others.
    top = max(known) + 0.08 * (max(known) - min(known) or 10.0)
    points = tuple(
        Point(
            p.cost / unit,
            min(predicted_db(p), top),
            f"point {place} of {len(choice.points)}: "
            + (f"{predicted_db(p):.1f} dB predicted" if math.isfinite(predicted_db(p)) else "no error"),
            p is choice.chosen,
        )
        for place, p in enumerate(choice.points, 1)
    )
    axis = label + (" (an estimate)" if choice.problem.costs.estimated else "")
    title = "Front of error and cost: no other assignment is better in both"
    return [Scatter(title, axis, "predicted SQNR, dB", (("front", points, True),))]


def _measured(mixed: Mixed) -> list[Scatter]:
    points = tuple(
        Point(
            1e3 * c.latency.seconds,
            c.sqnr_db,
            f"{c.name}: {decibel_text(c.sqnr_db)}, {c.latency.speedup:.2f} times as fast as the original",
            c.shipped,
        )
        for c in mixed.candidates
        if c.latency is not None and math.isfinite(c.sqnr_db)
    )
    if len(points) < 2:
        return []
    return [Scatter("Candidates, measured", "latency, ms", "SQNR, dB", (("candidates", points, False),))]
