"""Reports as pages: what the command line prints."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from graphopt.pipeline import PassRecord
from graphopt.pipeline.instruments import Timing
from graphopt.pipeline.remarks import RemarkFilter
from graphopt.report.document import Document, Line, Table
from graphopt.report.elimination import elimination_page
from graphopt.report.guarding import guarded_page
from graphopt.report.inspection import Inspection, Port
from graphopt.report.layer_errors import layer_errors_page
from graphopt.report.precision import precision_page
from graphopt.report.remarks import remarks_page
from graphopt.report.summary import Layer, Report, Size, plain
from graphopt.report.timing import rewrites_text, timing_dicts, timing_table
from graphopt.report.units import (
    bytes_text,
    change_text,
    count_text,
    counted,
    decibel_text,
    percent_text,
    ratio_text,
    seconds_text,
)
from graphopt.report.verification import verification_page
from graphopt.targets import TARGETS

if TYPE_CHECKING:  # backends bring onnxruntime in
    from graphopt.backends import Agreement


def summary_page(report: Report, timing: Timing | None = None, remarks: RemarkFilter | None = None) -> Document:
    """What a run of `optimize` did. With `timing` every pass is listed; `remarks`: which remarks are, None: none."""
    page: list[Line | Table] = [Line(_headline(report), "title"), _sizes(report.before, report.after)]
    page += [Line(f"note: {note}") for note in report.notes]
    page += [Line(), *(_passes(report.passes) if timing is None else [timing_table(timing)])]
    if remarks is not None:
        page += [Line(), *remarks_page(report.remarks, remarks, [record.name for record in report.passes])]
    elif declined := report.declined:
        by_pass = ", ".join(f"{name} {count}" for name, count in declined.items())
        page.append(Line(f"  declined: {declined.total()} ({by_pass}); --remarks says which and why"))
    if report.elimination is not None:
        page += [Line(), *elimination_page(report.elimination)]
    if report.layers:
        page += [Line(), *_precision(report.layers)]
    page += [Line(), *_accuracy(report)]
    if report.guarded is not None:
        page += [Line(), *guarded_page(report.guarded)]
    if report.mixed is not None:
        page += [Line(), *precision_page(report.mixed)]
    if report.errors is not None:
        page += [Line(), *layer_errors_page(report.errors)]
    if report.verification is not None:
        page += [Line(), *verification_page(report.verification, all_nodes=False)]
    page += [Line(f"warning: {warning}", "warning") for warning in report.warnings]
    if report.output is not None:
        page += [Line(), Line(f"saved {report.output} in {seconds_text(report.seconds)}", "good")]
    if report.page is not None:
        page.append(Line(f"report {report.page}", "good"))
    return page


def summary_dict(report: Report, timing: Timing | None = None, remarks: RemarkFilter | None = None) -> dict[str, Any]:
    """The same as plain data for JSON: with `timing`, what each pass took; only the remarks that are to be listed."""
    found = report.to_dict()
    if timing is not None:
        found["timing"] = timing_dicts(timing)
    if remarks is not None:
        found["remarks"] = [plain(r) for r in report.remarks if remarks.lets_through(r)]
    return found


def agreement_page(agreement: Agreement, first: str, second: str, title: str, *, top1: bool = True) -> Document:
    """Agreement of two models, called `first` and `second`; `top1`: outputs are class scores, or may be."""
    page: list[Line | Table] = [Line(title, "title")]
    right = (agreement.reference_accuracy, agreement.other_accuracy)
    if right[0] is not None and right[1] is not None:
        points = f"{100 * (right[1] - right[0]):+.2f} points"
        page.append(
            Table(("", ">top-1", ""), ((first, percent_text(right[0]), ""), (second, percent_text(right[1]), points)))
        )
    rows = tuple(
        (
            o.name,
            decibel_text(o.sqnr_db),
            f"{o.cosine:.6f}",
            f"{o.max_error:.3g} ({percent_text(o.relative_error)} of the largest value)",
            percent_text(o.top1_agreement) if top1 and o.top1_agreement is not None else "",
        )
        for o in agreement.outputs
    )
    page.append(Table(("output", ">SQNR", ">cosine", "largest error", ">same top-1" if top1 else ""), rows))
    return page


def inspection_page(found: Inspection) -> Document:
    """What is in a model."""
    opsets = ", ".join(f"{domain} {version}" for domain, version in found.opsets.items())
    macs = count_text(found.macs)
    if found.macs_unknown:
        macs += f", without {counted(found.macs_unknown, 'layer')} of unknown shape"
    share = f" ({percent_text(found.quantized_macs / found.macs)} of the multiply-accumulates)" if found.macs else ""
    facts = (
        ("opset", f"{opsets} (IR version {found.ir_version})"),
        ("made by", found.producer or "unknown"),
        ("nodes", str(found.nodes)),
        ("parameters", f"{count_text(found.parameters)} ({bytes_text(found.weight_bytes)})"),
        ("MACs", f"{macs} (a batch of 1)" if found.macs else macs),
        ("quantized", f"{found.quantized_layers} of {counted(found.linear_layers, 'linear layer')}{share}"),
        *([("4-bit weights", counted(found.block_layers, "linear layer"))] if found.block_layers else []),
        ("external data", f"in {', '.join(found.files[1:])}" if found.external_data else "none"),
    )
    return [
        Line(found.source, "title"),
        Table(("", ""), facts),
        *(Line(f"note: {note}") for note in found.notes),
        Line(),
        Table(("", "name", "type", "shape"), (*_ports("input", found.inputs), *_ports("output", found.outputs))),
        Line(),
        Table(("operator", ">nodes"), tuple((op, str(count)) for op, count in found.ops.items())),
    ]


def _headline(report: Report) -> str:
    target = (
        ""
        if report.target is None
        else f" for {TARGETS[report.target].title if report.target in TARGETS else report.target}"
    )
    return f"{report.source} → {report.output}{target}" if report.output else f"{report.source}{target}"


def _sizes(before: Size, after: Size) -> Table:
    rows = [
        ("nodes", str(before.nodes), str(after.nodes), ""),
        (
            "weights",
            bytes_text(before.weight_bytes),
            bytes_text(after.weight_bytes),
            ratio_text(before.weight_bytes, after.weight_bytes),
        ),
    ]
    if before.file_bytes is not None and after.file_bytes is not None:
        rows.append(
            (
                "file",
                bytes_text(before.file_bytes),
                bytes_text(after.file_bytes),
                ratio_text(before.file_bytes, after.file_bytes),
            )
        )
    return Table(("", ">before", ">after", ""), tuple(rows))


def _passes(records: Sequence[PassRecord]) -> list[Line | Table]:
    shown = [r for r in records if r.changed or r.remarks]
    names = dict.fromkeys(r.name for r in shown)
    idle = [r for r in records if r not in shown]
    rows = tuple(
        (
            r.name,
            change_text(str(r.nodes_before), str(r.nodes_after)),
            change_text(bytes_text(r.bytes_before), bytes_text(r.bytes_after)),
            rewrites_text(r),
            seconds_text(r.seconds),
        )
        for r in shown
    )
    parts: list[Line | Table] = [Table(("pass", ">nodes", ">weights", "rewrites", ">time"), rows)] if rows else []
    if idle:
        others = ", ".join(dict.fromkeys(r.name for r in idle if r.name not in names)) or "the repeated ones"
        parts.append(Line(f"  nothing to do for {others} ({seconds_text(sum(r.seconds for r in idle))})"))
    return parts


# How a row is headed → whether its layers have activations of 16 bits.
_WIDTHS = (("8 bits", False), ("16 bits", True))


def _precision(layers: Sequence[Layer]) -> list[Line | Table]:
    integer = [layer for layer in layers if layer.integer]
    rows = [(bits, _counted_operators(x for x in integer if x.wide == wide), "") for bits, wide in _WIDTHS]
    reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for layer in layers:
        if not layer.integer:
            reasons[layer.op, layer.reason].append(layer.name)
    rows += [("float", f"{len(names)} {op}", why) for (op, why), names in reasons.items()]
    kind = "integers" if any(layer.wide for layer in integer) else "8 bits"
    title = f"{len(integer)} of {counted(len(layers), 'quantizable node')} in {kind}, as planned"
    return [Line(title, "title"), Table(("", "", ""), tuple(row for row in rows if row[1]))]


def _counted_operators(layers: Iterable[Layer]) -> str:
    return ", ".join(f"{count} {op}" for op, count in Counter(layer.op for layer in layers).most_common())


def _accuracy(report: Report) -> list[Line | Table]:
    found = report.measurement
    if found is None:
        return [Line(f"accuracy not measured: {report.unmeasured}", "warning")]
    kind = "calibration" if found.on_calibration_data else "validation"
    title = f"Accuracy on {counted(found.agreement.samples, f'{kind} sample')} of {found.data}, run in onnxruntime"
    result = "int8" if any(layer.integer for layer in report.layers) else "optimized"
    # Without labels nothing says that the outputs are class scores.
    labelled = found.agreement.reference_accuracy is not None
    page = list(agreement_page(found.agreement, "fp32", result, title, top1=labelled))
    if found.on_calibration_data and report.layers:
        page.append(Line("  the ranges come from these very samples: --validation-data measures on others"))
    return page


def _ports(kind: str, ports: Sequence[Port]) -> list[tuple[str, str, str, str]]:
    return [
        (kind, p.name, p.type, "any" if p.shape is None else "[" + ", ".join(str(d) for d in p.shape) + "]")
        for p in ports
    ]
