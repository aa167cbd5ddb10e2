"""What mixed precision shipped and what it was chosen from, as data and as a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.report.document import Document, Line, Table
from graphopt.report.units import bytes_text, decibel_text, milliseconds_text, percent_text

if TYPE_CHECKING:  # backends bring onnxruntime in
    from graphopt.backends.latency import Latency


@dataclass(frozen=True)
class Candidate:
    """One model that might be shipped.

    Attributes:
        name: "original"; "float": simplified; "int8": everything that can be; "mixed 3 of 20": a point of the front, of
            which the cheapest is the first.
        shares: precision → its part of the multiply-accumulates, the largest first; empty where they aren't known.
        accuracy: top-1, as a share; None without labels.
        sqnr_db: the lowest of the outputs'.
        value: what the floor is about.
        holds: whether that is above the floor.
        weight_bytes: of its constants.
        cost: what the assignment costs by the tables, in their unit; None without.
        cost_share: the same, as a part of what all float32 takes.
        latency: against the original, in the target's engine; None where it wasn't measured.
        within_budget: whether its cost is; None without a budget.
        shipped: whether it is the result.
    """

    name: str
    shares: Mapping[str, float]
    accuracy: float | None
    sqnr_db: float
    value: float
    holds: bool
    weight_bytes: int
    cost: float | None = None
    cost_share: float | None = None
    latency: Latency | None = None
    within_budget: bool | None = None
    shipped: bool = False


@dataclass(frozen=True)
class Mixed:
    """A result in mixed precision, and what it was chosen from.

    Attributes:
        demand: what the assignment was chosen for, in words.
        metric: what the floor is about: "top1", "sqnr" or the name of a function.
        floor: the least that the result must hold, in words.
        floor_given: whether the user gave it.
        data: where the samples come from.
        on_calibration_data: True when they are calibration samples, which flatter the result.
        candidates: what was compiled and measured, the original first.
        why: why the shipped one is it, in a sentence.
        cost_kind: what costs are: "latency", "size" or "bits".
        costs: where the costs of regions come from.
        estimated: they are an estimate, nothing was measured.
        engine: what latencies were measured in; empty where none were.
        notes: what couldn't be measured, and why.
    """

    demand: str
    metric: str
    floor: str
    floor_given: bool
    data: str
    on_calibration_data: bool
    candidates: tuple[Candidate, ...]
    why: str
    cost_kind: str
    costs: str
    estimated: bool
    engine: str = ""
    notes: tuple[str, ...] = ()

    @property
    def shipped(self) -> Candidate:
        """The result."""
        return next(c for c in self.candidates if c.shipped)

    @property
    def summary(self) -> str:
        """The outcome in one line."""
        return f"ships {self.shipped.name}: {self.why}"


def precision_page(found: Mixed) -> Document:
    """One row for each candidate, and why it is this one."""
    origin = "as demanded" if found.floor_given else "the default; --max-drop and --min-sqnr set another"
    page: list[Line | Table] = [
        Line(f"Mixed precision for {found.demand}", "title"),
        _table(found),
        Line(f"  {found.summary}", "good"),
        Line(f"  floor: {found.floor} on {found.data} ({origin}), measured in onnxruntime"),
        Line(f"  costs: {found.costs}"),
    ]
    if found.on_calibration_data:
        page.append(Line("  measured on calibration samples, which flatter the result: --validation-data is better"))
    return [*page, *(Line(f"  {note}") for note in found.notes)]


def _table(found: Mixed) -> Table:
    rows = found.candidates
    columns: dict[str, list[str]] = {
        "candidate": [c.name for c in rows],
        "multiply-accumulates": [shares_text(c.shares) for c in rows],
        ">top-1": ["" if c.accuracy is None else percent_text(c.accuracy) for c in rows],
        f">{found.metric}": ["" if found.metric in ("top1", "sqnr") else f"{c.value:.6g}" for c in rows],
        ">SQNR": [decibel_text(c.sqnr_db) for c in rows],
        ">latency": [_seconds(c, found) for c in rows],
        "times as fast": [_speed(c, found) for c in rows],
        ">weights": [bytes_text(c.weight_bytes) for c in rows],
        "budget": ["" if c.within_budget is None else "met" if c.within_budget else "missed" for c in rows],
        "floor": ["holds" if c.holds else "fails" for c in rows],
        "result": ["shipped" if c.shipped else "" for c in rows],
    }
    shown = {title: cells for title, cells in columns.items() if any(cells)}
    return Table(tuple(shown), tuple(zip(*shown.values(), strict=True)))


def shares_text(shares: Mapping[str, float]) -> str:
    """`int8 92 %, float32 8 %`."""
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items() if share > 0)


def candidate_seconds(candidate: Candidate, found: Mixed) -> float | None:
    """Its latency; of what the others are measured against, as it was beside the first of them; None: not measured."""
    if candidate.latency is not None:
        return candidate.latency.seconds
    beside = [c.latency.reference_seconds for c in found.candidates if c.latency is not None]
    return beside[0] if beside and candidate is found.candidates[0] else None


def _seconds(candidate: Candidate, found: Mixed) -> str:
    seconds = candidate_seconds(candidate, found)
    return "" if seconds is None else milliseconds_text(seconds)


def _speed(candidate: Candidate, found: Mixed) -> str:
    latency = candidate.latency
    if latency is not None:
        return f"{latency.speedup:.2f} ({latency.speedup_low:.2f} to {latency.speedup_high:.2f})"
    if found.engine or not candidate.cost_share:
        return ""
    if found.cost_kind != "latency":
        return f"{candidate.cost_share:.2f} of the {found.cost_kind}"
    return f"{1 / candidate.cost_share:.2f}{', estimated' if found.estimated else ''}"
