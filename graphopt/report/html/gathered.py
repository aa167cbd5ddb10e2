"""What a report is made from: the run's own report, and what was kept or measured for the page alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from graphopt.ir import Graph
from graphopt.pipeline.instruments.history import History
from graphopt.report.html.payload import Cell, Column, TableData
from graphopt.report.summary import Report
from graphopt.report.units import finite

if TYPE_CHECKING:  # these bring onnxruntime or scipy in
    from graphopt.analysis.precision.record import PrecisionChoice
    from graphopt.backends.latency import Latency
    from graphopt.backends.layer_errors import ErrorReport
    from graphopt.backends.precision import NodePrecision
    from graphopt.calibration import Statistic
    from graphopt.report.coupling import CouplingReport
    from graphopt.report.verification import Verification


@dataclass(frozen=True)
class Gathered:
    """Everything that a report shows.

    Attributes:
        report: what `optimize` says of the run.
        graph: the result.
        history: of the run that made the result.
        title: of the target; "" without one.
        macs: linear layer → its multiply-accumulates for one sample; None where a size isn't known.
        statistics: tensor → what calibration saw of it; empty with saved ranges.
        precision: the assignment of precisions, where there is one.
        verification: what the target's engine makes of the result; None where it couldn't be asked.
        latency: the result's against the float model's, in the target's engine; None where it couldn't be measured.
        errors: what each layer loses; None where nothing is quantized, or without samples.
        coupling: which channels hang together; None where that isn't known.
        checked: numbers of passes whose outputs were compared with those before them and found the same.
        notes: what couldn't be gathered, why, and how to get it.
    """

    report: Report
    graph: Graph
    history: History
    title: str = ""
    macs: Mapping[str, int | None] = field(default_factory=dict[str, int | None])
    statistics: Mapping[str, Statistic] = field(default_factory=dict[str, "Statistic"])
    precision: PrecisionChoice | None = None
    verification: Verification | None = None
    latency: Latency | None = None
    errors: ErrorReport | None = None
    coupling: CouplingReport | None = None
    checked: frozenset[int] = frozenset()
    notes: Sequence[str] = ()

    @cached_property
    def engine_nodes(self) -> Mapping[str, NodePrecision]:
        """Node → what the engine made of it, of each planned node that it was asked about."""
        nodes = () if self.verification is None else self.verification.precision.nodes
        return {node.planned.name: node for node in nodes}

    @cached_property
    def planned(self) -> Mapping[str, str]:
        """Node → the precision that it is planned in ("int8" for 8 bits, signed or not).

        Of each node that something was decided about; linear layers about which nothing was have their result's type.
        """
        plan = self.graph.plan
        linear = (node for scope in self.graph.walk() for node in scope.nodes if node.name in self.macs)
        found = {node.name: str(node.outputs[0].dtype) for node in linear if node.outputs[0].dtype is not None}
        found |= {layer.name: "int8" if layer.integer else "float32" for layer in self.report.layers}
        found |= {name: node.planned.precision for name, node in self.engine_nodes.items()}
        return found | {name: precision for name, precision in plan.precisions.items() if name in found}

    @cached_property
    def real(self) -> Mapping[str, str]:
        """Node → what computes it: as the engine says where it was asked, else as it is planned; 8 bits are "int8"."""
        asked = {name: "int8" if node.integer else node.precision for name, node in self.engine_nodes.items()}
        return {**self.planned, **asked}

    @cached_property
    def isolated(self) -> Mapping[str, float]:
        """Node → SQNR with only this node quantized, in dB."""
        return {} if self.errors is None else {e.node: e.isolated_db for e in self.errors.layers}


def sentence(text: str) -> str:
    """A phrase of ours as a sentence."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def filled(title: str, columns: Sequence[Column], rows: Sequence[Sequence[Cell]], note: str = "") -> TableData:
    """A table without the columns in which nothing stands."""
    shown = [place for place in range(len(columns)) if any(row[place] not in (None, "") for row in rows)]
    cells = tuple(tuple(row[place] for place in shown) for row in rows)
    return TableData(title, tuple(columns[place] for place in shown), cells, note)


def brief(value: float | None) -> float | None:
    """A finite value at four significant digits, for what isn't known any better."""
    known = finite(value)
    return None if known is None else float(f"{known:.4g}")
