"""Load a model into a Graph, ready to be compiled, and save one."""

from __future__ import annotations

from pathlib import Path

import onnx

from graphopt.errors import LoadError, UnsupportedError
from graphopt.ir import external
from graphopt.ir.check import complaint
from graphopt.ir.elements import Constant
from graphopt.ir.from_proto import from_proto
from graphopt.ir.functions import inline_functions
from graphopt.ir.graph import Graph
from graphopt.ir.read import Source, read_source
from graphopt.ir.shapes import has_small_value, infer, inferred_tensors, run_inference
from graphopt.ir.tensor_types import TensorType, agrees, same_kind
from graphopt.ir.to_proto import to_proto
from graphopt.ir.upgrade import has_experimental, upgrade_graph
from graphopt.ir.write import save

__all__ = ["load", "save"]

# The newest opset that onnxruntime 1.31 takes (measured); helpers of onnx 1.23 declare 28 by default.
MAX_RUNNABLE_OPSET = 26


def load(
    source: object,
    *,
    base_dir: str | Path | None = None,
    min_opset: int = 13,
    keep_defaults: bool | None = None,
) -> Graph:
    """Read a model, check it, and fill in types and shapes. `graph.facts.notes` says what had to be changed.

    Args:
        source: a path (.onnx, or .onnxtxt / .txt for ONNX text), bytes, an onnx.ModelProto, or an object with a
            `model_proto`: what torch.onnx.export(dynamo=True) returns.
        base_dir: folder of the external data, when the source isn't a path.
        min_opset: older models are brought up to it; 13 is the first with per-channel QuantizeLinear.
        keep_defaults: initializers that are graph inputs too stay inputs with a default value, which can't be folded
            or quantized (True), or become plain constants (False). None: they stay, except where every initializer
            is listed and some are weights, as PyTorch's `keep_initializers_as_inputs` writes them.

    Raises:
        LoadError: the source can't be read, or is no valid ONNX model; one line with what, where and the mend.
        UnsupportedError: a node can't be brought up to `min_opset`.
    """
    read = read_source(source, base_dir)
    try:
        model = _without_functions(read.model, min_opset)
        graph = from_proto(model, read.base_dir)
        inlined = len(read.model.functions) - len(model.functions)
        if inlined:
            graph.facts.notes.append(f"{inlined} functions of the model's own were inlined")
        _check_values(graph, read)
        _settle_defaults(graph, keep_defaults)
        if not has_experimental(graph):
            _check(graph)
        _settle_types(graph)
        infer(graph)
        if graph.opset < min_opset:
            graph.facts.notes.append(f"brought from opset {graph.opset} to {min_opset}")
            upgrade_graph(graph, min_opset)
            _check(graph)
    except (LoadError, UnsupportedError) as error:
        raise type(error)(f"{read.label}: {error}") from None
    _declare_runnable_opset(graph)
    graph.facts.revision = 0
    return graph


def _check(graph: Graph) -> None:
    problem = complaint(to_proto(graph, keep_value=has_small_value))
    if problem is not None:
        raise LoadError(f"isn't a valid ONNX model: {problem}; export it again")


def _without_functions(model: onnx.ModelProto, min_opset: int) -> onnx.ModelProto:
    """The model with its functions inlined, all of them where it has to be upgraded: their nodes are, with it."""
    declared = max((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), default=min_opset)
    return inline_functions(model, engines=declared < min_opset)


def _settle_types(graph: Graph) -> None:
    """Drop stated shapes that contradict what the operators make of the inputs.

    They are left behind by tools that edit the batch size. onnxruntime goes by its own inference too.
    """
    stale = 0
    for tensor, found in inferred_tensors(graph, run_inference(graph, stated=False)):
        if not same_kind(tensor, found):
            stated = TensorType(tensor.dtype, tensor.shape, tensor.type_proto)
            raise LoadError(f"tensor '{tensor.name}' is stated as {stated}, but its producer makes {found}")
        if not agrees(tensor, found):
            graph.set_type(tensor, found.dtype, found.shape)
            stale += 1
    if stale:
        graph.facts.notes.append(f"{stale} stated shapes contradict the operators and were inferred anew")


def _check_values(graph: Graph, source: Source) -> None:
    """Every constant can be read; note which files external ones are in."""
    files: dict[Path, None] = {} if source.path is None else {source.path: None}
    for scope in graph.walk():
        attributes = [v for n in scope.nodes for v in n.attrs.values() if isinstance(v, Constant)]
        for constant in (*scope.constants, *attributes):
            lazy = constant.lazy
            if lazy is None:
                continue
            lazy.check()
            if lazy.is_external:
                files[external.locate(lazy.tensor, lazy.base_dir).path] = None
                graph.facts.has_external_data = True
    graph.facts.source_files = tuple(files)


# Operators with trained parameters, which nobody overrides from outside: (index of the first parameter).
_FIRST_PARAMETER = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "BatchNormalization": 1}


def _settle_defaults(graph: Graph, keep: bool | None) -> None:
    defaults = [c for c in graph.constants if c.is_input]
    if keep is None:
        is_exporter_habit = len(defaults) == len(graph.constants) and any(
            node.is_op(*_FIRST_PARAMETER) and index >= _FIRST_PARAMETER[node.op]
            for constant in defaults
            for node, index in graph.uses(constant)
        )
        keep = not is_exporter_habit
    if keep or not defaults:
        return
    for constant in defaults:
        constant.is_input = False
    graph.facts.notes.append(
        f"{len(defaults)} initializers were listed as graph inputs too, and are plain constants now"
    )


def _declare_runnable_opset(graph: Graph) -> None:
    """Declare the newest opset that engines take, where nothing in the model changed its meaning since."""
    declared = graph.opset
    if declared <= MAX_RUNNABLE_OPSET or graph.facts.functions:
        return
    for scope in graph.walk():
        for node in scope.nodes:
            if node.is_standard and onnx.defs.get_schema(node.op, declared).since_version > MAX_RUNNABLE_OPSET:
                return
    graph.set_opset(MAX_RUNNABLE_OPSET)
    graph.facts.notes.append(
        f"opset {declared} is declared as {MAX_RUNNABLE_OPSET}, which means the same for these operators"
    )
