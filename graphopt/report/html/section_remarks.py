"""What passes applied, declined and noted, with the reasons."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from graphopt.pipeline import Remark
from graphopt.report.html.gathered import Gathered, filled
from graphopt.report.html.payload import Cell, Column, Section
from graphopt.report.units import counted, names_text

MOST = 5000
"""Remarks that are listed one by one."""


def remarks_section(found: Gathered) -> Section | None:
    """All remarks; where there are very many, those of a pass with the same words are one row. None without any."""
    remarks = list(_placed(found))
    if not remarks:
        return None
    kinds = Counter(remark.kind for _, remark in remarks)
    text = f"{kinds['applied']} applied, {kinds['declined']} declined, {counted(kinds['note'], 'note')}"
    columns = [Column("step", "step"), Column("said by"), Column("kind")]
    if len(remarks) <= MOST:
        columns += [Column("node", "node"), Column("operator"), Column("message")]
        rows = [(place, _who(place, r), r.kind, r.node, r.op, r.message) for place, r in remarks]
        return Section("remarks", "Remarks", (f"{text}.",), tables=(filled("Remarks", columns, rows),))
    columns += [Column("remarks", "number", "count"), Column("nodes"), Column("operator"), Column("message")]
    grouped: dict[tuple[int | None, str, str, str, str], list[str]] = defaultdict(list)
    for place, r in remarks:
        grouped[place, _who(place, r), r.kind, r.op, r.message].append(r.node)
    table: tuple[tuple[Cell, ...], ...] = tuple(
        (place, name, kind, len(nodes), names_text(nodes), op, message)
        for (place, name, kind, op, message), nodes in grouped.items()
    )
    note = f"There are {len(remarks)} remarks: those of a pass with the same words about the same operator are one row."
    return Section("remarks", "Remarks", (f"{text}.",), tables=(filled("Remarks", columns, table, note),))


def _who(place: int | None, remark: Remark) -> str:
    """Who said it, where it isn't the step's pass."""
    return "" if place is not None else remark.pass_name


def _placed(found: Gathered) -> Iterator[tuple[int | None, Remark]]:
    """Each remark with the place of its step; None for what was said after the last pass."""
    steps = found.history.steps
    for place, step in enumerate(steps, 1):
        yield from ((place, remark) for remark in step.remarks)
    seen = {id(remark) for step in steps for remark in step.remarks}
    yield from ((None, remark) for remark in found.report.remarks if id(remark) not in seen)
