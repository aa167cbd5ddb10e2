"""The result in a few figures: size, precision, accuracy and speed, beside the original's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from graphopt.report.html.gathered import Gathered, brief, filled, sentence
from graphopt.report.html.payload import Cell, Column, Figure, Section, TableData, Tone
from graphopt.report.summary import LOST_ACCURACY, LOW_SQNR_DB
from graphopt.report.units import (
    bytes_text,
    count_text,
    counted,
    decibel_text,
    finite,
    milliseconds_text,
    percent_text,
    ratio_text,
    seconds_text,
)
from graphopt.report.verification import latency_text

_OUTPUTS = (
    Column("output", "tensor"),
    Column("SQNR", "number", "dB"),
    Column("cosine", "number"),
    Column("largest error", "number"),
    Column("of the largest value", "number", "percent"),
    Column("same top-1", "number", "percent"),
    Column("samples of another shape", "number", "count"),
)


def report_title(found: Gathered) -> str:
    """What became of which model, for which target."""
    report = found.report
    source = Path(report.source).name
    target = f" for {found.title}" if found.title else ""
    return f"{source} → {Path(report.output).name}{target}" if report.output else f"{source}{target}"


def summary_section(found: Gathered) -> Section:
    """What everybody wants to know first."""
    report = found.report
    warnings = list(report.warnings)
    if found.verification is not None and found.verification.precision.missed:
        warnings.append(f"{found.verification.verdict}: see the layers")
    figures = [*_sizes(found), *_layers(found), *_accuracy(found), *_latency(found)]
    figures.append(Figure("Compile time", seconds_text(report.seconds)))
    return Section(
        "summary",
        "Summary",
        tuple(_text(found)),
        commands=(("Pipeline, for --passes", report.pipeline),),
        warnings=tuple(warnings),
        figures=tuple(figures),
        tables=tuple(_tables(found)),
    )


def _text(found: Gathered) -> Iterator[str]:
    report = found.report
    measured = report.measurement
    if measured is None:
        yield f"Accuracy wasn't measured: {report.unmeasured}."
    else:
        kind = "calibration" if measured.on_calibration_data else "validation"
        samples = counted(measured.agreement.samples, f"{kind} sample")
        flatters = "; the ranges come from these very samples" if measured.on_calibration_data and report.layers else ""
        yield f"Accuracy is measured on {samples} of {measured.data}, in onnxruntime{flatters}."
    if found.verification is not None and found.verification.precision.nodes:
        asked = {node.planned.name for node in found.verification.precision.nodes}
        others = sum(layer.integer and layer.name not in asked for layer in report.layers)
        rest = f" Besides, {counted(others, 'node')} in integers, to move or select values." if others else ""
        yield sentence(found.verification.verdict) + rest
    yield from (sentence(outcome.summary) for outcome in (report.guarded, report.mixed) if outcome is not None)
    yield from (f"Note: {note}" for note in (*report.notes, *found.notes))


def _sizes(found: Gathered) -> Iterator[Figure]:
    before, after = found.report.before, found.report.after
    if before.file_bytes is not None and after.file_bytes is not None:
        yield _size("File", before.file_bytes, after.file_bytes)
    yield _size("Weights", before.weight_bytes, after.weight_bytes)
    yield Figure("Nodes", str(after.nodes), f"{before.nodes} before")
    removed = found.report.elimination
    counts = [count for count in found.macs.values() if count is not None]
    if removed is not None:
        note = f"{count_text(removed.before.macs)} before"
        yield Figure("Multiply-accumulates", count_text(removed.after.macs), note)
    elif counts:
        unknown = len(found.macs) - len(counts)
        note = f"without {counted(unknown, 'layer')} of unknown shape" if unknown else "for one sample"
        yield Figure("Multiply-accumulates", count_text(sum(counts)), note)


def _size(label: str, before: int, after: int) -> Figure:
    ratio = ratio_text(before, after)
    return Figure(label, bytes_text(after), f"{bytes_text(before)} before{f', {ratio}' if ratio else ''}")


def _layers(found: Gathered) -> Iterator[Figure]:
    layers = found.report.layers
    if not layers:
        return
    integer = [layer.name for layer in layers if layer.integer]
    kinds = Counter(found.real[layer.name] for layer in layers)
    note = ", ".join(f"{count} in {name}" for name, count in kinds.most_common())
    whole = 0 if None in found.macs.values() else sum(count or 0 for count in found.macs.values())
    if whole:
        note += f"; integers: {percent_text(sum(found.macs.get(name) or 0 for name in integer) / whole)} of the MACs"
    yield Figure("Nodes in integers", f"{len(integer)} of {len(layers)}", note, "" if integer else "warning")


def _accuracy(found: Gathered) -> Iterator[Figure]:
    measured = found.report.measurement
    if measured is None:
        return
    agreement = measured.agreement
    if agreement.reference_accuracy is not None and agreement.other_accuracy is not None:
        points = 100 * (agreement.other_accuracy - agreement.reference_accuracy)
        tone: Tone = "warning" if points < -100 * LOST_ACCURACY else "good"
        note = f"float {percent_text(agreement.reference_accuracy)}: {points:+.2f} points"
        yield Figure("Top-1", percent_text(agreement.other_accuracy), note, tone)
    worst = min(agreement.outputs, key=lambda o: -math.inf if math.isnan(o.sqnr_db) else o.sqnr_db)
    which = f"output '{worst.name}'"
    note = f"the lowest of {len(agreement.outputs)}: {which}" if agreement.outputs[1:] else which
    tone = "bad" if worst.sqnr_db < LOW_SQNR_DB else ""
    yield Figure("SQNR", decibel_text(worst.sqnr_db), note, tone)


def _latency(found: Gathered) -> Iterator[Figure]:
    latency = found.latency
    if latency is None:
        return
    faster = latency.speedup_low > 1
    tone: Tone = "good" if faster else "warning" if latency.speedup_high < 1 else ""
    reference = f"float {milliseconds_text(latency.reference_seconds)}, in {latency.engine}"
    rough = "; the machine was busy, so this is rough" if latency.is_rough else ""
    note = f"{reference}: {latency_text(latency, 'result')}{rough}"
    yield Figure("Latency", milliseconds_text(latency.seconds), note, tone)


def _tables(found: Gathered) -> Iterator[TableData]:
    measured = found.report.measurement
    if measured is None:
        return
    # Without labels nothing says that the outputs are class scores.
    labelled = measured.agreement.reference_accuracy is not None
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            output.name,
            finite(output.sqnr_db),
            finite(output.cosine),
            brief(output.max_error),
            finite(100 * output.relative_error),
            100 * output.top1_agreement if labelled and output.top1_agreement is not None else None,
            output.mismatched or None,
        )
        for output in measured.agreement.outputs
    )
    exact = any(row[1] is None for row in rows)
    yield filled("Outputs", _OUTPUTS, rows, "No SQNR stands for an exact output." if exact else "")
