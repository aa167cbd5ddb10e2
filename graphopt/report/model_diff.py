"""`graphopt diff`: what differs between two models: nodes, attributes, weights, scales and zero points."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.analysis.graph_diff import ChangedNode, GraphDiff, diff_outlines, equal_values
from graphopt.ir import Graph
from graphopt.ir.default_attributes import without_defaults
from graphopt.ir.outline import ConstantOutline, NodeOutline, Outline, outline
from graphopt.ir.stored import loaded
from graphopt.report.document import Document, Line, Table
from graphopt.report.units import counted, decibel_text, finite, names_text

_SHOWN = 20
_GRID_INPUTS = {1: "scale", 2: "zero point"}
_GRIDS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class ValueChange:
    """A constant that a node reads in both models, of the same type and with other values.

    Attributes:
        node: name of the node in the first model.
        index: which of its inputs it is.
        what: "weight, input 1", "scale", "zero point".
        before, after: names of the constant.
        changed: how many of its values differ.
        count: how many it has.
        largest: the largest difference; NaN where values aren't numbers.
        snr_db: of the second against the first; NaN likewise.
        old, new: the values, where it has a single one.
    """

    node: str
    index: int
    what: str
    before: str
    after: str
    changed: int
    count: int
    largest: float
    snr_db: float
    old: float | None = None
    new: float | None = None

    @property
    def text(self) -> str:
        """Both values, where it has a single one: `0.0123 → 0.0125`."""
        return "" if self.old is None or self.new is None else f"{self.old:.6g} → {self.new:.6g}"

    @property
    def is_grid(self) -> bool:
        """Whether it is a scale or a zero point."""
        return self.what in _GRID_INPUTS.values()


@dataclass(frozen=True)
class ModelDiff:
    """What differs between two models.

    Attributes:
        graph: node by node.
        values: constants with other values, in the first model's order.
        opsets: (domain, version in the first, in the second; None: none), where they differ, of domains that are used.
        titles: what the models are called.
        notes: for each model, what loading had to change in it.
        sides: what the models look like, without attributes that have their default value.
    """

    graph: GraphDiff
    values: tuple[ValueChange, ...]
    opsets: tuple[tuple[str, int | None, int | None], ...]
    titles: tuple[str, str]
    notes: tuple[tuple[str, ...], tuple[str, ...]]
    sides: tuple[Outline, Outline] = field(repr=False)

    @property
    def changed(self) -> tuple[ChangedNode, ...]:
        """Nodes of both models that aren't the same, and not only called otherwise."""
        return tuple(c for c in self.graph.changed if not c.only_renamed)

    @property
    def renamed(self) -> tuple[ChangedNode, ...]:
        """Nodes that are only called otherwise."""
        return tuple(c for c in self.graph.changed if c.only_renamed)

    @property
    def is_same(self) -> bool:
        """Whether nothing differs but the names of nodes, and of tensors inside."""
        graph = self.graph
        return not (graph.removed or graph.added or self.changed or graph.inputs or graph.outputs or self.opsets)

    def save_report(self, path: str | Path) -> None:
        """Write the differences as one HTML page, with both graphs; it appears complete or not at all.

        Raises:
            EmitError: it can't be written.
        """
        from graphopt.report.html.difference import difference_payload
        from graphopt.report.html.page import save_report

        save_report(path, difference_payload(self))

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        graph = self.graph
        return {
            "same": self.is_same,
            "unchanged": graph.same,
            "renamed": [[c.before.name, c.after.name] for c in self.renamed],
            "removed": [_node_dict(n) for n in graph.removed],
            "added": [_node_dict(n) for n in graph.added],
            "changed": [
                {"before": _node_dict(c.before), "after": _node_dict(c.after), "what": list(c.what)}
                for c in self.changed
            ],
            "values": [
                {
                    "node": v.node, "input": v.index, "what": v.what, "before": v.before, "after": v.after,
                    "changed": v.changed, "count": v.count, "largest": finite(v.largest), "snr_db": finite(v.snr_db),
                    "old": finite(v.old), "new": finite(v.new),
                }
                for v in self.values
            ],
            "rewrites": [
                {
                    "removed": [n.name for n in r.removed],
                    "added": [n.name for n in r.added],
                    "changed": [c.after.name for c in r.changed],
                }
                for r in graph.rewrites
            ],
            "inputs": None if graph.inputs is None else [list(names) for names in graph.inputs],
            "outputs": None if graph.outputs is None else [list(names) for names in graph.outputs],
            "opsets": [list(entry) for entry in self.opsets],
            "notes": [list(notes) for notes in self.notes],
        }  # fmt: skip


def diff_models(before: Graph, after: Graph, titles: tuple[str, str] = ("the first", "the second")) -> ModelDiff:
    """Compare two models; values of constants are loaded and compared, too. `titles`: what they are called."""
    ours, theirs = before.facts.opset_imports, after.facts.opset_imports
    sides = without_defaults(outline(before), ours), without_defaults(outline(after), theirs)
    graph = diff_outlines(*sides, same_values=equal_values)
    used = {"", *(node.op.rpartition("::")[0] for side in sides for node in side.nodes.values())}
    domains = [domain for domain in {**ours, **theirs} if domain in used and ours.get(domain) != theirs.get(domain)]
    opsets = tuple((domain, ours.get(domain), theirs.get(domain)) for domain in domains)
    values = tuple(v for c in graph.changed for v in _values(c, *sides))
    notes = tuple(before.facts.notes), tuple(after.facts.notes)
    return ModelDiff(graph, values, opsets, titles, notes, sides)


