"""What the accuracy guard did to hold what the user demands, as data and as a page."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.report.document import Document, Line, Table
from graphopt.report.units import bytes_text, counted, decibel_text, percent_text


@dataclass(frozen=True)
class TurnedBack:
    """A node that the guard left in float: its operator, and SQNR with only this node quantized; None: not measured."""

    node: str
    op: str
    isolated_db: float | None


@dataclass(frozen=True)
class Guarded:
    """A result that holds what was demanded, and what that cost.

    Attributes:
        metric: "top1" (in percent), "sqnr" (the lowest of the outputs', in dB), or the name of a function.
        demand: what had to hold, in words.
        reference: the float model's value; infinite for sqnr.
        before: the value of the result as it was planned at first.
        after: the value of the result.
        data: where the samples come from.
        on_calibration_data: True when they are calibration samples, which flatter the result.
        turned_back: nodes that had to stay float, those that cost most first; empty when the first result held.
        macs_share: part of the multiply-accumulates that they are; None where shapes aren't known.
        bytes_before, bytes_after: bytes of the weights, as planned at first and in the result.
        trials: plans that were compiled and measured, the first one included.
    """

    metric: str
    demand: str
    reference: float
    before: float
    after: float
    data: str
    on_calibration_data: bool
    turned_back: tuple[TurnedBack, ...]
    macs_share: float | None
    bytes_before: int
    bytes_after: int
    trials: int

    @property
    def summary(self) -> str:
        """The outcome in one line."""
        if not self.turned_back:
            return f"{self.demand}: held by the plan as it was ({value_text(self.metric, self.after)})"
        return (
            f"{self.demand}: held with {counted(len(self.turned_back), 'node')} turned back to float "
            f"({value_text(self.metric, self.before)} → {value_text(self.metric, self.after)})"
        )


def value_text(metric: str, value: float) -> str:
    """A value in the unit of its metric."""
    if metric == "sqnr":
        return decibel_text(value)
    return percent_text(value / 100) if metric == "top1" else f"{metric} {value:.6g}"


def guarded_page(found: Guarded) -> Document:
    """What was demanded, and what it cost."""
    page: list[Line | Table] = [Line(f"Accuracy guard: {found.summary}", "good")]
    if found.turned_back:
        rows = tuple(
            (t.node, t.op, "" if t.isolated_db is None else decibel_text(t.isolated_db)) for t in found.turned_back
        )
        page.append(Table(("back in float", "operator", ">SQNR in 8 bits"), rows))
        size = f"{bytes_text(found.bytes_before)} → {bytes_text(found.bytes_after)}"
        share = "an unknown share" if found.macs_share is None else percent_text(found.macs_share)
        page.append(
            Line(
                f"  it costs the 8 bits of {share} of the multiply-accumulates; weights {size}; "
                f"{counted(found.trials, 'plan')} tried"
            )
        )
    if found.on_calibration_data:
        page.append(Line("  guarded on calibration samples, which flatter the result: --validation-data is better"))
    return page
