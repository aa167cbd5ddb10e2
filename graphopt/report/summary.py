"""What a run of `optimize` did, as data: sizes, one record per pass, remarks, precision of layers, agreement."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from graphopt.analysis.pruning.elimination_record import Elimination
from graphopt.ir import Graph
from graphopt.ir.to_proto import value_bytes
from graphopt.passes.plan_quantization import PlanQuantization
from graphopt.pipeline import PassRecord, Remark
from graphopt.quant.node_patterns import names_node
from graphopt.report.guarding import Guarded
from graphopt.report.precision import Mixed

if TYPE_CHECKING:  # backends bring onnxruntime in
    from graphopt.backends import Agreement
    from graphopt.backends.layer_errors import ErrorReport
    from graphopt.report.verification import Verification

LOW_SQNR_DB = 10.0
"""Below this the error has more than a tenth of the signal's power; results are rarely usable."""

LOST_ACCURACY = 0.01
"""A loss of top-1 that is worth a warning: more than this share of the samples."""


@dataclass(frozen=True)
class Size:
    """Size of a model.

    Attributes:
        nodes: number of nodes, nested graphs included.
        weight_bytes: bytes of the initializers as a file holds them.
        file_bytes: bytes of the model's files; None for a model in memory.
    """

    nodes: int
    weight_bytes: int
    file_bytes: int | None = None

    @staticmethod
    def of(graph: Graph, files: Sequence[Path] = ()) -> Size:
        """The size of `graph`, which is stored in `files`."""
        file_bytes = sum(file.stat().st_size for file in files)
        return Size(sum(len(scope.nodes) for scope in graph.walk()), value_bytes(graph), file_bytes or None)


@dataclass(frozen=True)
class Layer:
    """One node that the quantization plan decided on: in integers, or in float with the reason.

    `wide`: its activations have 16 bits.
    """

    name: str
    op: str
    integer: bool
    reason: str
    wide: bool = False


@dataclass(frozen=True)
class Measurement:
    """How far the result is from the original model, both run in onnxruntime on the same samples.

    Attributes:
        data: where the samples come from.
        on_calibration_data: True when they are calibration samples, which flatter the result.
        agreement: the measures.
    """

    data: str
    on_calibration_data: bool
    agreement: Agreement


@dataclass(frozen=True)
class Report:
    """What a run did.

    Attributes:
        source: the model's file, or "the model".
        output: the file that was written, or None.
        target: name of the target, or None.
        pipeline: the passes as text, ready to be given again.
        before, after: sizes.
        passes: one record per pass that ran.
        remarks: what passes applied, declined and noted, in order.
        notes: what loading had to change in the model.
        layers: what the quantization plan decided, in graph order; empty without a plan.
        measurement: agreement with the original; None when it was not measured, then `unmeasured` says why.
        seconds: wall time of the whole run.
        verification: what the target's engine makes of the result; None when it wasn't asked for.
        guarded: what the accuracy guard did; None when nothing was demanded.
        errors: what each layer loses; None when it wasn't asked for.
        elimination: which channels were removed; None when that wasn't asked for.
        mixed: what mixed precision ships and what it was chosen from; None where nothing was chosen.
        page: the HTML report that was written, or None.
    """

    source: str
    output: str | None
    target: str | None
    pipeline: str
    before: Size
    after: Size
    passes: tuple[PassRecord, ...]
    remarks: tuple[Remark, ...]
    notes: tuple[str, ...]
    layers: tuple[Layer, ...]
    measurement: Measurement | None
    unmeasured: str
    seconds: float
    verification: Verification | None = None
    guarded: Guarded | None = None
    errors: ErrorReport | None = None
    elimination: Elimination | None = None
    mixed: Mixed | None = None
    page: str | None = None

    @property
    def declined(self) -> Counter[str]:
        """Number of declined rewrites by pass."""
        return Counter(r.pass_name for r in self.remarks if r.kind == "declined")

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should not overlook, in plain words."""
        found: list[str] = []
        planned = any(record.name == PlanQuantization.name for record in self.passes)
        if planned and not any(layer.integer for layer in self.layers):
            found.append(f"nothing in this model runs in 8 bits on {self.target}: the result is a float model")
        if self.measurement is not None:
            agreement = self.measurement.agreement
            outputs = agreement.outputs
            found += [
                f"output '{o.name}' has an SQNR of only {o.sqnr_db:.1f} dB (below {LOW_SQNR_DB:.0f} dB the result "
                "is rarely usable); keep the layers that cause it in float (keep-float)"
                for o in outputs
                if o.sqnr_db < LOW_SQNR_DB
            ]
            lost = (agreement.reference_accuracy or 0.0) - (agreement.other_accuracy or 0.0)
            if lost > LOST_ACCURACY:
                found.append(f"top-1 accuracy fell by {100 * lost:.2f} points")
            found += [
                f"output '{o.name}' had another shape than the original's on {o.mismatched} samples"
                for o in outputs
                if o.mismatched
            ]
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; numbers that JSON lacks (the infinite SQNR of equal outputs, NaN) become None."""
        return {**plain(self), "warnings": list(self.warnings), "declined": dict(self.declined)}


def layers_of(graph: Graph) -> tuple[Layer, ...]:
    """What the plan of `graph` decided, in graph order; nodes that are gone since come last."""
    ops = {node.name: node.op for scope in graph.walk() for node in scope.nodes}
    position = {name: k for k, name in enumerate(ops)}
    plan = graph.plan
    wide = {name for name, precision in plan.precisions.items() if precision == "int16x8"}
    layers = [Layer(name, ops.get(name, ""), True, why, name in wide) for name, why in plan.quantized_nodes.items()]
    layers += [Layer(name, ops.get(name, ""), False, why) for name, why in plan.float_nodes.items()]
    return tuple(sorted(layers, key=lambda layer: position.get(layer.name, len(position))))


def matchable(graph: Graph) -> set[tuple[str, str]]:
    """What patterns of keep-float are matched against: name and operator of each node."""
    return {(node.name, node.op) for scope in graph.walk() for node in scope.nodes}


def unmatched_notes(option: str, patterns: Sequence[str], nodes: Set[tuple[str, str]]) -> list[str]:
    """A note for each pattern of an option that means none of `nodes`: most likely a slip of the pen."""
    return [
        f"{option} pattern '{pattern}' matches no node: `graphopt optimize --print-ir-after-change` shows the names"
        for pattern in patterns
        if not any(names_node(pattern, name, op) for name, op in nodes)
    ]


def plain(value: Any) -> Any:
    """`value` in JSON's types; other objects as their text, non-finite numbers as None."""
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in cast("list[Any]", value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
