"""What 8 bits cost: the error of each layer and of each tensor that is rounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from graphopt.report.html.gathered import Gathered, brief
from graphopt.report.html.payload import Bars, Cell, Column, Section, TableData
from graphopt.report.units import counted, finite, names_text

if TYPE_CHECKING:  # backends bring onnxruntime in
    from graphopt.backends.layer_errors import ErrorReport

_LAYERS = (
    Column("layer", "node"),
    Column("operator"),
    Column("result", "tensor"),
    Column("alone", "number", "dB"),
    Column("in the model", "number", "dB"),
    Column("its own share", "number", "percent"),
    Column("gain to the outputs", "number"),
    Column("sensitivity", "number"),
)
_TENSORS = (
    Column("tensor", "tensor"),
    Column("alone", "number", "dB"),
    Column("in the model", "number", "dB"),
)
_SERIES = ("alone", "in the model")


def errors_section(found: Gathered) -> Section | None:
    """Charts in the order of the graph, tables with the worst first; None where nothing was measured."""
    errors = found.errors
    if errors is None or not (errors.layers or errors.tensors or errors.unpaired):
        return None
    return Section(
        "errors",
        "Errors of layers",
        tuple(_text(errors)),
        tables=tuple(_tables(errors)),
        charts=tuple(_charts(found, errors)),
    )


def _text(errors: ErrorReport) -> Iterator[str]:
    yield (
        f"SQNR of each layer's result against the float model's, on {counted(errors.samples, 'sample')}. "
        "Alone: only this layer quantized. In the model: with the errors of all layers before it. "
        "No value stands for no error at all."
    )
    if errors.float_first:
        first = names_text([e.node for e in errors.float_first[:3]])
        yield f"Leaving these in float (keep-float) should help the outputs most: {first}."
    reasons = Counter(layer.reason for layer in errors.unpaired)
    yield from (f"Not compared: {counted(count, 'layer')}: {reason}." for reason, count in reasons.items())
    yield from (f"Note: {note}" for note in errors.notes)


def _tables(errors: ErrorReport) -> Iterator[TableData]:
    if errors.layers:
        layers: tuple[tuple[Cell, ...], ...] = tuple(
            (
                e.node, e.op, e.tensor, finite(e.isolated_db), finite(e.accumulated_db), 100 * e.share,
                brief(e.gain), brief(e.sensitivity),
            )
            for e in errors.layers
        )  # fmt: skip
        yield TableData("Layers", _LAYERS, layers)
    if errors.tensors:
        rounded = tuple((e.tensor, finite(e.isolated_db), finite(e.accumulated_db)) for e in errors.tensors)
        note = (
            "What rounding to its grid, and clipping to its range, loses of each activation. Where one function alone "
            "reads it, the range may be chosen for the error behind that."
        )
        yield TableData("Rounded activations", _TENSORS, rounded, note)
    if errors.unpaired:
        columns = (Column("layer", "node"), Column("operator"), Column("why it isn't compared"))
        yield TableData("Not compared", columns, tuple((u.node, u.op, u.reason) for u in errors.unpaired))


def _charts(found: Gathered, errors: ErrorReport) -> Iterator[Bars]:
    order = {name: place for place, name in enumerate(n.name for scope in found.graph.walk() for n in scope.nodes)}
    layers = sorted(errors.layers, key=lambda e: order.get(e.node, len(order)))
    if layers:
        names = tuple(e.node for e in layers)
        values = tuple((finite(e.isolated_db), finite(e.accumulated_db)) for e in layers)
        yield Bars("SQNR of each layer's result", "SQNR, dB", _SERIES, names, names, values)
