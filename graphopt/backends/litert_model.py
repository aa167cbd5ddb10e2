"""What is in a .tflite file: its operators, in order, and the type and quantization of each tensor.

Read from the flatbuffer itself, so it says what LiteRT is told to compute, not what somebody planned. Only the main
subgraph is listed; operators inside the branches of IF and WHILE are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from graphopt.errors import LoadError, UnsupportedError

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import Model, SignatureDef, SubGraph, Tensor, TensorMap

# An operator's input that is left out has this index.
_ABSENT = -1
# Operators up to this number also fit the older, 8-bit field of an operator code.
_OLD_CODES = 127


@dataclass(frozen=True)
class LiteTensor:
    """A tensor of a .tflite.

    Attributes:
        name: as in the file.
        dtype: as numpy names it: "int8", "float32" …
        shape: sizes; 1 stands for what is dynamic.
        scales: one, or one per channel; empty when the tensor isn't quantized.
        zero_points: as many as scales.
        channel_axis: the axis of the scales, where there are several.
        constant: whether its values are in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    channel_axis: int
    constant: bool

    @property
    def is_float(self) -> bool:
        """Whether it holds floating-point values."""
        return self.dtype.startswith("float")


@dataclass(frozen=True)
class LiteOperator:
    """An operator of a .tflite.

    Attributes:
        kind: LiteRT's name of it, such as CONV_2D; for a custom operator the name in its code.
        inputs: what it reads; None for an input that is left out.
        outputs: what it makes.
    """

    kind: str
    inputs: tuple[LiteTensor | None, ...]
    outputs: tuple[LiteTensor, ...]

    def __str__(self) -> str:
        return f"{self.kind} '{self.outputs[0].name}'" if self.outputs else self.kind


@dataclass(frozen=True)
class LiteModel:
    """The main subgraph of a .tflite; inputs and outputs are keyed by the signature's names, or else the tensors'."""

    inputs: Mapping[str, LiteTensor]
    outputs: Mapping[str, LiteTensor]
    operators: tuple[LiteOperator, ...]


def file_bytes(tflite: bytes | Path) -> bytes:
    """The bytes of a .tflite given as such or as a path.

    Raises:
        LoadError: the file can't be read, or is no .tflite.
    """
    from_file = isinstance(tflite, Path)
    try:
        content = tflite.read_bytes() if from_file else tflite
    except OSError as error:
        raise LoadError(f"can't read '{tflite}': {error.strerror or error}") from error
    # The flatbuffer's identifier stands behind the offset of its root.
    if content[4:8] != b"TFL3":
        where = f"'{tflite}'" if from_file else "the content"
        raise LoadError(f"{where} is no .tflite file: bytes 4 to 8 aren't TFL3")
    return content


def read_model(tflite: bytes | Path) -> LiteModel:
    """What is in a .tflite.

    Raises:
        UnsupportedError: ai-edge-litert, which brings the file's schema, is not installed.
        LoadError: the file can't be read, or is no .tflite.
    """
    content = file_bytes(tflite)
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError as error:
        raise UnsupportedError("LiteRT is not installed: pip install 'graphopt[tflite]'") from error
    model = schema.Model.GetRootAs(content)
    graph = model.Subgraphs(0)
    tensors = [_tensor(model, graph.Tensors(k)) for k in range(graph.TensorsLength())]
    signature = model.SignatureDefs(0) if model.SignatureDefsLength() else None
    return LiteModel(
        _named(tensors, _indices(graph.InputsAsNumpy()), _signed(signature, "inputs")),
        _named(tensors, _indices(graph.OutputsAsNumpy()), _signed(signature, "outputs")),
        tuple(_operators(model, graph, tensors)),
    )


def _operators(model: Model, graph: SubGraph, tensors: Sequence[LiteTensor]) -> Iterable[LiteOperator]:
    for k in range(graph.OperatorsLength()):
        operator = graph.Operators(k)
        yield LiteOperator(
            _kind(model, operator.OpcodeIndex()),
            tuple(None if i == _ABSENT else tensors[i] for i in _indices(operator.InputsAsNumpy())),
            tuple(tensors[i] for i in _indices(operator.OutputsAsNumpy())),
        )


def _kind(model: Model, index: int) -> str:
    code = model.OperatorCodes(index)
    old, new = code.DeprecatedBuiltinCode(), code.BuiltinCode()
    kind = _names("BuiltinOperator").get(max(old, new) if old < _OLD_CODES else new, "unknown operator")
    return (code.CustomCode() or b"").decode() or kind if kind == "CUSTOM" else kind


@cache
def _names(enumeration: str) -> dict[int, str]:
    """The names of a flatbuffer enumeration's values."""
    from ai_edge_litert import schema_py_generated as schema

    members: Mapping[str, object] = vars(schema)[enumeration].__dict__
    return {value: name for name, value in members.items() if isinstance(value, int)}


def _tensor(model: Model, tensor: Tensor) -> LiteTensor:
    quantization = tensor.Quantization()
    scales = _vector(quantization.ScaleAsNumpy()) if quantization else []
    zero_points = _indices(quantization.ZeroPointAsNumpy()) if quantization else []
    buffer = model.Buffers(tensor.Buffer())
    return LiteTensor(
        name=(tensor.Name() or b"").decode(),
        dtype=_names("TensorType").get(tensor.Type(), "unknown type").lower(),
        shape=tuple(_indices(tensor.ShapeAsNumpy())),
        scales=tuple(float(scale) for scale in scales),
        zero_points=tuple(zero_points),
        channel_axis=quantization.QuantizedDimension() if quantization else 0,
        # Buffer 0 is the empty one; an offset above 1 points behind the flatbuffer, where large models keep theirs.
        constant=tensor.Buffer() != 0 and (buffer.DataLength() > 0 or buffer.Offset() > 1),
    )


def _vector(values: NDArray[Any] | int) -> list[Any]:
    """A flatbuffer's vector; where there is none, the schema's methods return 0."""
    return [] if isinstance(values, int) else values.tolist()


def _indices(values: NDArray[Any] | int) -> list[int]:
    """A flatbuffer's vector of integers."""
    return [int(value) for value in _vector(values)]


def _signed(signature: SignatureDef | None, side: str) -> dict[int, str]:
    """Tensor index → name in the signature."""
    if signature is None:
        return {}
    entry: Callable[[int], TensorMap]
    entry, count = (
        (signature.Inputs, signature.InputsLength())
        if side == "inputs"
        else (signature.Outputs, signature.OutputsLength())
    )
    return {entry(k).TensorIndex(): (entry(k).Name() or b"").decode() for k in range(count)}


def _named(tensors: Sequence[LiteTensor], indices: Sequence[int], names: Mapping[int, str]) -> dict[str, LiteTensor]:
    return {names.get(i, tensors[i].name): tensors[i] for i in indices}
