"""What `optimize` returns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from graphopt.api.emitting import save_result
from graphopt.ir import Graph, from_proto, to_proto
from graphopt.report.summary import Report
from graphopt.targets import Target

if TYPE_CHECKING:  # the solvers behind assignment bring scipy in
    from graphopt.analysis.precision.record import PrecisionChoice


@dataclass(frozen=True)
class Result:
    """A compiled model, the report of how it came about, and the assignment of precisions that it has, if any."""

    graph: Graph
    report: Report
    target: Target | None = None
    precision: PrecisionChoice | None = None

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The compiled model, with all values inside.

        Raises:
            UnsupportedError: it is too large for one protobuf message (2 GiB); use `save`.
        """
        return to_proto(self.graph)

    def save(self, path: str | Path, *, external_data: bool | None = None) -> None:
        """Write the model; the file appears complete or not at all. See `graphopt.save`.

        The name's suffix decides the format: .tflite, for the target tflite, or else ONNX.

        Raises:
            ConfigError: `path` is one of the files that the model came from, or its format isn't the target's.
            UnsupportedError: nodes have no form in that format: all are listed.
            EmitError: it can't be written.
        """
        save_result(self.graph, path, self.target, external_data=external_data)

    def __getstate__(self) -> dict[str, Any]:
        """For other processes: the graph as the model that it makes.

        Raises:
            UnsupportedError: it is too large for one protobuf message (2 GiB); use `save`.
        """
        facts = self.graph.facts
        return {
            "model": self.model,
            "facts": {"plan": facts.plan, "notes": facts.notes, "source_files": facts.source_files},
            "rest": {"report": self.report, "target": self.target, "precision": self.precision},
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        graph = from_proto(state["model"])
        for name, value in state["facts"].items():
            setattr(graph.facts, name, value)
        self.__dict__.update(graph=graph, **state["rest"])
