"""`repair`: a Q/DQ model of any tool, rewritten as a target wants it, without calibrating again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx

from graphopt.analysis.legality import Finding, check_graph
from graphopt.api.emitting import check_format, check_output, check_sizes, save_result
from graphopt.ir import Graph, load, to_proto
from graphopt.passes import find_pass
from graphopt.passes.presets import REPAIR
from graphopt.pipeline import Context, PassManager, Remark
from graphopt.pipeline.instruments import Reproducer, Verify
from graphopt.pipeline.spec import passes_from_text
from graphopt.targets import Target, find_target


@dataclass(frozen=True)
class Repair:
    """A repaired model.

    Attributes:
        graph: the model; the one that came in when nothing was found.
        before: what `lint` found in the model as it was given.
        after: what it finds now.
        remarks: what was changed, what became coarser, and what stays in float because its range isn't known.
        target: what it is for.
    """

    graph: Graph
    before: list[Finding]
    after: list[Finding]
    remarks: tuple[Remark, ...]
    target: Target

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The repaired model, with all values inside.

        Raises:
            UnsupportedError: it is too large for one protobuf message (2 GiB); use `save`.
        """
        return to_proto(self.graph)

    def save(self, path: str | Path, *, external_data: bool | None = None) -> None:
        """Write the model, see `Result.save`.

        Raises:
            ConfigError: `path` is one of the files that the model came from, or its format isn't the target's.
            UnsupportedError: nodes have no form in that format: all are listed.
            EmitError: it can't be written.
        """
        save_result(self.graph, path, self.target, external_data=external_data)


def repair(
    model: object,
    target: str | Path | Target,
    *,
    output: str | Path | None = None,
    base_dir: str | Path | None = None,
) -> Repair:
    """Rewrite a Q/DQ model of any tool as the target wants it, with the ranges and weights that it has.

    Scales, zero points and integers that the target takes stay the very same. Others are solved anew from the range
    that they covered, which can make steps coarser; the remarks say where. No range is invented: what the target
    wants quantized and has none stays in float, and `after` and `remarks` say so.

    Args:
        model: as in `lint`.
        target: what the result is for.
        output: where to save it, as .onnx or, for tflite, as .tflite; checked before the work begins.
        base_dir: as in `lint`.

    Raises:
        GraphoptError: the model can't be read or written, or there is no such target; nothing was written then.
        InternalError: a pass broke the model, which is a bug.
    """
    aim = find_target(target)
    check_format(output, aim)
    check_output(output, (model,))
    graph = load(model, base_dir=base_dir)
    check_output(output, graph.facts.source_files)
    check_sizes(output, graph)
    before = check_graph(load(model, base_dir=base_dir, min_opset=1), aim)
    ctx = Context(target=aim)
    if before:
        PassManager(passes_from_text(",".join(REPAIR), find_pass), (Reproducer(), Verify())).run(graph, ctx)
    after = check_graph(graph, aim) if before else []
    if output is not None:
        save_result(graph, output, aim)
    return Repair(graph, before, after, tuple(ctx.remarks.items), aim)
