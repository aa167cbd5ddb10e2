"""The precision map: of each node that something was decided about, what was planned and what the engine does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from graphopt.ir import Constant, Graph, Node
from graphopt.ir.to_proto import constant_bytes
from graphopt.report.html.gathered import Gathered, filled, sentence
from graphopt.report.html.payload import Cell, Column, Section
from graphopt.report.units import finite

_COLUMNS = (
    Column("node", "node"),
    Column("operator"),
    Column("planned"),
    Column("computes in"),
    Column("kernel"),
    Column("MACs", "number", "count"),
    Column("of all", "number", "percent"),
    Column("weights", "number", "bytes"),
    Column("SQNR alone", "number", "dB"),
    Column("why"),
)


def layers_section(found: Gathered) -> Section | None:
    """A row for each planned node and each linear layer; None where there is neither."""
    nodes = {node.name: node for scope in found.graph.walk() for node in scope.nodes}
    names = [name for name in nodes if name in found.planned or name in found.macs]
    names += [name for name in found.planned if name not in nodes]
    if not names:
        return None
    reasons = _reasons(found)
    whole = sum(count or 0 for count in found.macs.values()) or 1
    ops = {layer.name: layer.op for layer in found.report.layers}
    rows = tuple(_row(found, name, nodes.get(name), ops.get(name, ""), reasons, whole) for name in names)
    return Section(
        "layers", "Layers and their precision", tuple(_text(found)), warnings=tuple(_warnings(found)),
        tables=(filled("Layers", _COLUMNS, rows),),
    )  # fmt: skip


def node_badges(found: Gathered) -> Mapping[str, tuple[str, ...]]:
    """Node → what to write on it in the graph."""
    badges: dict[str, list[str]] = {}
    for layer in found.report.layers:
        if not layer.integer:
            badges.setdefault(layer.name, []).append("kept in float")
    for name, node in found.engine_nodes.items():
        if not node.as_planned:
            badges.setdefault(name, []).append(f"runs in {node.precision}")
    for name, decibel in found.isolated.items():
        if finite(decibel) is not None:
            badges.setdefault(name, []).append(f"{decibel:.1f} dB")
    return {name: tuple(texts) for name, texts in badges.items()}


def _text(found: Gathered) -> Iterator[str]:
    seen = found.verification
    if seen is not None:
        yield sentence(seen.verdict)
        yield from (f"Note: {note}" for note in (*seen.precision.notes, *seen.notes))
    reasons = Counter((layer.op, layer.reason) for layer in found.report.layers if not layer.integer)
    yield from (f"{count} {op} in float: {reason}." for (op, reason), count in reasons.most_common())


def _warnings(found: Gathered) -> Iterator[str]:
    missed = [] if found.verification is None else found.verification.precision.missed
    for node in missed:
        yield f"{node.planned.name} ({node.planned.op_type}): {node.precision}: {node.reason}"


def _reasons(found: Gathered) -> Mapping[str, str]:
    reasons = {layer.name: layer.reason for layer in found.report.layers if not layer.integer}
    return reasons | {name: node.reason for name, node in found.engine_nodes.items() if not node.as_planned}


def _row(
    found: Gathered, name: str, node: Node | None, op: str, reasons: Mapping[str, str], whole: int
) -> tuple[Cell, ...]:
    seen, macs = found.engine_nodes.get(name), found.macs.get(name)
    return (
        name,
        op if node is None else node.op,
        found.planned.get(name, ""),
        "" if seen is None else seen.precision,
        "" if seen is None else seen.layer.removesuffix(f" '{name}'") or "none",
        macs,
        None if macs is None else 100 * macs / whole,
        None if node is None else weight_bytes(found.graph, node) or None,
        finite(found.isolated.get(name)),
        reasons.get(name, ""),
    )


def weight_bytes(graph: Graph, node: Node) -> int:
    """Bytes, as a file holds them, of the constants that a node reads, or that DequantizeLinear makes it of."""
    total = 0
    for tensor in node.inputs:
        producer = graph.producer(tensor)
        dequantized = producer is not None and producer.op == "DequantizeLinear"
        stored = producer.inputs if producer is not None and dequantized else [tensor]
        if isinstance(stored[0], Constant):
            total += sum(constant_bytes(t) for t in stored if isinstance(t, Constant))
    return total
