"""LiteRT on files that are built here by hand, operator by operator, from the schema."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import Builder

from graphopt.backends.litert import inner_floats, precision, run
from graphopt.backends.litert_model import read_model
from graphopt.backends.precision import Planned
from graphopt.errors import CalibrationError, LoadError, UnsupportedError

TYPES = {"float32": schema.TensorType.FLOAT32, "int8": schema.TensorType.INT8, "int32": schema.TensorType.INT32}


class File:
    """A .tflite in the making."""

    def __init__(self) -> None:
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version = 3
        self.model.subgraphs, self.model.operatorCodes, self.model.buffers = [self.graph], [], [schema.BufferT()]
        self.graph.tensors, self.graph.operators = [], []

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str = "int8",
        scale: Sequence[float] = (),
        zero: int = 0,
        values: np.ndarray | None = None,
    ) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), TYPES[dtype], 0
        if scale:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = list(scale), [zero] * len(scale)
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(values.astype(dtype).tobytes(), np.uint8)
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def operator(self, kind: str, inputs: list[int], outputs: list[int], options: object = None) -> None:
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = 1
        operator.opcodeIndex = len(self.model.operatorCodes)
        operator.inputs, operator.outputs = inputs, outputs
        if options is not None:
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.model.operatorCodes.append(code)
        self.graph.operators.append(operator)

    def content(self, inputs: list[int], outputs: list[int]) -> bytes:
        self.graph.inputs, self.graph.outputs = inputs, outputs
        builder = Builder()
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


WEIGHT = np.array([[1, -2], [3, 4], [-5, 6]], np.int8)
BIAS = np.array([10, -20, 30], np.int32)


def fully_connected(file: File, x: int, y: int, **bias: str) -> None:
    """y = x · WEIGHTᵀ + BIAS, weight in units of 0.5."""
    weight = file.tensor("w", (3, 2), "int8", (0.5,), values=WEIGHT)
    constant = file.tensor("b", (3,), bias.get("dtype", "int32"), (0.05,), values=BIAS)
    file.operator("FULLY_CONNECTED", [x, weight, constant], [y], schema.FullyConnectedOptionsT())


@pytest.fixture
def product() -> bytes:
    """float x → QUANTIZE → FULLY_CONNECTED in int8 → DEQUANTIZE → float y."""
    file = File()
    x, y = file.tensor("x", (1, 2), "float32"), file.tensor("y", (1, 3), "float32")
    xq, yq = (
        file.tensor("x_quantized", (1, 2), "int8", (0.1,), 3),
        file.tensor("y_quantized", (1, 3), "int8", (0.15,), -1),
    )
    file.operator("QUANTIZE", [x], [xq])
    fully_connected(file, xq, yq)
    file.operator("DEQUANTIZE", [yq], [y])
    return file.content([x], [y])


FEED = np.array([[1.0, -0.7]], np.float32)
# By hand: x is 10 and -7 steps, the product 0.05 · (WEIGHT · [10, -7] + BIAS), the result in steps of 0.15, no ties.
EXPECTED = 0.15 * np.rint(0.05 * (WEIGHT.astype(int) @ [10, -7] + BIAS) / 0.15)[None]


def gemm(name: str = "fc", output: str = "h") -> Planned:
    return Planned(name, "Gemm", output, linear=True)


QDQ = onnx.parser.parse_model(
    """<ir_version: 8, opset_import: ["" : 13]>
    g (float[1,2] a, float[2,3] w, float s, int8 z) => (float[1,3] y)
    { h = Gemm(a, w)  y_quantized = QuantizeLinear(h, s, z)  y = DequantizeLinear(y_quantized, s, z) }"""
)


@pytest.mark.parametrize("reference", [False, True])
def test_runs_and_names_outputs(product: bytes, reference: bool) -> None:
    (outputs,) = run(product, [{"x": FEED}], reference_kernels=reference)
    np.testing.assert_allclose(outputs["y"], EXPECTED, atol=1e-6)


def test_runs_from_a_path_one_feed_after_the_other(product: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(product)
    first, second = run(path, [{"x": FEED}, {"x": np.zeros_like(FEED)}])
    np.testing.assert_allclose(first["y"], EXPECTED, atol=1e-6)
    np.testing.assert_allclose(second["y"], 0.15 * np.rint(0.05 * BIAS / 0.15)[None], atol=1e-6)


def test_resizes_to_the_batch_of_the_feed(product: bytes) -> None:
    (outputs,) = run(product, [{"x": np.repeat(FEED, 4, axis=0)}])
    np.testing.assert_allclose(outputs["y"], np.repeat(EXPECTED, 4, axis=0), atol=1e-6)


def test_an_integer_input_takes_float_values() -> None:
    file = File()
    x, y = file.tensor("x", (1, 2), "int8", (0.1,), 3), file.tensor("y", (1, 3), "int8", (0.15,), -1)
    fully_connected(file, x, y)
    (outputs,) = run(file.content([x], [y]), [{"x": FEED}])
    assert outputs["y"].dtype == np.int8
    np.testing.assert_allclose(0.15 * (outputs["y"].astype(int) + 1), EXPECTED, atol=1e-6)


def test_a_feed_must_have_every_input_and_a_fitting_shape(product: bytes) -> None:
    with pytest.raises(CalibrationError, match="sample 0 lacks the input 'x'"):
        list(run(product, [{"y": FEED}]))
    with pytest.raises(CalibrationError, match="sample 1: LiteRT failed"):
        list(run(product, [{"x": FEED}, {"x": np.zeros((1, 3), np.float32)}]))


def test_reads_operators_types_and_quantization(product: bytes) -> None:
    model = read_model(product)
    assert [str(o) for o in model.operators] == [
        "QUANTIZE 'x_quantized'",
        "FULLY_CONNECTED 'y_quantized'",
        "DEQUANTIZE 'y'",
    ]
    data, weight, bias = model.operators[1].inputs
    assert data is not None
    assert weight is not None
    assert bias is not None
    assert (data.dtype, data.zero_points, data.constant) == ("int8", (3,), False)
    assert (weight.dtype, weight.shape, weight.scales, weight.constant) == ("int8", (3, 2), (0.5,), True)
    assert bias.dtype == "int32"
    assert (list(model.inputs), list(model.outputs)) == (["x"], ["y"])


def test_the_signature_names_inputs_and_outputs(product: bytes) -> None:
    model = schema.ModelT.InitFromPackedBuf(product)
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    entries = []
    for name, index in (("image", 0), ("scores", 1)):
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        entries.append([entry])
    signature.inputs, signature.outputs = entries
    model.signatureDefs = [signature]
    builder = Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    (outputs,) = run(bytes(builder.Output()), [{"image": FEED}])
    np.testing.assert_allclose(outputs["scores"], EXPECTED, atol=1e-6)


def test_a_planned_product_is_found_behind_its_quantization(product: bytes) -> None:
    found = precision(product, [gemm()], QDQ)
    assert (found.engine, found.version, found.device) == ("LiteRT", "2.3.0", "CPU")
    assert [(n.layer, n.precision, n.reason) for n in found.nodes] == [("FULLY_CONNECTED 'y_quantized'", "int8", "")]
    assert (found.missed, list(found.notes)) == ([], [])


def test_a_product_with_integer_weights_and_float_data_is_float() -> None:
    """LiteRT's hybrid kernel: weights in 8 bits, data quantized anew for each run."""
    file = File()
    x, y = file.tensor("x", (1, 2), "float32"), file.tensor("h", (1, 3), "float32")
    weight = file.tensor("w", (3, 2), "int8", (0.5,), values=WEIGHT)
    file.operator("FULLY_CONNECTED", [x, weight], [y], schema.FullyConnectedOptionsT())
    (node,) = precision(file.content([x], [y]), [gemm()], QDQ).nodes
    assert node.precision == "float32"
    assert node.reason == "its data 'x' is float32; its result 'h' is float32"


