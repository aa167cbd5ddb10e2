"""The error report as a page: layers and tensors, the worst first."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from graphopt.report.document import Document, Line, Table
from graphopt.report.units import counted, decibel_text, percent_text

if TYPE_CHECKING:  # backends bring onnxruntime in
    from graphopt.backends.layer_errors import ErrorReport

SHOWN_LAYERS = 20
SHOWN_TENSORS = 10


def layer_errors_page(found: ErrorReport, *, layers: int = SHOWN_LAYERS, tensors: int = SHOWN_TENSORS) -> Document:
    """The `layers` and `tensors` that lose most by themselves, and what couldn't be compared."""
    page: list[Line | Table] = []
    if found.layers:
        page += [Line(f"Error of each layer's result (SQNR), {counted(found.samples, 'sample')}", "title")]
        rows = tuple(
            (e.node, e.op, decibel_text(e.isolated_db), decibel_text(e.accumulated_db), percent_text(e.share))
            for e in found.layers[:layers]
        )
        page.append(Table(("layer", "operator", ">alone", ">in the model", ">its own share"), rows))
        page += _more(len(found.layers) - layers, "layer")
        page.append(Line("  alone: only this layer quantized; in the model: with the errors of all layers before it"))
        first = ", ".join(f"'{e.node}'" for e in found.float_first[:3])
        page.append(Line(f"  leaving these in float should help the outputs most: {first}"))
    if found.tensors:
        page += [Line(), Line("Error of each activation that is rounded", "title")]
        rounded = tuple(
            (e.tensor, decibel_text(e.isolated_db), decibel_text(e.accumulated_db)) for e in found.tensors[:tensors]
        )
        page.append(Table(("tensor", ">alone", ">in the model"), rounded))
        page += _more(len(found.tensors) - tensors, "tensor")
    reasons: dict[str, list[str]] = defaultdict(list)
    for layer in found.unpaired:
        reasons[layer.reason].append(layer.node)
    for reason, nodes in reasons.items():
        named = ", ".join(f"'{node}'" for node in nodes[:3]) + (", …" if nodes[3:] else "")
        page.append(Line(f"  not compared: {counted(len(nodes), 'layer')} ({named}): {reason}"))
    return [*page, *(Line(f"note: {note}") for note in found.notes)]


def _more(count: int, noun: str) -> list[Line]:
    return [Line(f"  and {counted(count, f'more {noun}')}; --json lists all")] if count > 0 else []
