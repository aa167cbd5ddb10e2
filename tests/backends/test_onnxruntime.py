import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

import graphopt
from graphopt.backends.onnxruntime import kernel_precision, open_session, precision, run, run_dataset
from graphopt.backends.planned import planned_nodes
from graphopt.backends.precision import Planned
from graphopt.calibration import input_specs, load_dataset
from graphopt.errors import CalibrationError, UnsupportedError
from graphopt.targets import find_target

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


def what_became(model, target="onnxruntime"):
    """(operator, kernel, precision, reason) of each planned node."""
    planned = planned_nodes(graphopt.load(model, min_opset=1), find_target(target))
    return [(n.planned.op_type, n.layer, n.precision, n.reason) for n in precision(model, planned).nodes]


def test_a_planned_node_is_found_in_the_graph_that_runs():
    model = qdq_conv("c = Conv<pads=[1,1,1,1]>(d, w) o = QuantizeLinear(c, s, z) y = DequantizeLinear(o, s, z)")
    assert what_became(model) == [("Conv", "QLinearConv 'n3_Conv'", "uint8", "")]


def test_a_planned_node_in_float_is_told():
    # The weight's integers make the plan; there is no QLinearConv that writes float.
    assert what_became(qdq_conv("y = Conv<pads=[1,1,1,1]>(d, w)")) == [("Conv", "Conv 'n3_Conv'", "float32", "")]


@pytest.mark.parametrize(
    ("end", "kernel"),
    [
        ("a = Add(d, d)", "QLinearAdd"),
        ("a = Mul(d, d)", "QLinearMul"),
        ("a = Sigmoid(d)", "QLinearSigmoid"),
        ("a = AveragePool<kernel_shape=[2,2], pads=[0,0,1,1]>(d)", "QLinearAveragePool"),
    ],
)
def test_other_integer_kernels(end, kernel):
    pair = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)"
    body = f"{pair} {end} o = QuantizeLinear(a, s, z) y = DequantizeLinear(o, s, z)"
    ((_, layer, kind, _),) = what_became(parse(f"g (float[1,4,8,8] x) => (float[1,4,8,8] y) {{ {body} }}", **GRID))
    assert (layer.split()[0], kind) == (kernel, "uint8")


def test_matrix_products():
    gemm = "c = Gemm(d, w) o = QuantizeLinear(c, s, z) y = DequantizeLinear(o, s, z)"
    for end, kernel in ((gemm, "QGemm"), ("y = MatMul(d, w)", "MatMulIntegerToFloat")):
        model = parse(f"g (float[1,4] x) => (float[1,4] y) {{ {DQ_INPUTS} {end} }}", qw=MATRIX, **GRID)
        ((_, layer, kind, _),) = what_became(model)
        assert (layer.split()[0], kind) == (kernel, "uint8")


def test_int8_activations_with_several_readers_have_no_kernel():
    """onnxruntime turns the others into uint8, and then the types around this Conv differ (measured)."""
    grid = GRID | {"z": np.int8(0)}
    body = f"""{DQ_INPUTS} c = Conv<pads=[1,1,1,1]>(d, w) o = QuantizeLinear(c, s, z) e = DequantizeLinear(o, s, z)
               a = Abs(d) j = Concat<axis=1>(a, e) y = Exp(j)"""
    ((_, _, kind, reason),) = what_became(
        parse(f"g (float[1,3,8,8] x) => (float[1,7,8,8] y) {{ {body} }}", qw=KERNEL, **grid)
    )
    assert kind == "float32"
    assert "int8 activations as uint8, except 'd'" in reason


def test_integer_operators_keep_their_own_type():
    model = parse(
        """g (float[1,4] x) => (float[1,4] y) {
            q = QuantizeLinear(x, s, z) o = QLinearMatMul(q, s, z, qw, s, zw, s, z) y = DequantizeLinear(o, s, z) }""",
        qw=MATRIX,
        **(GRID | {"z": np.int8(0)}),
    )
    assert what_became(model) == [("QLinearMatMul", "QLinearMatMul 'n1_QLinearMatMul'", "int8", "")]


def test_two_equal_nodes_are_found_both_though_only_one_runs():
    body = f"{DQ_INPUTS} y = Conv<pads=[1,1,1,1]>(d, w) k = Conv<pads=[1,1,1,1]>(d, w)"
    model = parse(f"g (float[1,3,8,8] x) => (float[1,4,8,8] y, float[1,4,8,8] k) {{ {body} }}", qw=KERNEL, **GRID)
    assert [kind for _, _, kind, _ in what_became(model)] == ["float32", "float32"]


def test_a_node_that_is_gone_is_unknown_and_so_not_in_8_bits():
    planned = [Planned("gone", "Conv", "gone", linear=True)]
    (found,) = precision(qdq_conv("y = Conv<pads=[1,1,1,1]>(d, w)"), planned).nodes
    assert (found.precision, found.integer) == ("unknown", False)
    assert found.reason


def test_a_model_is_run_as_it_is_written_or_optimized():
    model = parse("g (float[1,2] x) => (float[1,2] y, float[1,2] z) { y = Neg(x) z = Abs(x) }")
    x = RNG.normal(size=(2, 1, 2)).astype(np.float32)
    for optimize in (True, False):
        runs = list(run(model, [{"x": x[0]}, {"x": x[1]}], threads=1, optimize=optimize))
        assert np.array_equal(np.stack(runs), np.stack([[-a, np.abs(a)] for a in x]))
    with pytest.raises(CalibrationError, match="sample 1: onnxruntime failed"):
        list(run(model, [{"x": x[0]}, {"x": x[:, 0, :1]}]))
