"""What differs between two models, as a page: both graphs to step between, and tables of what has changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from graphopt._version import __version__
from graphopt.ir.outline import NodeOutline
from graphopt.report.html.gathered import brief, filled, sentence
from graphopt.report.html.payload import Cell, Column, Figure, Payload, Section, TableData
from graphopt.report.html.steps import difference_steps
from graphopt.report.model_diff import ModelDiff, ValueChange
from graphopt.report.units import bytes_text, change_text, counted, names_text, ratio_text

_STEP = Column("step", "step")
_BEFORE, _AFTER = 0, 1
"""Places of the two models among the steps of the graph."""


def difference_payload(found: ModelDiff) -> Payload:
    """The page's content; the tables link to the graph at the step where a node is."""
    sections = (_summary(found), _changed(found), _values(found), _nodes(found, "removed"), _nodes(found, "added"))
    return Payload(
        " → ".join(found.titles),
        __version__,
        tuple(section for section in sections if section is not None),
        difference_steps(*found.sides, found.graph, found.titles),
    )


def _summary(found: ModelDiff) -> Section:
    graph, (before, after) = found.graph, found.sides
    sizes = [sum(c.nbytes for c in side.constants.values()) for side in found.sides]
    figures = (
        Figure("Nodes", change_text(str(len(before.nodes)), str(len(after.nodes)))),
        Figure("Removed", str(len(graph.removed))),
        Figure("Added", str(len(graph.added))),
        Figure("Changed", str(len(found.changed)), f"{graph.same + len(found.renamed)} unchanged"),
        Figure("Other values", str(len(found.values)), "weights, scales and zero points"),
        Figure("Constants", change_text(*map(bytes_text, sizes)), ratio_text(*sizes)),
    )
    counts = [Counter(node.op for node in side.nodes.values()) for side in found.sides]
    rows = [
        (op, counts[0][op], counts[1][op], counts[1][op] - counts[0][op])
        for op in sorted({*counts[0], *counts[1]}, key=lambda op: (-abs(counts[1][op] - counts[0][op]), op))
    ]
    columns = (Column("operator"), *(Column(title, "number", "count") for title in ("before", "after", "difference")))
    tables = (TableData("Operators", columns, tuple(rows)),)
    return Section("summary", "Differences", tuple(_text(found)), figures=figures, tables=tables)


def _text(found: ModelDiff) -> Iterator[str]:
    if found.is_same:
        yield "The same nodes, with the same attributes and values."
    if found.renamed:
        yield sentence(f"{counted(len(found.renamed), 'node')} differ only in their names")
    for domain, old, new in found.opsets:
        yield f"Opset {domain or 'ai.onnx'}: {old or 'none'} → {new or 'none'}."
    for word, names in (("Inputs", found.graph.inputs), ("Outputs", found.graph.outputs)):
        if names is not None:
            yield f"{word}: {', '.join(names[0])} → {', '.join(names[1])}."
    for title, notes in zip(found.titles, found.notes, strict=True):
        yield from (sentence(f"{title}: {note}") for note in notes)


def _changed(found: ModelDiff) -> Section | None:
    if not found.changed:
        return None
    columns = (_STEP, Column("node", "node"), Column("operator"), Column("what"), Column("was called"))
    rows: list[tuple[Cell, ...]] = []
    for change in found.changed:
        was = "" if change.before.name == change.after.name else change.before.name
        what = change.what[:-1] if was else change.what  # the last of them is the name
        rows.append((_AFTER, change.after.name, change.after.op, "; ".join(what), was))
    return Section("changed", "Changed nodes", tables=(filled("Changed nodes", columns, rows),))


def _values(found: ModelDiff) -> Section | None:
    grids = [v for v in found.values if v.is_grid]
    others = [v for v in found.values if not v.is_grid]
    tables = [
        _value_table("Weights and other constants", others),
        _value_table("Scales and zero points", grids),
    ]
    shown = tuple(table for table in tables if table is not None)
    text = "Of the same type in both models, with other values. SNR: of the second against the first."
    return Section("values", "Other values", (text,), tables=shown) if shown else None


def _value_table(title: str, values: Sequence[ValueChange]) -> TableData | None:
    if not values:
        return None
    columns = (
        _STEP,
        Column("read by", "node"),
        Column("what"),
        Column("constant", "tensor"),
        Column("before", "number"),
        Column("after", "number"),
        Column("values", "number", "count"),
        Column("changed", "number", "percent"),
        Column("largest change", "number"),
        Column("SNR", "number", "dB"),
    )
    rows: list[tuple[Cell, ...]] = [
        (
            _BEFORE, v.node, v.what, v.before, brief(v.old), brief(v.new),
            v.count, 100 * v.changed / v.count, brief(v.largest), brief(v.snr_db),
        )
        for v in values
    ]  # fmt: skip
    return filled(title, columns, rows)


def _nodes(found: ModelDiff, word: str) -> Section | None:
    nodes: Sequence[NodeOutline] = found.graph.removed if word == "removed" else found.graph.added
    if not nodes:
        return None
    place = _BEFORE if word == "removed" else _AFTER
    columns = (_STEP, Column("node", "node"), Column("operator"), Column("reads"), Column("makes"))
    rows: list[tuple[Cell, ...]] = [(place, n.name, n.op, names_text(n.inputs), names_text(n.outputs)) for n in nodes]
    counts = Counter(node.op for node in nodes)
    text = ", ".join(f"{count} {op}" for op, count in counts.most_common())
    title = f"{word.capitalize()} nodes"
    return Section(word, title, (f"{text}.",), tables=(filled(title, columns, rows),))
