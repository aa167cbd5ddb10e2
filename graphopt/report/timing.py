"""Where the time of a run went, as one table."""

from __future__ import annotations

from typing import Any

from graphopt.pipeline import PassRecord
from graphopt.pipeline.instruments import Timing
from graphopt.report.document import Table
from graphopt.report.units import bytes_text, change_text, milliseconds_text


def timing_table(timing: Timing) -> Table:
    """Every pass in order, with its share of the whole; `checks` are what instruments took around it, and `samples`
    how many of the calibration data's it ran, over all its walks.
    """
    whole = timing.seconds or 1.0
    watching = sum(t.watching for t in timing.times)
    rows = [
        (
            str(t.index),
            t.name,
            change_text(str(t.record.nodes_before), str(t.record.nodes_after)),
            change_text(bytes_text(t.record.bytes_before), bytes_text(t.record.bytes_after)),
            rewrites_text(t.record),
            milliseconds_text(t.seconds),
            f"{t.seconds / whole:.1%}",
            milliseconds_text(t.watching),
            str(t.samples or ""),
        )
        for t in timing.times
    ]
    rows.append(("", "checks and dumps", "", "", "", milliseconds_text(watching), f"{watching / whole:.1%}", "", ""))
    rows.append(("", "in all", "", "", "", milliseconds_text(timing.seconds), "100.0%", "", ""))
    columns = (">", "pass", ">nodes", ">weights", "rewrites", ">time", ">share", ">checks, dumps", ">samples")
    return Table(columns, tuple(rows))


def timing_dicts(timing: Timing) -> list[dict[str, Any]]:
    """The same as plain data."""
    return [
        {"index": t.index, "pass": t.name, "seconds": t.seconds, "watching": t.watching, "samples": t.samples}
        for t in timing.times
    ]


def rewrites_text(record: PassRecord) -> str:
    """`7 applied, 2 declined`."""
    return ", ".join(f"{record.remarks[kind]} {kind}" for kind in ("applied", "declined") if record.remarks.get(kind))
