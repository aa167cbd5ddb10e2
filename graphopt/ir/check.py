"""onnx's own checker, run on a skeleton, with its complaint in one line."""

from __future__ import annotations

import onnx
from onnx import TensorProto

from graphopt.errors import one_line


def complaint(skeleton: onnx.ModelProto) -> str | None:
    """What onnx.checker objects to in the model, or None.

    Outputs of the skeleton get stand-in types where they have none: the checker demands a shape for every output of
    the main graph. Models without one are common (custom operators, dynamic ranks) and every runtime takes them.
    """
    for info in skeleton.graph.output:
        kind = info.type.WhichOneof("value")
        if kind is None or kind == "tensor_type":
            tensor = info.type.tensor_type
            tensor.elem_type = tensor.elem_type or TensorProto.FLOAT
            tensor.shape.SetInParent()
    for info in skeleton.graph.input:
        if info.type.WhichOneof("value") == "tensor_type":
            info.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(skeleton)  # pyright: ignore[reportUnknownMemberType]  # its stub says PathLike
    except (onnx.checker.ValidationError, ValueError) as error:
        return one_line(error)
    return None
