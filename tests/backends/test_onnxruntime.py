import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from graphopt.backends.onnxruntime import kernel_precision, open_session, run_dataset
from graphopt.calibration import input_specs, load_dataset
from graphopt.errors import UnsupportedError

RNG = np.random.default_rng(3)


def parse(body, opset=13, **weights):
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["":{opset}]> {body}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items())
    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}_{node.op_type}"
    return model


GRID = {"s": np.float32(0.02), "z": np.uint8(128), "zw": np.int8(0)}
KERNEL = RNG.integers(-100, 100, (4, 3, 3, 3)).astype(np.int8)
MATRIX = RNG.integers(-100, 100, (4, 4)).astype(np.int8)
DQ_INPUTS = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) w = DequantizeLinear(qw, s, zw)"


def qdq_conv(output):
    body = f"g (float[1,3,8,8] x) => (float[1,4,8,8] y) {{ {DQ_INPUTS} {output} }}"
    return parse(body, qw=KERNEL, **GRID)


def kinds(model):
    return [(kernel.op_type, kernel.integer) for kernel in kernel_precision(model)]


def test_a_float_conv_is_float():
    weight = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)
    model = parse("g (float[1,3,8,8] x) => (float[1,4,6,6] y) { c = Conv(x, w) y = Relu(c) }", w=weight)
    (kernel,) = kernel_precision(model)
    assert (kernel.op_type, kernel.integer, kernel.name) == ("FusedConv", False, "n0_Conv")


def test_a_conv_between_q_and_dq_is_integer_and_keeps_its_name():
    model = qdq_conv("c = Conv<pads=[1,1,1,1]>(d, w) o = QuantizeLinear(c, s, z) y = DequantizeLinear(o, s, z)")
    (kernel,) = kernel_precision(model)
    assert (kernel.op_type, kernel.integer, kernel.name) == ("QLinearConv", True, "n3_Conv")


def test_a_conv_whose_output_is_not_quantized_runs_in_float():
    assert kinds(qdq_conv("y = Conv<pads=[1,1,1,1]>(d, w)")) == [("Conv", False)]


def test_gemm_and_matmul():
    def matrix(output):
        return parse(f"g (float[1,4] x) => (float[1,4] y) {{ {DQ_INPUTS} {output} }}", qw=MATRIX, **GRID)

    gemm = matrix("c = Gemm(d, w) o = QuantizeLinear(c, s, z) y = DequantizeLinear(o, s, z)")
    assert kinds(gemm) == [("QGemm", True)]
    assert kinds(matrix("y = MatMul(d, w)")) == [("MatMulIntegerToFloat", True)]
    assert kinds(matrix("c = MatMul(d, w) o = QuantizeLinear(c, s, z) y = DequantizeLinear(o, s, z)")) == [
        ("QLinearMatMul", True)
    ]


def test_weights_that_are_not_constant_count_too():
    model = parse("g (float[1,4] x, float[4,4] w) => (float[1,4] y) { a = MatMul(x, w) y = Abs(a) }")
    (kernel,) = kernel_precision(model)
    assert (kernel.op_type, kernel.integer, kernel.name, kernel.output) == ("MatMul", False, "n0_MatMul", "a")


def test_dynamic_quantization_is_integer():
    model = parse(
        """g (float[1,4] x) => (float[1,4] y) {
            q, sx, zx = DynamicQuantizeLinear(x) i = MatMulInteger(q, qw, zx) f = Cast<to=1>(i)
            k = Mul(sx, s) y = Mul(f, k) }""",
        qw=MATRIX,
        s=GRID["s"],
    )
    assert kinds(model) == [("DynamicQuantizeMatMul", True)]


def test_convtranspose_and_fused_kernels():
    weight = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)
    assert kinds(parse("g (float[1,4,8,8] x) => (float[1,3,10,10] y) { y = ConvTranspose(x, w) }", w=weight)) == [
        ("ConvTranspose", False)
    ]
    gemm = parse("g (float[1,4] x, float[4,4] w) => (float[1,4] y) { c = Gemm(x, w) y = Relu(c) }")
    assert kinds(gemm) == [("FusedGemm", False)]


def test_kernels_in_subgraphs_are_found():
    model = parse(
        """g (float[1,4] x, bool c, float[4,4] w) => (float[1,4] y) {
            y = If<then_branch = t () => (float[1,4] a) { a = MatMul(x, w) },
                   else_branch = e () => (float[1,4] b) { b = Abs(x) }>(c) }"""
    )
    assert kinds(model) == [("MatMul", False)]


def test_large_weights_and_paths(tmp_path):
    weight = RNG.normal(size=(64, 64)).astype(np.float32)
    model = parse("g (float[1,64] x) => (float[1,64] y) { y = MatMul(x, w) }", w=weight)
    assert kinds(model) == [("MatMul", False)]
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin")
    assert kinds(tmp_path / "m.onnx") == [("MatMul", False)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "w.bin"]
    light = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert [kernel.op_type for kernel in kernel_precision(light, base_dir=tmp_path)] == ["MatMul"]


def test_samples_are_run_one_by_one():
    model = parse("g (float[1,2] x) => (float[1,2] y, float[1,2] z) { y = Neg(x) z = Abs(x) }")
    x = RNG.normal(size=(3, 2)).astype(np.float32)
    runs = run_dataset(model, load_dataset({"x": x}, input_specs(model)), optimize=False, threads=1)
    y, z = next(runs)
    assert np.array_equal(y, -x[:1])
    assert np.array_equal(z, np.abs(x[:1]))
    assert len(list(runs)) == 2


@pytest.mark.parametrize("source", ["alien", "text", "absent"])
def test_what_cannot_be_loaded(tmp_path, source):
    alien = parse("g (float[1] x) => (float[1] y) { y = Warp(x) }")
    (tmp_path / "text.onnx").write_text("hello")
    model = {"alien": alien, "text": tmp_path / "text.onnx", "absent": tmp_path / "absent.onnx"}[source]
    with pytest.raises(UnsupportedError) as error:
        open_session(model)
    message = str(error.value)
    assert message.startswith("onnxruntime can't load the model: ")
    assert "\n" not in message
    assert "ONNXRuntimeError" not in message
    assert {"alien": "Warp", "text": "text.onnx", "absent": "absent.onnx"}[source] in message