def test_a_planned_product_without_an_operator_is_a_miss(product: bytes) -> None:
    (node,) = precision(product, [gemm(output="elsewhere")], QDQ).missed
    assert (node.layer, node.precision) == ("", "unknown")
    assert "no operator of the .tflite makes 'elsewhere'" in node.reason


def test_a_node_that_moves_values_may_be_gone(product: bytes) -> None:
    (node,) = precision(product, [Planned("flatten", "Flatten", "f", linear=False)], QDQ).nodes
    assert (node.layer, node.integer) == ("", True)


def test_a_float_tensor_between_integer_operators_is_told() -> None:
    file = File()
    x, y = file.tensor("x", (1, 2), "float32"), file.tensor("y", (1, 2), "float32")
    a, b = (file.tensor(n, (1, 2), "int8", (0.1,)) for n in ("a", "b"))
    f, g = (file.tensor(n, (1, 2), "float32") for n in ("f", "g"))
    c, d = (file.tensor(n, (1, 2), "int8", (0.1,)) for n in ("c", "d"))
    file.operator("QUANTIZE", [x], [a])
    file.operator("ADD", [a, a], [b], schema.AddOptionsT())
    file.operator("DEQUANTIZE", [b], [f])
    file.operator("EXP", [f], [g])
    file.operator("QUANTIZE", [g], [c])
    file.operator("ADD", [c, c], [d], schema.AddOptionsT())
    file.operator("DEQUANTIZE", [d], [y])
    content = file.content([x], [y])
    assert [t.name for t in inner_floats(read_model(content))] == ["f", "g"]
    notes = precision(content, [], QDQ).notes
    assert list(notes) == ["float tensor 'f' between integer operators", "float tensor 'g' between integer operators"]


def test_what_is_no_tflite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"the content is no .tflite file"):
        read_model(b"not a flatbuffer")
    with pytest.raises(LoadError, match=r"can't read '.*missing.tflite': No such file"):
        read_model(tmp_path / "missing.tflite")


def test_what_litert_cannot_prepare_is_refused_in_one_line() -> None:
    file = File()
    x, y = file.tensor("x", (1, 2), "float32"), file.tensor("y", (1, 2), "float32")
    file.operator("CUSTOM", [x], [y])
    file.model.operatorCodes[0].customCode = "Mystery"
    content = file.content([x], [y])
    assert [o.kind for o in read_model(content).operators] == ["Mystery"]
    with pytest.raises(UnsupportedError, match=r"LiteRT can't run the model: .*Mystery") as refused:
        list(run(content, []))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("module", ["ai_edge_litert", "ai_edge_litert.interpreter"])
def test_without_litert_the_extra_is_named(product: bytes, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UnsupportedError, match=r"pip install 'graphopt\[tflite\]'"):
        list(run(product, [{"x": FEED}]))
