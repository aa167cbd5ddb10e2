"""The page on channel elimination: what went, what it saved, and what couldn't go."""

from __future__ import annotations

from collections import Counter

from graphopt.analysis.pruning.elimination_record import Elimination, GroupElimination
from graphopt.report.document import Document, Line, Table
from graphopt.report.units import count_text, counted, names_text, percent_text, seconds_text

_BARS = " ▁▂▃▄▅▆▇█"
_SHOWN = 40


def elimination_page(found: Elimination) -> Document:
    """One line for each group that lost channels, the sums, and a line for each reason why others couldn't."""
    before, after = found.before, found.after
    page: list[Line | Table] = [Line(f"Channels removed for {found.demand}, by {found.importance}", "title")]
    rows = [
        ("MACs", count_text(before.macs), count_text(after.macs), _part(after.macs, before.macs)),
        ("parameters", count_text(before.params), count_text(after.params), _part(after.params, before.params)),
    ]
    if before.latency is not None and after.latency is not None:
        times = seconds_text(before.latency), seconds_text(after.latency)
        rows.append(("layers' time, one by one", *times, _part(after.latency, before.latency)))
    page.append(Table(("", ">before", ">after", ">left"), tuple(rows)))
    lost = [group for group in found.groups if group.removed]
    if lost:
        columns = (">channels", ">left", "importance of units", "in")
        page += [Line(), Table(columns, tuple(_row(group) for group in lost[:_SHOWN]))]
        if len(lost) > _SHOWN:
            page.append(Line(f"  … and {counted(len(lost) - _SHOWN, 'group')} more, see --json or --save-prune-plan"))
    whole = [group for group in found.groups if not group.removed]
    page += [Line(f"  {count} × kept whole: {why}") for why, count in _reasons(whole).items()]
    frozen = Counter(group.reason for group in found.frozen)
    page += [Line(f"  {count} × can't lose channels: {why}") for why, count in frozen.most_common()]
    page += [Line(f"  {note}") for note in found.notes]
    return page


def _row(group: GroupElimination) -> tuple[str, ...]:
    channels = f"{group.before} → {group.after}"
    return channels, percent_text(group.after / group.before), _bars(group), names_text(group.layers)


def _bars(group: GroupElimination) -> str:
    """The histogram as a line of bars, from unimportant to important units."""
    counts = group.histogram
    if counts is None or not any(counts):
        return ""
    highest = max(counts)
    return "".join(_BARS[-(-(len(_BARS) - 1) * count // highest)] for count in counts)


def _reasons(groups: list[GroupElimination]) -> dict[str, int]:
    return dict(Counter(group.reason or "others cost less for what they save" for group in groups).most_common())


def _part(after: float, before: float) -> str:
    return percent_text(after / before) if before else ""
