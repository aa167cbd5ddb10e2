"""Load a model into a Graph, ready to be compiled, and save one."""

from __future__ import annotations

from pathlib import Path

from graphopt.errors import LoadError
from graphopt.ir import external
from graphopt.ir.elements import Constant
from graphopt.ir.from_proto import from_proto
from graphopt.ir.graph import Graph
from graphopt.ir.read import Source, read_source
from graphopt.ir.shapes import infer
from graphopt.ir.write import check_output_path, save

__all__ = ["check_output_path", "load", "save"]


def load(source: object, *, base_dir: str | Path | None = None, min_opset: int = 13) -> Graph:
    """Read a model, check it and fill in types and shapes. `graph.facts.notes` says what had to be changed.

    Args:
        source: a path (.onnx, or .onnxtxt / .txt for ONNX text), bytes, an onnx.ModelProto, or an object with a
            `model_proto`: what torch.onnx.export(dynamo=True) returns.
        base_dir: folder of the external data, when the source isn't a path.
        min_opset: older models are brought up to it; 13 is the first with per-channel QuantizeLinear.

    Raises:
        LoadError: the source can't be read, or is no valid ONNX model; one line with what, where and the mend.
    """
    read = read_source(source, base_dir)
    try:
        graph = from_proto(read.model, read.base_dir)
        _check_external_data(graph, read)
        infer(graph)
    except LoadError as error:
        raise LoadError(f"{read.label}: {error}") from None
    return graph


def _check_external_data(graph: Graph, source: Source) -> None:
    """Every external tensor can be read; note which files they are in."""
    files: dict[Path, None] = {} if source.path is None else {source.path: None}
    for scope in graph.walk():
        attributes = [v for n in scope.nodes for v in n.attrs.values() if isinstance(v, Constant)]
        for constant in (*scope.constants, *attributes):
            lazy = constant.lazy
            if lazy is not None and lazy.is_external:
                files[external.locate(lazy.tensor, lazy.base_dir).path] = None
                graph.facts.has_external_data = True
    graph.facts.source_files = tuple(files)
