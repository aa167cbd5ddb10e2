"""What calibration saw of each activation, and the range that was chosen for it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from graphopt.calibration.histogram import Histogram
from graphopt.calibration.plots import bars
from graphopt.ir import Graph, fixed_value
from graphopt.passes.calibrate import Calibrate
from graphopt.report.html.gathered import Gathered, filled, sentence
from graphopt.report.html.payload import Cell, Column, HistogramData, Section
from graphopt.report.units import counted, finite, percent_text

BARS = 200
"""Bars of a histogram, at most."""

_COLUMNS = (
    Column("tensor", "tensor"),
    Column("type"),
    Column("smallest value", "number"),
    Column("largest value", "number"),
    Column("range from", "number"),
    Column("range to", "number"),
    Column("values outside", "number", "percent"),
    Column("exact zeros", "number", "percent"),
    Column("step", "number"),
    Column("zero point", "number"),
    Column("values seen", "number", "count"),
    Column("SQNR alone", "number", "dB"),
)
_NO_SAMPLES = (
    "The ranges come from a file (--ranges, --precision-plan), or from constants: there is nothing to show of values "
    "that were seen."
)


@dataclass(frozen=True)
class Grid:
    """What a QuantizeLinear rounds to: `low` and `high` are the values that its smallest and largest integer mean."""

    type: str
    scale: float
    zero_point: int
    low: float
    high: float


def calibration_section(found: Gathered) -> Section | None:
    """A histogram of each observed tensor with its range; None where nothing was calibrated, or has a range."""
    if not found.statistics:
        planned = any(layer.integer for layer in found.report.layers)
        given = planned and any(record.name == Calibrate.name for record in found.report.passes)
        return Section("calibration", "Calibration", (_NO_SAMPLES,)) if given else None
    chosen = grids(found.graph)
    if not any(name in chosen for name in found.statistics):  # what ships is in float
        return None
    losses = {} if found.errors is None else {e.tensor: e.isolated_db for e in found.errors.tensors}
    seen = {name: s for name, s in found.statistics.items() if isinstance(s, Histogram) and not s.is_empty}
    rows = tuple(_row(name, h, chosen.get(name), losses.get(name)) for name, h in seen.items())
    return Section(
        "calibration",
        "Calibration",
        tuple(_text(found, seen, chosen)),
        tables=(filled("Activations", _COLUMNS, rows),) if rows else (),
        gallery=tuple(_histogram(name, h, chosen.get(name)) for name, h in seen.items()),
    )


def grids(graph: Graph) -> Mapping[str, Grid]:
    """Tensor → the grid that it is rounded to, of each that a QuantizeLinear with one scale reads."""
    found: dict[str, Grid] = {}
    for node in itertools.chain.from_iterable(scope.nodes for scope in graph.walk()):
        if not node.is_op("QuantizeLinear"):
            continue
        scale, zero = fixed_value(node.input(1)), fixed_value(node.input(2))
        if scale is None or scale.size != 1:
            continue
        dtype = np.dtype(np.uint8) if zero is None else zero.dtype
        if dtype.kind not in "iu" or dtype.itemsize > 2:
            continue
        step, point = float(scale.reshape(())), 0 if zero is None else int(zero.reshape(()))
        limits = np.iinfo(dtype)
        low, high = step * (int(limits.min) - point), step * (int(limits.max) - point)
        found.setdefault(node.inputs[0].name, Grid(dtype.name, step, point, low, high))
    return found


def _text(found: Gathered, seen: Mapping[str, Histogram], chosen: Mapping[str, Grid]) -> Iterator[str]:
    notes = [r.message for r in found.report.remarks if r.pass_name == "calibrate" and r.kind == "note"]
    yield from map(sentence, dict.fromkeys(notes))
    floats = sum(name not in chosen for name in seen)
    if floats:
        yield f"{counted(floats, 'observed tensor')} without a range here: float in the result."
    yield "Exact zeros aren't drawn. What is outside of the range is clipped; the share is that of whole bins."


def _row(name: str, seen: Histogram, grid: Grid | None, loss: float | None) -> tuple[Cell, ...]:
    count = seen.count or 1
    return (
        name,
        "float" if grid is None else grid.type,
        seen.low,
        seen.high,
        None if grid is None else grid.low,
        None if grid is None else grid.high,
        None if grid is None else 100 * _outside(seen, grid) / count,
        100 * seen.zeros / count,
        None if grid is None else grid.scale,
        None if grid is None else grid.zero_point,
        seen.count,
        finite(loss),
    )


def _outside(seen: Histogram, grid: Grid) -> int:
    """Values in bins whose middle is beyond the range, half a step of rounding allowed."""
    if seen.exponent is None:
        return 0
    middles = (np.arange(len(seen.positive)) + 0.5) * seen.width
    low, high = grid.low - grid.scale / 2, grid.high + grid.scale / 2
    return int(seen.positive[middles > high].sum()) + int(seen.negative[-middles < low].sum())


def _histogram(name: str, seen: Histogram, grid: Grid | None) -> HistogramData:
    edges, counts = bars(seen, BARS)
    zeros = f"{percent_text(seen.zeros / (seen.count or 1))} exact zeros" if seen.zeros else ""
    marks: tuple[tuple[str, float], ...] = ()
    if grid is not None:
        marks = ("range from", grid.low), (f"zero point {grid.zero_point}", 0.0), ("range to", grid.high)
    title = ", ".join(filter(None, (name, "" if grid is None else grid.type, zeros)))
    return HistogramData(title, name, tuple(edges.tolist()), tuple(float(c) for c in counts), marks)
