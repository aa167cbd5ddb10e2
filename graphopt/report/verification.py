"""What a verification in the target's engine found, as data and as a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphopt.report.document import Document, Line, Table
from graphopt.report.summary import plain
from graphopt.report.units import counted, decibel_text, milliseconds_text, percent_text

if TYPE_CHECKING:  # backends bring onnxruntime in
    from graphopt.backends.agreement import Agreement
    from graphopt.backends.latency import Latency
    from graphopt.backends.precision import EnginePrecision, NodePrecision


@dataclass(frozen=True)
class EngineAgreement:
    """How far the model is from the float model, which runs in onnxruntime, when it runs in `engine`."""

    engine: str
    agreement: Agreement


@dataclass(frozen=True)
class Verification:
    """What a target's engine makes of a quantized model.

    Attributes:
        source: the model's file, or "the model".
        target: name of the target.
        precision: node by node, what was planned and what the engine computes in.
        left_float: Conv, ConvTranspose, Gemm and MatMul that the model itself leaves in float: (name, operator).
        data: where the samples come from; empty without.
        agreement: with the float model, in the target's engine where it runs here, and in onnxruntime.
        latency: against the float model in the target's engine, where it runs here.
        notes: what couldn't be measured, and why.
    """

    source: str
    target: str
    precision: EnginePrecision
    left_float: tuple[tuple[str, str], ...]
    data: str = ""
    agreement: tuple[EngineAgreement, ...] = ()
    latency: Latency | None = None
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the model decides the precision of something, and all of that runs as planned."""
        return bool(self.precision.nodes) and not self.precision.missed

    @property
    def verdict(self) -> str:
        """The outcome in one line."""
        nodes, missed = self.precision.nodes, self.precision.missed
        engine = f"{self.precision.engine} {self.precision.version} ({self.precision.device})"
        if not nodes:
            return f"nothing in this model is planned in 8 bits: there is nothing to verify in {engine}"
        mixed = self.precision.is_mixed
        how = "as planned" if mixed else "in 8 bits"
        if missed:
            verb = "doesn't" if len(missed) == 1 else "don't"
            return f"{len(missed)} of {counted(len(nodes), 'planned node')} {verb} run {how} in {engine}"
        found = Counter(f"{n.planned.op_type} in {n.precision}" if mixed else n.planned.op_type for n in nodes)
        kinds = ", ".join(f"{count} {kind}" for kind, count in found.most_common())
        return f"all {len(nodes)} planned nodes run {how} in {engine}: {kinds}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; numbers that JSON lacks (the infinite SQNR of equal outputs, NaN) become None."""
        return {"ok": self.ok, "verdict": self.verdict, **plain(self)}


def verification_page(found: Verification, *, all_nodes: bool = True) -> Document:
    """The page; without `all_nodes`, only nodes that don't run as planned are listed."""
    precision = found.precision
    page: list[Line | Table] = [Line(f"Verified in {precision.engine} {precision.version}: {found.source}", "title")]
    shown = precision.nodes if all_nodes else precision.missed
    if shown:
        page += [_nodes(shown, precision.is_mixed), Line()]
    page.append(Line(found.verdict, "good" if found.ok else "warning"))
    page += [Line(f"  {n.planned.name} ({n.planned.op_type}): {n.precision}: {n.reason}") for n in precision.missed]
    if found.left_float:
        kinds = ", ".join(f"{count} {op}" for op, count in Counter(op for _, op in found.left_float).most_common())
        page.append(Line(f"  the model leaves in float: {kinds}"))
    page += [Line(f"  {note}") for note in precision.notes]
    if found.agreement:
        page += [Line(), *_agreement(found)]
    if found.latency is not None:
        page += [Line(), *_latency(found.latency)]
    return [*page, *(Line(f"note: {note}") for note in found.notes)]


def _nodes(nodes: Sequence[NodePrecision], mixed: bool) -> Table:
    if mixed:
        each = tuple(
            (n.planned.name, n.planned.op_type, n.planned.precision, n.layer or "none", n.precision) for n in nodes
        )
        return Table(("node", "operator", "planned in", "layer", "computes in"), each)
    rows = tuple((n.planned.name, n.planned.op_type, n.layer or "none", n.precision) for n in nodes)
    return Table(("planned in 8 bits", "operator", "layer", "computes in"), rows)


def _agreement(found: Verification) -> list[Line | Table]:
    runs = found.agreement
    samples = counted(runs[0].agreement.samples, "sample")
    page: list[Line | Table] = [
        Line(f"Agreement with the float model in onnxruntime on {samples} of {found.data}", "title")
    ]
    right = runs[0].agreement.reference_accuracy
    if right is not None:
        reached = [(run.engine, run.agreement.other_accuracy or 0.0) for run in runs]
        accuracies = [(engine, percent_text(x), f"{100 * (x - right):+.2f} points") for engine, x in reached]
        page.append(Table(("", ">top-1", ""), (("float", percent_text(right), ""), *accuracies)))
    rows = tuple(
        (
            run.engine,
            o.name,
            decibel_text(o.sqnr_db),
            f"{o.cosine:.6f}",
            f"{o.max_error:.3g} ({percent_text(o.relative_error)} of the largest value)",
            "" if o.top1_agreement is None else percent_text(o.top1_agreement),
        )
        for run in runs
        for o in run.agreement.outputs
    )
    page.append(Table(("engine", "output", ">SQNR", ">cosine", "largest error", ">same top-1"), rows))
    return page


def _latency(found: Latency) -> list[Line | Table]:
    threads = "its own choice of threads" if found.threads is None else counted(found.threads, "thread")
    title = f"Latency of a call on this machine, in {found.engine} with {threads}: {found.rounds} rounds in turns"
    rows = (
        ("float", milliseconds_text(found.reference_seconds), ""),
        ("8 bits", milliseconds_text(found.seconds), latency_text(found)),
    )
    return [Line(title, "title"), Table(("", ">median", ""), rows)]


def latency_text(found: Latency, result: str = "8 bits") -> str:
    """How much faster or slower than the float model a result is, or that it can't be told."""
    spread = f"float / {result}: {found.speedup:.2f}, quartiles {found.speedup_low:.2f} to {found.speedup_high:.2f}"
    if found.speedup_low <= 1 <= found.speedup_high:
        return f"no clear difference ({spread})"
    if found.speedup > 1:
        return f"{found.speedup:.2f} times as fast ({spread})"
    return f"{1 / found.speedup:.2f} times slower ({spread})"
