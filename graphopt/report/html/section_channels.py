"""Channels: which were removed and which couldn't be, or, where none were to go, which hang together."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.analysis.pruning.elimination_record import Elimination, GroupElimination
from graphopt.report.coupling import CouplingReport
from graphopt.report.html.gathered import Gathered, brief, filled, sentence
from graphopt.report.html.payload import Cell, Column, Figure, HistogramData, Section, TableData
from graphopt.report.units import count_text, counted, names_text, percent_text, seconds_text

_KEPT_WHOLE = "others cost less for what they save"


def channels_section(found: Gathered) -> Section | None:
    """What became of the groups of channels; None where nothing is known about them."""
    if found.report.elimination is not None:
        return _eliminated(found.report.elimination)
    return None if found.coupling is None else _coupled(found.coupling)


def _eliminated(found: Elimination) -> Section:
    columns = (
        Column("group", "tensor"),
        Column("channels before", "number", "count"),
        Column("left", "number", "count"),
        Column("share left", "number", "percent"),
        Column("error by the criterion", "number"),
        Column("first layer", "node"),
        Column("layers"),
        Column("why it is whole"),
    )
    rows = tuple(_group_row(group) for group in found.groups)
    tables = [filled("Groups of channels", columns, rows)]
    if found.frozen:
        frozen = (Column("group", "tensor"), Column("units", "number", "count"), Column("layers"), Column("why"))
        kept = tuple((_tensor(g.name), g.units, names_text(g.layers), g.reason) for g in found.frozen)
        tables.append(TableData("What can't lose channels", frozen, kept))
    return Section(
        "channels",
        "Removed channels",
        (f"Channels removed for {found.demand}, by {found.importance}.", *map(sentence, found.notes)),
        figures=tuple(_figures(found)),
        tables=tuple(tables),
        gallery=tuple(_importance(group) for group in found.groups if group.histogram),
    )


def _figures(found: Elimination) -> Sequence[Figure]:
    before, after = found.before, found.after
    figures = [
        Figure("MACs", count_text(after.macs), _left(after.macs, before.macs)),
        Figure("Parameters", count_text(after.params), _left(after.params, before.params)),
    ]
    if before.latency is not None and after.latency is not None:
        note = f"{seconds_text(before.latency)} before"
        figures.append(Figure("Layers' time, one by one", seconds_text(after.latency), note))
    return figures


def _left(after: int, before: int) -> str:
    return f"{percent_text(after / before)} of {count_text(before)}" if before else ""


def _group_row(group: GroupElimination) -> tuple[Cell, ...]:
    return (
        _tensor(group.name),
        group.before,
        group.after,
        100 * group.after / group.before if group.before else None,
        brief(group.error),
        group.layers[0] if group.layers else "",
        names_text(group.layers),
        "" if group.removed else group.reason or _KEPT_WHOLE,
    )


def _importance(group: GroupElimination) -> HistogramData:
    counts = group.histogram or ()
    edges = tuple(k / len(counts) for k in range(len(counts) + 1))
    title = f"{group.name}: importance of its units, the largest 1"
    return HistogramData(title, _tensor(group.name), edges, tuple(float(c) for c in counts), ())


def _coupled(found: CouplingReport) -> Section:
    columns = (
        Column("group", "tensor"),
        Column("units", "number", "count"),
        Column("channels a unit", "number", "count"),
        Column("parameters", "number", "count"),
        Column("MACs", "number", "count"),
        Column("first layer", "node"),
        Column("layers"),
    )
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            _tensor(g.name), g.units, g.channels, g.parameters, g.macs or None, g.layers[0] if g.layers else "",
            names_text(g.layers),
        )
        for g in found.groups
    )  # fmt: skip
    tables = [filled("Channels that can be removed together", columns, rows)] if rows else []
    if found.fixed:
        fixed = (Column("group", "tensor"), Column("units", "number", "count"), Column("layers"), Column("why"))
        kept = tuple((_tensor(g.name), g.units, names_text(g.layers), g.reason) for g in found.fixed)
        tables.append(TableData("What has to stay", fixed, kept))
    text = (
        f"{counted(len(found.groups), 'group')} of channels could lose some (--prune). A unit is what can be removed "
        "by itself: some channels, out of all layers of its group at once. A layer between two groups counts for both."
    )
    return Section("channels", "Coupled channels", (text,), tables=tuple(tables))


def _tensor(group: str) -> str:
    """The activation that a group is called by, without the axis."""
    return group.rpartition(":")[0] or group
