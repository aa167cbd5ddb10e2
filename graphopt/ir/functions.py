"""Calls of a model's own functions are replaced by what the functions do.

    y = my.Block(x, W)        →   c = Conv(x, W);  y = Relu(c)

Rewrites, tables of targets and lint know standard operators, and so do some engines. torch.onnx.export writes a
function for each module with `export_modules_as_functions`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
import onnx.inliner

# Where an engine has a kernel of that name, the function is there for engines that haven't.
_ENGINES = ("com.microsoft", "org.openvinotoolkit", "trt")
_STANDARD = ("", "ai.onnx")


def inline_functions(model: onnx.ModelProto, *, engines: bool = False) -> onnx.ModelProto:
    """The model with the calls of its functions inlined; the same object where there is nothing to do.

    Those of engines' domains stay, but with `engines`; so do those that are written for another opset, in which their
    operators mean something else (which onnx's checker refuses).
    """
    if not model.functions:
        return model
    # The inliner goes through one protobuf message, which holds no more than 2 GiB: values stay outside.
    light = onnx.ModelProto()
    light.CopyFrom(model)
    for tensor in light.graph.initializer:
        tensor.CopyFrom(onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims))
    kept = [
        (function.domain, function.name)
        for function in light.functions
        if (not engines and function.domain.startswith(_ENGINES)) or not _adopts_opset(light, function)
    ]
    if len(kept) == len(model.functions):
        return model
    inlined = onnx.inliner.inline_selected_functions(light, kept, exclude=True)
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    for tensor in inlined.graph.initializer:
        tensor.CopyFrom(values[tensor.name])
    return inlined


def _adopts_opset(model: onnx.ModelProto, function: onnx.FunctionProto) -> bool:
    """Whether the function's operators mean the same in the model's opset, which it declares from then on."""
    wanted = next((entry.version for entry in model.opset_import if entry.domain in _STANDARD), None)
    for entry in function.opset_import:
        if entry.domain not in _STANDARD or entry.version == wanted:
            continue
        operators = {node.op_type for node in _nodes(function.node) if node.domain in _STANDARD}
        if wanted is None or any(_since(op, entry.version) != _since(op, wanted) for op in operators):
            return False
        entry.version = wanted
    return True


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes(graph.node)


def _since(op: str, opset: int) -> int | None:
    try:
        return onnx.defs.get_schema(op, opset).since_version
    except onnx.defs.SchemaError:
        return None
