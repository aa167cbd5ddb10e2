import builtins

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt.backends.openvino import run, runtime_precision
from graphopt.errors import CalibrationError, UnsupportedError

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