def model_diff_page(found: ModelDiff, *, everything: bool = False) -> Document:
    """The differences as tables; `everything`: all rows instead of the first ones."""
    graph = found.graph
    page: list[Line | Table] = [Line(" → ".join(found.titles), "title")]
    page += [
        Line(f"  {title}: {note}") for title, notes in zip(found.titles, found.notes, strict=True) for note in notes
    ]
    named = f", {len(found.renamed)} of them under other names" if found.renamed else ""
    same = graph.same + len(found.renamed)
    if found.is_same:
        nodes = counted(same, "node")
        return [*page, Line(f"  the same: {nodes}, with the same attributes and values{named}", "good")]
    counts = [f"{len(graph.removed)} removed", f"{len(graph.added)} added", f"{len(found.changed)} changed"]
    page.append(Line(f"  nodes: {', '.join(counts)}, {same} unchanged{named}"))
    for domain, old, new in found.opsets:
        page.append(Line(f"  opset {domain or 'ai.onnx'}: {old or 'none'} → {new or 'none'}"))
    for word, names in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        if names is not None:
            page.append(Line(f"  {word}: {', '.join(names[0])} → {', '.join(names[1])}"))
    limit = None if everything else _SHOWN
    page += _nodes("removed", graph.removed, limit)
    page += _nodes("added", graph.added, limit)
    page += _rows(("changed", "operator", "what"), [_changed_row(c) for c in found.changed], limit)
    page += _rows(
        ("other values", "of", ">changed", ">largest change", ">SNR", ""),
        [_value_row(v) for v in found.values],
        limit,
    )
    return page


def _values(changed: ChangedNode, before: Outline, after: Outline) -> Iterator[ValueChange]:
    pairs = zip(changed.before.inputs, changed.after.inputs, strict=False)
    for index, (ours, theirs) in enumerate(pairs):
        a, b = before.constants.get(ours), after.constants.get(theirs)
        if a is None or b is None or a.type != b.type or equal_values(a, b):
            continue
        grid = changed.before.op in _GRIDS and index in _GRID_INPUTS
        what = _GRID_INPUTS[index] if grid else f"input {index}"
        yield _value_change(changed.before.name, index, what, a, b)


def _value_change(node: str, index: int, what: str, a: ConstantOutline, b: ConstantOutline) -> ValueChange:
    one, other = loaded(a.values), loaded(b.values)
    if one.dtype.kind not in "fiubV" or one.dtype.names:
        return ValueChange(node, index, what, a.name, b.name, int((one != other).sum()), one.size, *_UNKNOWN)
    ours, theirs = one.astype(np.float64), other.astype(np.float64)
    with np.errstate(all="ignore"):
        error = theirs - ours
        signal, noise = float((ours * ours).sum()), float((error * error).sum())
    snr = 10 * math.log10(signal / noise) if signal > 0 and 0 < noise < math.inf else math.nan
    single = (ours.item(), theirs.item()) if ours.size == 1 else (None, None)
    differs = int((ours != theirs).sum())
    return ValueChange(node, index, what, a.name, b.name, differs, one.size, float(np.abs(error).max()), snr, *single)


_UNKNOWN = (math.nan, math.nan)


def _nodes(title: str, nodes: Sequence[NodeOutline], limit: int | None) -> list[Line | Table]:
    counts = Counter(node.op for node in nodes)
    summary = ", ".join(f"{count} {op}" for op, count in counts.most_common())
    rows = [(n.name, n.op, names_text(n.inputs), names_text(n.outputs)) for n in nodes]
    return _rows((f"{title}: {summary}", "operator", "reads", "makes"), rows, limit)


def _rows(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], limit: int | None) -> list[Line | Table]:
    if not rows:
        return []
    more = [] if limit is None or len(rows) <= limit else [Line(f"  … and {len(rows) - limit} more; --all shows them")]
    return [Line(), Table(columns, tuple(rows[:limit])), *more]


def _changed_row(changed: ChangedNode) -> tuple[str, ...]:
    return (changed.before.name, changed.after.op, "; ".join(changed.what))


def _value_row(value: ValueChange) -> tuple[str, ...]:
    largest = "" if math.isnan(value.largest) else f"{value.largest:.4g}"
    snr = "" if math.isnan(value.snr_db) else decibel_text(value.snr_db)
    return (value.node, value.what, f"{value.changed} of {value.count}", largest, snr, value.text)


def _node_dict(node: NodeOutline) -> dict[str, Any]:
    return {
        "name": node.name,
        "op": node.op,
        "inputs": list(node.inputs),
        "outputs": list(node.outputs),
        "attributes": dict(node.attributes),
    }
