import builtins

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

import graphopt
from graphopt.backends.openvino import precision, run, runtime_precision
from graphopt.backends.planned import planned_nodes
from graphopt.backends.precision import Planned
from graphopt.errors import CalibrationError, UnsupportedError
from graphopt.targets import find_target
from tests.support.quantization import model as float_model
from tests.support.quantization import quantize_model

RNG = np.random.default_rng(11)


def parse(body, opset=13, **weights):
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["":{opset}]> {body}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items())
    return model


WEIGHT = RNG.normal(size=(16, 16, 3, 3)).astype(np.float32)
FLOAT = parse("g (float[1,16,8,8] x) => (float[1,16,8,8] y) { c = Conv<pads=[1,1,1,1]>(x, w) y = Relu(c) }", w=WEIGHT)
QDQ = parse(
    """g (float[1,16,8,8] x) => (float[1,16,8,8] y) {
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) w = DequantizeLinear(qw, sw, zw)
        c = Conv<pads=[1,1,1,1]>(d, w) r = Relu(c)
        o = QuantizeLinear(r, so, zo) y = DequantizeLinear(o, so, zo) }""",
    qw=np.clip(np.rint(WEIGHT / 0.04), -127, 127).astype(np.int8),
    s=np.float32(0.03),
    z=np.uint8(128),
    sw=np.float32(0.04),
    zw=np.int8(0),
    so=np.float32(0.2),
    zo=np.uint8(0),
)


def conv(model):
    (layer,) = [layer for layer in runtime_precision(model) if layer.layer_type == "Convolution"]
    return layer


def test_a_float_conv_runs_in_f32_with_relu_fused():
    layer = conv(FLOAT)
    assert (layer.precision, layer.integer, layer.original_names) == ("f32", False, ("c", "y"))


def test_a_conv_between_q_and_dq_runs_in_8_bits():
    layer = conv(QDQ)
    assert layer.integer
    assert layer.precision == "u8"
    assert layer.primitive.lower().endswith("_i8")
    assert "c" in layer.original_names


def test_it_computes_the_model():
    x = [{"x": RNG.normal(size=(1, 16, 8, 8)).astype(np.float32)} for _ in range(2)]
    want = [ReferenceEvaluator(FLOAT).run(None, feed)[0] for feed in x]
    got = [outputs[0] for outputs in run(FLOAT, x)]
    assert not np.array_equal(got[0], got[1])
    for a, b in zip(want, got, strict=True):
        assert np.allclose(a, b, rtol=1e-4, atol=1e-4)


def test_errors_are_one_line(tmp_path):
    alien = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["com.acme":1]> g (float[1] x) => (float[1] y) { y = com.acme.Warp(x) }'
    )
    with pytest.raises(UnsupportedError, match=r"com\.acme\.Warp") as error:
        runtime_precision(alien)
    assert "\n" not in str(error.value)
    (tmp_path / "m.onnx").write_text("hello")
    with pytest.raises(UnsupportedError, match="OpenVINO can't compile"):
        runtime_precision(tmp_path / "m.onnx")
    with pytest.raises(CalibrationError, match="sample 0: OpenVINO failed"):
        list(run(FLOAT, [{"x": np.ones((1, 3, 8, 8), np.float32)}]))


def test_a_missing_package_names_the_mend(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "openvino":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UnsupportedError, match=r"pip install 'graphopt\[openvino\]'"):
        runtime_precision(FLOAT)


PAIR = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) w = DequantizeLinear(qw, sw, zw)"
STORED = {
    "qw": np.clip(np.rint(WEIGHT / 0.04), -127, 127).astype(np.int8),
    "s": np.float32(0.03),
    "z": np.uint8(128),
    "sw": np.float32(0.04),
    "zw": np.int8(0),
}


def what_became(model):
    """(operator, layer, precision, reason) of each planned node."""
    planned = planned_nodes(graphopt.load(model, min_opset=1), find_target("openvino"))
    return [(n.planned.op_type, n.layer, n.precision, n.reason) for n in precision(model, planned).nodes]


def image(body, named=True, **weights):
    model = parse(f"g (float[1,16,8,8] x) => (float[1,16,8,8] y) {{ {PAIR} {body} }}", **STORED, **weights)
    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}_{node.op_type}" if named else ""
    return model


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_a_convolution_is_found_with_its_bias_and_without_a_name(bias, named):
    model = image(
        f"c = Conv<pads=[1,1,1,1]>(d, w{', b' if bias else ''}) y = Relu(c)", named, b=np.ones(16, np.float32)
    )
    assert what_became(model) == [("Conv", f"Convolution '{'n3_Conv' if named else 'c'}'", "uint8", "")]


