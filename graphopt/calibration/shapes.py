"""Types and shapes of a model's tensors for one sample, without running it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from onnx import ModelProto, TensorProto, ValueInfoProto, helper, shape_inference

from graphopt.calibration.session import open_session
from graphopt.calibration.weights import Detached, detach

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Inferred:
    """What is known of tensors by name; those that inference can't tell are left out.

    Attributes:
        types: ONNX element types.
        shapes: for a sample of the shapes that were given.
    """

    types: Mapping[str, int] = field(default_factory=dict[str, int])
    shapes: Mapping[str, Shape] = field(default_factory=dict[str, Shape])

    def sizes(self, tensors: Sequence[str]) -> dict[str, int]:
        """Bytes of each tensor; one of unknown size is taken to be as large as the largest known one."""
        known = {
            tensor: math.prod(self.shapes[tensor]) * helper.tensor_dtype_to_np_dtype(self.types[tensor]).itemsize
            for tensor in tensors
            if tensor in self.shapes and tensor in self.types
        }
        largest = max(known.values(), default=1)
        return {tensor: known.get(tensor, largest) for tensor in tensors}


def infer(model: ModelProto, inputs: Mapping[str, Shape]) -> Inferred:
    """Types and shapes by onnx's inference, for inputs of these shapes; the weights aren't looked at."""
    skeleton = _skeleton(model)
    for value in skeleton.graph.input:
        if value.name in inputs:
            elem_type = value.type.tensor_type.elem_type
            value.CopyFrom(helper.make_tensor_value_info(value.name, elem_type, inputs[value.name]))
    try:
        graph = shape_inference.infer_shapes(skeleton, data_prop=True).graph
    except shape_inference.InferenceError:
        graph = skeleton.graph  # onnxruntime says what is wrong, if anything is
    types: dict[str, int] = {}
    shapes: dict[str, Shape] = {}
    for value in (*graph.input, *graph.output, *graph.value_info):
        tensor = value.type.tensor_type
        if not tensor.elem_type:
            continue
        types[value.name] = tensor.elem_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            shapes[value.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
    return Inferred(types, shapes)


def types_of(
    model: ModelProto | Detached, tensors: Sequence[str], inferred: Inferred, base_dir: Path | None
) -> dict[str, str]:
    """Each tensor's type, as onnxruntime writes it.

    What inference can't tell (behind operators that onnx doesn't know) is asked of onnxruntime, which needs the whole
    model.
    """
    types = {
        tensor: f"tensor({TensorProto.DataType.Name(inferred.types[tensor]).lower()})"
        for tensor in tensors
        if tensor in inferred.types
    }
    unknown = [tensor for tensor in tensors if tensor not in types]
    if unknown:
        detached = detach(model)
        probe = ModelProto()
        probe.CopyFrom(detached.model)
        del probe.graph.output[:]
        probe.graph.output.extend(ValueInfoProto(name=tensor) for tensor in unknown)
        session = open_session(replace(detached, model=probe), optimize=False, base_dir=base_dir)
        types |= {output.name: output.type for output in session.get_outputs()}
    return {tensor: types[tensor] for tensor in tensors}


def _skeleton(model: ModelProto) -> ModelProto:
    """The nodes alone: each large initializer becomes an input of its type; small ones may say shapes."""
    skeleton = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph = model.graph
    inputs = {value.name for value in graph.input}
    skeleton.graph.name = graph.name
    skeleton.graph.node.extend(graph.node)
    skeleton.graph.input.extend(graph.input)
    skeleton.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in graph.initializer
        if tensor.name not in inputs
    )
    skeleton.graph.initializer.extend(tensor for tensor in graph.initializer if _says_shapes(tensor))
    skeleton.graph.output.extend(_without_shape(value) for value in graph.output)
    skeleton.graph.value_info.extend(_without_shape(value) for value in graph.value_info)
    return skeleton


def _without_shape(value: ValueInfoProto) -> ValueInfoProto:
    """The type alone: the shape that the model states is of other samples."""
    elem_type = value.type.tensor_type.elem_type
    return helper.make_tensor_value_info(value.name, elem_type, None) if elem_type else value


def _says_shapes(tensor: TensorProto) -> bool:
    return tensor.data_location != TensorProto.EXTERNAL and math.prod(tensor.dims) <= 16
