"""`graphopt bisect`: which pass, then which nodes, lose accuracy, as data and as a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from graphopt.report.document import Document, Line, Table
from graphopt.report.guarding import value_text
from graphopt.report.model_diff import ValueChange
from graphopt.report.summary import plain
from graphopt.report.units import counted, decibel_text, seconds_text


@dataclass(frozen=True)
class Evaluation:
    """The model behind a pass, measured.

    Attributes:
        index: number of the pass; 0 for the model as it came.
        name: the pass; "" likewise.
        value: in the unit of the metric.
        demand: what it has to hold, in words.
        holds: whether that holds what is demanded.
    """

    index: int
    name: str
    value: float
    demand: str
    holds: bool


@dataclass(frozen=True)
class Boundary:
    """Two neighbouring moments of the run, the first of which holds what is demanded while the second doesn't.

    Attributes:
        index: number of the pass between them.
        name: its name.
        text: the pass with its options.
        lossless: whether it promises the same outputs.
        before, after: the values in front of it and behind it.
        last_good: number of the last pass before it that changed the model; 0: none did.
    """

    index: int
    name: str
    text: str
    lossless: bool
    before: float
    after: float
    last_good: int


@dataclass(frozen=True)
class Suspect:
    """A change that the pass made, and that has to be taken back.

    Attributes:
        removed, added: nodes, as "Conv 'name'".
        changed: node that is still there → what has changed, in words.
        values: its constants that have other values.
        remarks: what the pass said about these nodes.
        planned: tensor that it quantizes → the passes that wrote its plan, in order.
        alone: the value of the model with this change only; NaN: that isn't known.
    """

    removed: tuple[str, ...]
    added: tuple[str, ...]
    changed: Mapping[str, tuple[str, ...]]
    values: tuple[ValueChange, ...]
    remarks: tuple[str, ...]
    planned: Mapping[str, tuple[str, ...]]
    alone: float


@dataclass(frozen=True)
class Blame:
    """What in a pass loses it: the fewest changes without which the demand is held.

    Attributes:
        suspects: them, what loses most by itself first.
        changes: how many changes the pass made.
        cured: the value behind the pass without them.
        alone: the value with nothing but them; NaN: there is no such model.
        tests: how many models were measured for that.
        unresolved: how many of those weren't valid, or didn't run.
        is_minimal: whether each of them is known to be needed.
    """

    suspects: tuple[Suspect, ...]
    changes: int
    cured: float
    alone: float
    tests: int
    unresolved: int
    is_minimal: bool


@dataclass(frozen=True)
class ReproducerFound:
    """A folder that shows the loss alone.

    Attributes:
        folder: where.
        nodes, of: nodes of its model, and of the model that it was cut from.
        sqnr_db: of its worst output behind the pass, as it is.
        least_db: what would be expected.
    """

    folder: str
    nodes: int
    of: int
    sqnr_db: float
    least_db: float


@dataclass(frozen=True)
class Bisection:
    """What was found.

    Attributes:
        source: the model.
        pipeline: the passes, as text.
        metric: "sqnr" (of the worst output, in dB), "top1" (in percent), or the name of a function.
        demand: what has to hold, in words.
        data: what it was measured on.
        evaluations: the models that were measured, in the order of the search.
        result: the value of the model behind all passes, against the original; NaN where it wasn't measured.
        boundary: where it is lost; None where it isn't.
        seconds: how long it took.
        blame: what in the pass loses it; None where the pass can't be divided, or nothing is lost.
        reproducer: what shows it alone; None where none was asked for, or nothing does.
        notes: what else is worth knowing.
    """

    source: str
    pipeline: str
    metric: str
    demand: str
    data: str
    evaluations: tuple[Evaluation, ...]
    result: float
    boundary: Boundary | None
    seconds: float = 0.0
    blame: Blame | None = None
    reproducer: ReproducerFound | None = None
    notes: tuple[str, ...] = ()

    @property
    def found(self) -> bool:
        """Whether anything loses what is demanded."""
        return self.boundary is not None

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON; infinite values are null."""
        return {"found": self.found, **plain(self)}