def test_a_residual_add_runs_in_the_convolution_that_it_was_fused_into():
    body = """f = Conv<pads=[1,1,1,1]>(x, w) s = Relu(f) c = Conv<pads=[1,1,1,1]>(s, v) r = Relu(c)
              e = Conv<pads=[1,1,1,1]>(r, u) a = Add(e, s) t = Relu(a) y = Conv<pads=[1,1,1,1]>(t, w)"""
    shape = (8, 8, 3, 3)
    # With a fixed batch OpenVINO makes a layer of its own of it, which computes with integers all the same.
    source = float_model(body, "float[N,8,12,12] x", "float[A,B,C,D] y", w=shape, v=shape, u=shape)
    layers = [(operator, layer) for operator, layer, _, _ in what_became(quantize_model(source, "openvino").after)]
    convolutions = [layer for operator, layer in layers if operator == "Conv"]
    assert [operator for operator, _ in layers] == ["Conv", "Conv", "Conv", "Add", "Conv"]
    assert layers[3] == ("Add", convolutions[2])


def test_a_weight_with_a_zero_point_makes_the_layer_float():
    model = image("c = Conv<pads=[1,1,1,1]>(d, w) y = Abs(c)")
    zero = next(i for i in model.graph.initializer if i.name == "zw")
    zero.CopyFrom(numpy_helper.from_array(np.int8(3), "zw"))
    ((_, layer, kind, _),) = what_became(model)
    assert (layer, kind) == ("Convolution 'n3_Conv'", "float32")


def test_what_shares_a_float_layer_is_told():
    body = """e = Exp(d) f = Mul(e, d) g = QuantizeLinear(f, s, z) h = DequantizeLinear(g, s, z)
              a = Add(h, d) y = Exp(a)"""
    ((operator, _, kind, reason),) = what_became(image(body))
    assert (operator, kind) == ("Add", "float32")
    assert reason.startswith("it runs in one layer with 'n")


def test_matrix_products_are_found():
    """OpenVINO splits a product's scale off, and calls the product by the scale."""
    matrix = RNG.integers(-100, 100, (8, 8)).astype(np.int8)
    stored = {k: v for k, v in STORED.items() if k != "qw"}
    for end, operator in (("y = Gemm(d, w, b)", "Gemm"), ("m = MatMul(d, w) y = Add(m, b)", "MatMul")):
        model = parse(
            f"g (float[N,8] x) => (float[N,8] y) {{ {PAIR} {end} }}", qw=matrix, b=np.ones(8, np.float32), **stored
        )
        ((op, layer, kind, _),) = what_became(model)
        assert (op, layer.split()[0], kind) == (operator, "FullyConnected", "uint8")


def test_a_node_that_is_gone_is_unknown_and_so_not_in_8_bits():
    (found,) = precision(QDQ, [Planned("gone", "Conv", "gone", linear=True)]).nodes
    assert (found.precision, found.integer) == ("unknown", False)
    assert found.reason


def test_a_batch_norm_that_openvino_puts_into_the_layer_before_does_not_hide_it() -> None:
    """Other tools leave BatchNormalization in their Q/DQ models; the layer has its name, not the convolution's."""
    constants = dict.fromkeys(("g", "h", "m", "s"), (8,))
    body = "c = Conv<pads=[1,1,1,1]>(x, w)\n n = BatchNormalization(c, g, h, m, s)\n r = Relu(n)\n y = Conv(r, v)"
    source = float_model(body, "float[N,8,12,12] x", "float[A,B,C,D] y", w=(8, 8, 3, 3), v=(8, 8, 1, 1), **constants)
    for stored in source.graph.initializer:
        if stored.name == "s":  # variances
            stored.CopyFrom(numpy_helper.from_array(np.full(8, 0.5, np.float32), "s"))
    found = what_became(quantize_model(source, "openvino").after)
    assert [(operator, kind) for operator, _, kind, _ in found] == [("Conv", "uint8"), ("Conv", "uint8")]
    assert all(layer.startswith("Convolution ") for _, layer, _, _ in found)


@pytest.mark.parametrize("mean", ["GlobalAveragePool(t)", "ReduceMean<axes=[2]>(t)"])
def test_a_mean_behind_a_transpose_is_found_under_the_name_that_openvino_gives_it(mean: str) -> None:
    body = f"c = MatMul(x, w) t = Transpose<perm=[0,2,1]>(c) m = {mean} f = Flatten(m) y = Gemm(f, v)"
    source = float_model(body, "float[N,16,8] x", "float[N,5] y", w=(8, 8), v=(8, 5))
    found = what_became(quantize_model(source, "openvino").after)
    assert [(op, layer.split()[0], kind) for op, layer, kind, _ in found] == [
        ("MatMul", "FullyConnected", "uint8"),
        (mean.split("<")[0].split("(")[0], "Reduce", "uint8"),
        ("Gemm", "FullyConnected", "uint8"),
    ]
