"""`graphopt bisect`: which pass, then which nodes, lose accuracy, as data and as a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graphopt.report.document import Document, Line, Table
from graphopt.report.guarding import value_text
from graphopt.report.summary import plain
from graphopt.report.units import counted, seconds_text


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
class Bisection:
    """What was found.

    Attributes:
        source: the model.
        pipeline: the passes, as text.
        metric: "sqnr" (of the worst output, in dB), "top1" (in percent), or the name of a function.
        demand: what has to hold, in words.
        data: what it was measured on.
        evaluations: the models that were measured, in the order of the search.
        boundary: where it is lost; None where it isn't.
        seconds: how long it took.
    """

    source: str
    pipeline: str
    metric: str
    demand: str
    data: str
    evaluations: tuple[Evaluation, ...]
    boundary: Boundary | None
    seconds: float = 0.0

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
    rows = tuple(
        (
            str(e.index),
            e.name or "the model as it came",
            value_text(found.metric, e.value),
            "holds" if e.holds else "is lost",
        )
        for e in sorted(found.evaluations, key=lambda e: e.index)
    )
    page += [Line(), Table((">passes", "the last of them", ">value", ""), rows)]
    measured = counted(len(found.evaluations), "model")
    page.append(Line(f"  {measured} measured on {found.data}, {seconds_text(found.seconds)}"))
    return page


def _outcome(found: Bisection) -> list[Line | Table]:
    boundary = found.boundary
    if boundary is None:
        return [Line("  nothing is lost: the whole pipeline holds it", "good")]
    promise = "promises the same outputs" if boundary.lossless else "is allowed to lose something"
    values = f"{value_text(found.metric, boundary.before)} → {value_text(found.metric, boundary.after)}"
    return [
        Line(f"  it is lost in pass {boundary.index}, {boundary.text}: {values}", "warning"),
        Line(f"  the pass {promise}"),
        Line(
            f"  graphopt optimize … --pass-limit {boundary.index - 1} still holds it, --pass-limit {boundary.index} "
            "doesn't"
        ),
    ]
