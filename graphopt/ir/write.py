"""Graph → file: to a temporary name first, then renamed, so that nothing half-written is ever left.

A model with external data, or too large for one protobuf message, gets a data file `<name>.data` beside it: values
are streamed into it one tensor at a time. The data file is put in place before the model that refers to it.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx.parser
import onnx.printer
from numpy.typing import NDArray
from onnx import numpy_helper

from graphopt.errors import ConfigError, EmitError, one_line
from graphopt.ir.elements import Constant, onnx_dtype
from graphopt.ir.graph import Graph
from graphopt.ir.read import TEXT_SUFFIXES, parse_problem
from graphopt.ir.to_proto import MAX_EMBEDDED_BYTES, describe_tensor, tensor_proto, to_proto, value_bytes

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
        external_data = graph.facts.has_external_data or value_bytes(graph) > MAX_EMBEDDED_BYTES
    if external_data:
        _write_with_data(graph, target)
        return
    model = to_proto(graph)
    with _replacing(target) as file:
        file.write(_serialize(model, target))


def data_path(path: Path) -> Path:
    """The data file that belongs to the model file `path`."""
    return path.with_name(path.name + ".data")


def check_output_path(path: Path, inputs: tuple[Path, ...]) -> None:
    """Refuse an output path that would overwrite an input, or that can't be a file.

    Raises:
        ConfigError: `path` or its data file is one of `inputs`.
        EmitError: `path` is a directory, or its folder doesn't exist or can't be written to.
    """
    for written in (path, data_path(path)):
        for source in inputs:
            if _same_file(written, source):
                raise ConfigError(f"{written}: would overwrite the input '{source}'; choose another output name")
    if path.is_dir():
        raise EmitError(f"{path}: is a directory; name a file in it")
    if not path.parent.is_dir():
        raise EmitError(f"{path}: the folder '{path.parent}' doesn't exist; make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise EmitError(f"{path}: the folder '{path.parent}' can't be written to")


def _same_file(a: Path, b: Path) -> bool:
    try:
        return a.samefile(b)
    except OSError:
        return Path(os.path.realpath(a)) == Path(os.path.realpath(b))


def _write_with_data(graph: Graph, target: Path) -> None:
    data_target = data_path(target)
    # Both files are whole before either is renamed; the inner one, the data file, is put in place first.
    with _replacing(target) as model_file, _replacing(data_target) as data_file:

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
    stored = constant.unloaded
    values: NDArray[Any] = stored if isinstance(stored, np.ndarray) else stored.load()
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
    with _replacing(target) as file:
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


@contextmanager
def _replacing(target: Path) -> Generator[BinaryIO]:
    """A file that becomes `target` when the block ends well, and is gone when it doesn't."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
        os.replace(temporary, target)
    except OSError as error:
        raise EmitError(f"{target}: can't be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)
