"""The flatbuffer: tensors, operators and buffers by index, packed at the end."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt import __version__
from graphopt.backends.litert_writer.schema import IDENTIFIER, OPTIONS, SCHEMA_VERSION, TENSOR_TYPES, schema
from graphopt.backends.litert_writer.values import Grid
from graphopt.backends.litert_writer.versions import minimum_runtime, operator_version
from graphopt.errors import EmitError

ABSENT = -1  # an operator's omitted input
_LARGEST = 2**31 - 1  # offsets in a flatbuffer are signed 32-bit integers


@dataclass
class FlatTensor:
    """A tensor as it is stored; `array` is a constant's value, `grid.axis` counts in the stored order."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    grid: Grid | None = None
    dynamic: frozenset[int] = frozenset()
    array: NDArray[Any] | None = None


@dataclass
class FlatOperator:
    """An operator: its builtin code by name, tensors by index, options by the schema's names."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Port:
    """An input or output of the model: its name in ONNX, and the tensor."""

    name: str
    tensor: int


class FlatModel:
    """What will be packed."""

    def __init__(self) -> None:
        self.tensors: list[FlatTensor] = []
        self.operators: list[FlatOperator] = []
        self.inputs: list[Port] = []
        self.outputs: list[Port] = []
        self._constants: dict[tuple[object, ...], int] = {}
        self._names: Counter[str] = Counter()

    def add(self, tensor: FlatTensor) -> int:
        """A new tensor; its name is made unique."""
        self._names[tensor.name] += 1
        if self._names[tensor.name] > 1:
            tensor.name = f"{tensor.name};{self._names[tensor.name] - 1}"
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def constant(self, array: NDArray[Any], name: str, grid: Grid | None = None) -> int:
        """A constant; equal ones are stored once."""
        array = np.require(array, requirements="C")
        digest = hashlib.sha256(array.tobytes()).digest()
        key = (digest, array.dtype, array.shape, grid)
        if key not in self._constants:
            self._constants[key] = self.add(FlatTensor(name, array.shape, array.dtype, grid, array=array))
        return self._constants[key]

    def operate(self, kind: str, inputs: Sequence[int], outputs: Sequence[int], options: dict[str, Any]) -> None:
        """Append an operator."""
        self.operators.append(FlatOperator(kind, tuple(inputs), tuple(outputs), options))

    def prune(self) -> None:
        """Drop operators and tensors that no output needs, and number the tensors anew."""
        needed = {port.tensor for port in (*self.inputs, *self.outputs)}
        kept: list[FlatOperator] = []
        for operator in reversed(self.operators):
            if needed & set(operator.outputs):
                kept.append(operator)
                needed.update(operator.inputs)
                needed.update(operator.outputs)
        order = [k for k in range(len(self.tensors)) if k in needed]
        number = {ABSENT: ABSENT, **{old: new for new, old in enumerate(order)}}
        self.tensors = [self.tensors[k] for k in order]
        self.operators = [
            FlatOperator(o.kind, tuple(number[i] for i in o.inputs), tuple(number[i] for i in o.outputs), o.options)
            for o in reversed(kept)
        ]
        self.inputs = [Port(p.name, number[p.tensor]) for p in self.inputs]
        self.outputs = [Port(p.name, number[p.tensor]) for p in self.outputs]

    def pack(self, name: str, facts: Mapping[str, Any]) -> bytes:
        """The file.

        Args:
            name: of the graph.
            facts: what the metadata entry "graphopt" says, as JSON, besides the version.

        Raises:
            EmitError: it would be larger than a flatbuffer can be.
        """
        builders: Any = importlib.import_module("flatbuffers")  # comes with ai-edge-litert and has no types
        size = sum(t.array.nbytes for t in self.tensors if t.array is not None)
        if size > _LARGEST - (1 << 24):
            raise EmitError(f"the weights are {size / 2**30:.1f} GiB: a .tflite can't be larger than 2 GiB")
        builder: Any = builders.Builder(size + (1 << 16))
        builder.Finish(self._model(name, facts).Pack(builder), file_identifier=IDENTIFIER)
        return bytes(builder.Output())

    def _model(self, name: str, facts: Mapping[str, Any]) -> Any:
        s = schema()
        buffers = [s.BufferT()]
        codes: dict[tuple[str, int], int] = {}
        graph: Any = s.SubGraphT()
        graph.name = name
        graph.tensors = [self._tensor(t, buffers) for t in self.tensors]
        graph.inputs = [p.tensor for p in self.inputs]
        graph.outputs = [p.tensor for p in self.outputs]
        operators: list[Any] = []
        for operator in self.operators:
            version = operator_version(operator, self.tensors)
            index = codes.setdefault((operator.kind, version), len(codes))
            operators.append(_operator(operator, index))
        graph.operators = operators
        model = s.ModelT()
        model.version = SCHEMA_VERSION
        model.description = f"graphopt {__version__}"
        model.operatorCodes = [_code(kind, version) for kind, version in codes]
        model.subgraphs = [graph]
        model.signatureDefs = [self._signature()]
        notes = json.dumps({"version": __version__, **facts}, sort_keys=True)
        # The runtime version's buffer is 16 bytes long, padded with zeros.
        runtime = minimum_runtime(codes).encode().ljust(16, b"\0")
        model.metadata = [
            _metadata(n, b, buffers) for n, b in (("min_runtime_version", runtime), ("graphopt", notes.encode()))
        ]
        model.buffers = buffers
        return model

    def _tensor(self, tensor: FlatTensor, buffers: list[Any]) -> Any:
        s = schema()
        packed = s.TensorT()
        packed.name = tensor.name
        packed.shape = list(tensor.shape)
        packed.hasRank = True
        packed.type = getattr(s.TensorType, TENSOR_TYPES[tensor.dtype])
        if tensor.dynamic:
            packed.shapeSignature = [-1 if k in tensor.dynamic else d for k, d in enumerate(tensor.shape)]
        packed.buffer = 0
        if tensor.array is not None:
            packed.buffer = len(buffers)
            buffers.append(_buffer(tensor.array.tobytes()))
        if tensor.grid is not None:
            packed.quantization = s.QuantizationParametersT()
            packed.quantization.scale = np.asarray(tensor.grid.scales, np.float32)
            packed.quantization.zeroPoint = np.asarray(tensor.grid.zero_points, np.int64)
            packed.quantization.quantizedDimension = tensor.grid.axis
        return packed

    def _signature(self) -> Any:
        signature = schema().SignatureDefT()
        signature.signatureKey = "serving_default"
        signature.subgraphIndex = 0
        signature.inputs = [_named_tensor(p) for p in self.inputs]
        signature.outputs = [_named_tensor(p) for p in self.outputs]
        return signature


def _operator(operator: FlatOperator, code: int) -> Any:
    s = schema()
    packed = s.OperatorT()
    packed.opcodeIndex = code
    packed.inputs, packed.outputs = list(operator.inputs), list(operator.outputs)
    table = OPTIONS.get(operator.kind)
    if table is not None:
        packed.builtinOptionsType = getattr(s.BuiltinOptions, table)
        packed.builtinOptions = getattr(s, f"{table}T")()
        for name, value in operator.options.items():
            assert hasattr(packed.builtinOptions, name), (operator.kind, name)
            setattr(packed.builtinOptions, name, value)
    return packed


def _code(kind: str, version: int) -> Any:
    s = schema()
    packed = s.OperatorCodeT()
    number = getattr(s.BuiltinOperator, kind)
    # Codes beyond a byte have the placeholder in the old field, which readers before schema 3a know.
    packed.deprecatedBuiltinCode = min(number, s.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES)
    packed.builtinCode = number
    packed.version = version
    return packed


def _named_tensor(port: Port) -> Any:
    packed = schema().TensorMapT()
    packed.name, packed.tensorIndex = port.name, port.tensor
    return packed


def _buffer(content: bytes) -> Any:
    packed = schema().BufferT()
    packed.data = np.frombuffer(content, np.uint8)
    return packed


def _metadata(name: str, content: bytes, buffers: list[Any]) -> Any:
    packed = schema().MetadataT()
    packed.name, packed.buffer = name, len(buffers)
    buffers.append(_buffer(content))
    return packed
