"""Graph → file, whole or not at all.

A model with external data, or too large for one protobuf message, gets a data file `<name>.data` beside it: values
are streamed into it one tensor at a time. The data file is put in place before the model that refers to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import onnx.parser
import onnx.printer
from onnx import numpy_helper

from graphopt.errors import EmitError, one_line
from graphopt.ir.dtypes import onnx_dtype
from graphopt.ir.elements import Constant
from graphopt.ir.files import check_output_path, data_path, replacing
from graphopt.ir.graph import Graph
from graphopt.ir.protos import describe_tensor, tensor_proto
from graphopt.ir.read import TEXT_SUFFIXES, parse_problem
from graphopt.ir.stored import loaded
from graphopt.ir.to_proto import MAX_EMBEDDED_BYTES, to_proto, value_bytes

# Smaller tensors stay in the model file (onnx's own default), and shape inference needs the values of small ones.
_MIN_EXTERNAL_BYTES = 1024
# Offsets are multiples of a page, so that readers can map a tensor into memory.
_ALIGNMENT = 4096


def save(graph: Graph, path: str | Path, *, external_data: bool | None = None) -> None:
    """Write the model to `path`: binary, or ONNX text when the name ends in .onnxtxt or .txt.

    Args:
        graph: the main graph, sorted.
        path: the file to write; it is replaced when it exists.
        external_data: put large values into `<path>.data`. None: when the model came with external data, or is too
            large for one file.

    Raises:
        ConfigError: `path` is one of the files that the model came from.
        EmitError: it can't be written. No file was changed then.
    """
    target = Path(path)
    check_output_path(target, graph.facts.source_files)
    if target.suffix.lower() in TEXT_SUFFIXES:
        _write_text(graph, target)
        return
    if external_data is None:
        external_data = wants_data_file(graph)
    if external_data:
        _write_with_data(graph, target)
        return
    model = to_proto(graph)
    with replacing(target) as file:
        file.write(_serialize(model, target))


def wants_data_file(graph: Graph) -> bool:
    """Whether `save` puts large values into a data file when it isn't told: they came in one, or don't fit else."""
    return graph.facts.has_external_data or value_bytes(graph) > MAX_EMBEDDED_BYTES


def _write_with_data(graph: Graph, target: Path) -> None:
    data_target = data_path(target)
    # Both files are whole before either is renamed; the inner one, the data file, is put in place first.
    with replacing(target) as model_file, replacing(data_target) as data_file:

        def store(constant: Constant) -> onnx.TensorProto:
            if constant.nbytes < _MIN_EXTERNAL_BYTES or onnx_dtype(constant.dtype) == onnx.TensorProto.STRING:
                return tensor_proto(constant)
            return _append(data_file, data_target.name, constant)

        model_file.write(_serialize(to_proto(graph, store=store), target))
        model_file.flush()


def _append(file: BinaryIO, location: str, constant: Constant) -> onnx.TensorProto:
    """Write the constant's values to the end of the data file; returns the TensorProto that refers to them."""
    raw = _raw_bytes(constant)
    offset = -(-file.tell() // _ALIGNMENT) * _ALIGNMENT
    file.seek(offset)
    file.write(raw)  # an array is written straight from memory, or from the mapped input file
    proto = onnx.TensorProto(
        name=constant.name,
        data_type=onnx_dtype(constant.dtype),
        dims=constant.shape,
        data_location=onnx.TensorProto.EXTERNAL,
    )
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(len(raw)))):
        proto.external_data.add(key=key, value=value)
    describe_tensor(proto, constant)
    return proto


def _raw_bytes(constant: Constant) -> memoryview | bytes:
    """The values as TensorProto.raw_data has them; lazy ones are looked at and let go again."""
    values = loaded(constant.unloaded)
    if values.dtype.isnative and values.dtype.kind in "fiuc" and values.flags.c_contiguous:
        return values.reshape(-1).view(np.uint8).data
    return numpy_helper.from_array(values).raw_data  # packed or ml_dtypes types, or not contiguous


def _write_text(graph: Graph, target: Path) -> None:
    model = to_proto(graph)
    _simplify_attribute_names(model.graph)
    text = onnx.printer.to_text(model)
    try:
        reread = onnx.parser.parse_model(text)
    except onnx.parser.ParseError as error:
        reread, reason = None, parse_problem(error)
    else:
        reason = "it reads back differently"
    if reread is None or [n.op_type for n in reread.graph.node] != [n.op_type for n in model.graph.node]:
        raise EmitError(f"{target}: ONNX text can't express this model ({reason}); save it as .onnx")
    with replacing(target) as file:
        file.write(text.encode())


def _simplify_attribute_names(graph: onnx.GraphProto) -> None:
    """Names of attribute tensors and of bodies mean nothing, and the parser can't read quoted ones back."""
    for node in graph.node:
        for attr in node.attribute:
            if attr.type == onnx.AttributeProto.TENSOR:
                attr.t.ClearField("name")
            elif attr.type == onnx.AttributeProto.GRAPH:
                attr.g.name = attr.name
                _simplify_attribute_names(attr.g)


def _serialize(model: onnx.ModelProto, target: Path) -> bytes:
    try:
        return model.SerializeToString(deterministic=True)
    except (ValueError, UnicodeError) as error:  # over 2 GiB, or text that isn't valid Unicode
        raise EmitError(f"{target}: the model can't be serialized: {one_line(error)}") from None