def bisection_page(found: Bisection) -> Document:
    """The outcome, then what it rests on."""
    page: list[Line | Table] = [Line(f"{found.source}: {found.demand}", "title"), *_outcome(found)]
    if found.blame is not None:
        page += _blame(found, found.blame)
    if found.reproducer is not None:
        page += _reproducer(found.reproducer)
    page += [Line(f"  {note}", "warning") for note in found.notes]
    page += _evaluations(found)
    tests = len(found.evaluations) + (0 if found.blame is None else found.blame.tests)
    page.append(Line(f"  {counted(tests, 'model')} measured on {found.data}, {seconds_text(found.seconds)}"))
    return page


def _evaluations(found: Bisection) -> Iterator[Line | Table]:
    if not found.evaluations:
        return
    several = len({e.demand for e in found.evaluations}) > 1
    rows = tuple(
        (
            str(e.index),
            e.name or "the model as it came",
            value_text(found.metric, e.value),
            "holds" if e.holds else "is lost",
            e.demand if several else "",
        )
        for e in sorted(found.evaluations, key=lambda e: e.index)
    )
    yield Line()
    yield Table((">passes", "the last of them", ">value", "", "demand" if several else ""), rows)


def _outcome(found: Bisection) -> list[Line | Table]:
    boundary = found.boundary
    if boundary is None:
        return [Line(f"  nothing is lost: behind all passes {value_text(found.metric, found.result)}", "good")]
    promise = "promises the same outputs" if boundary.lossless else "is allowed to lose something"
    values = f"{value_text(found.metric, boundary.before)} → {value_text(found.metric, boundary.after)}"
    limits = f"--pass-limit {boundary.index - 1} still holds it, --pass-limit {boundary.index} doesn't"
    return [
        Line(f"  it is lost in pass {boundary.index}, {boundary.text}: {values}", "warning"),
        Line(f"  the pass {promise}"),
        Line(f"  graphopt optimize … {limits}"),
    ]


def _blame(found: Bisection, blame: Blame) -> Iterator[Line | Table]:
    count = len(blame.suspects)
    without = value_text(found.metric, blame.cured)
    yield Line()
    yield Line(f"To blame: {count} of the {counted(blame.changes, 'change')} that it made", "title")
    together = "" if math.isnan(blame.alone) else f"; alone: {value_text(found.metric, blame.alone)}"
    yield Line(f"  with all others, but without {'it' if count == 1 else 'these'}: {without}{together}")
    if not blame.is_minimal:
        yield Line("  not all of these may be needed: the search was ended", "warning")
    for number, suspect in enumerate(blame.suspects, start=1):
        alone = "" if math.isnan(suspect.alone) or count == 1 else f"alone: {value_text(found.metric, suspect.alone)}"
        yield Table(("", ""), ((f"{number}.", alone), *_suspect(suspect)))


def _suspect(suspect: Suspect) -> Iterator[tuple[str, str]]:
    for node, what in suspect.changed.items():
        yield ("changed", f"{node}: {'; '.join(what)}")
    for word, nodes in (("removed", suspect.removed), ("added", suspect.added)):
        for node in nodes:
            yield (word, node)
    for value in suspect.values:
        snr = "" if math.isnan(value.snr_db) else f", {decibel_text(value.snr_db)}"
        largest = "" if math.isnan(value.largest) else f", by {value.largest:.4g} at most"
        yield ("values", f"{value.what} of {value.node}: {value.changed} of {value.count} differ{largest}{snr}")
    for tensor, passes in suspect.planned.items():
        yield ("planned", f"{tensor}: by {', then '.join(passes)}")
    for remark in suspect.remarks:
        yield ("said", remark)


def _reproducer(found: ReproducerFound) -> Iterator[Line]:
    size = f"{counted(found.nodes, 'node')} of {found.of}" if found.nodes < found.of else "the whole model"
    yield Line()
    yield Line(f"Alone: {found.folder}", "title")
    yield Line(
        f"  {size}: {decibel_text(found.sqnr_db)} where {decibel_text(found.least_db)} are expected; "
        "python reproduce.py in it exits with 1 while that is so"
    )
