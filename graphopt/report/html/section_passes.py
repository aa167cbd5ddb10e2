"""The passes in order: what each took, changed and said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from graphopt.report.html.gathered import Gathered, filled
from graphopt.report.html.payload import Bars, Cell, Column, GraphSteps, Section, Step
from graphopt.report.units import seconds_text

_COLUMNS = (
    Column("pass", "step"),
    Column("time", "number", "seconds"),
    Column("share", "number", "percent"),
    Column("nodes", "number", "count"),
    Column("removed", "number", "count"),
    Column("added", "number", "count"),
    Column("changed", "number", "count"),
    Column("weights", "number", "bytes"),
    Column("applied", "number", "count"),
    Column("declined", "number", "count"),
    Column("notes", "number", "count"),
    Column("outputs"),
    Column("options"),
)


def passes_section(found: Gathered, graph: GraphSteps) -> Section | None:
    """A row for each pass that ran; None where none did."""
    steps = list(enumerate(graph.steps))[1:]
    if not steps:
        return None
    whole = sum(step.seconds or 0.0 for _, step in steps) or 1.0
    rows = tuple(_row(place, step, whole) for place, step in steps)
    changed = sum(step.changed for _, step in steps)
    count = "1 pass" if len(steps) == 1 else f"{len(steps)} passes"
    text = f"{count} in {seconds_text(whole)}, {changed} of them changed the graph."
    times = Bars(
        "Time of each pass",
        "seconds",
        ("time",),
        tuple(f"{step.index} {step.title}" for _, step in steps),
        ("",) * len(steps),
        tuple((step.seconds,) for _, step in steps),
    )
    return Section("passes", "Passes", (text,), tables=(filled("Passes", _COLUMNS, rows),), charts=(times,))


def step_figures(found: Gathered) -> Mapping[int, Sequence[tuple[str, str]]]:
    """Number of a pass → short facts about it."""
    return {s.record.index: tuple(_figures(found, s.record.index)) for s in found.history.steps}


def _figures(found: Gathered, index: int) -> Iterator[tuple[str, str]]:
    if index in found.checked:
        yield ("outputs", "the same as before")


def _row(place: int, step: Step, whole: float) -> tuple[Cell, ...]:
    said = Counter(remark.kind for remark in step.remarks)
    return (
        place,
        step.seconds,
        None if step.seconds is None else 100 * step.seconds / whole,
        step.nodes[1],
        len(step.removed) or None,
        len(step.added) or None,
        len(step.edits) or None,
        step.nbytes[1],
        said["applied"] or None,
        said["declined"] or None,
        said["note"] or None,
        dict(step.figures).get("outputs") or ("promised the same" if step.lossless else "may change"),
        step.options,
    )
