import os

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt.calibration import Dataset, collect, input_specs, load_dataset, session
from graphopt.errors import CalibrationError, UnsupportedError


def parse(body, opset=13, ir=8, **weights):
    model = onnx.parser.parse_model(f'<ir_version: {ir}, opset_import: ["":{opset}]> {body}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items())
    return model


def observe(model, tensors, stacked, **options):
    return collect(model, tensors, load_dataset(stacked, input_specs(model)), **options)


def results(model):
    return [name for node in model.graph.node if node.op_type != "Constant" for name in node.output]


def ranges_by_reference(model, tensors, stacked):
    """Extremes from onnx's own evaluator with every tensor as an output."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    evaluator = ReferenceEvaluator(copy)
    values = {name: [] for name in tensors}
    for feed in load_dataset(stacked, input_specs(model)):
        for name, value in zip(tensors, evaluator.run(None, feed), strict=True):
            values[name].append(np.asarray(value, np.float64).reshape(-1))
    return {name: (np.concatenate(v).min(), np.concatenate(v).max()) for name, v in values.items()}


RNG = np.random.default_rng(7)
NET = parse(
    """g (float[1,3,9,9] x) => (float[1,5] y) {
        c = Conv<pads=[1,1,1,1]>(x, w1)
        b = BatchNormalization(c, gamma, beta, mean, var)
        r = Relu(b)
        p = MaxPool<kernel_shape=[3,3], strides=[2,2]>(r)
        d = Conv<group=8>(p, w2)
        p2 = LeakyRelu<alpha=0.1>(d)
        a = Add(p, p2)
        f = GlobalAveragePool(a)
        s = Flatten(f)
        l = Gemm(s, w3)
        y = Softmax(l)
    }""",
    opset=15,  # onnx.reference runs BatchNormalization before 14 in training mode
    w1=RNG.normal(size=(8, 3, 3, 3)).astype(np.float32),
    w2=RNG.normal(size=(8, 1, 1, 1)).astype(np.float32),
    w3=RNG.normal(size=(8, 5)).astype(np.float32),
    gamma=RNG.uniform(0.5, 2, 8).astype(np.float32),
    beta=RNG.normal(size=8).astype(np.float32),
    mean=RNG.normal(size=8).astype(np.float32),
    var=RNG.uniform(0.5, 2, 8).astype(np.float32),
)
SAMPLES = {"x": RNG.normal(size=(6, 3, 9, 9)).astype(np.float32)}


def test_every_tensor_agrees_with_the_reference_evaluator():
    names = ["x", *results(NET)]
    before = NET.SerializeToString(deterministic=True)
    got = observe(NET, names, SAMPLES)
    assert list(got) == names
    for name, (low, high) in ranges_by_reference(NET, names, SAMPLES).items():
        assert (got[name].low, got[name].high) == pytest.approx((low, high), rel=1e-5, abs=1e-6), name
    assert NET.SerializeToString(deterministic=True) == before


def test_the_same_bits_each_run_and_whatever_else_is_observed():
    names = ["x", *results(NET)]
    first = observe(NET, names, SAMPLES)
    assert observe(NET, names, SAMPLES) == first
    backwards = {"x": SAMPLES["x"][::-1]}
    assert observe(NET, names, backwards) == first


def test_an_input_is_observed_exactly():
    got = observe(NET, ["x"], SAMPLES)["x"]
    assert (got.low, got.high) == (float(SAMPLES["x"].min()), float(SAMPLES["x"].max()))


@pytest.mark.parametrize("opset", [7, 11, 12, 13, 17, 18, 20, 22])
def test_opsets(opset):
    model = parse("g (float[2,3] x) => (float[2,3] y) { h = Neg(x) y = Sigmoid(h) }", opset)
    x = RNG.normal(size=(4, 2, 3)).astype(np.float32)
    got = observe(model, ["h", "x"], {"x": x})
    assert (got["h"].low, got["h"].high) == (-got["x"].high, -got["x"].low) == (float((-x).min()), float((-x).max()))


@pytest.mark.parametrize("opset", [11, 13, 20])
@pytest.mark.parametrize(
    ("onnx_type", "values"),
    [
        ("float16", np.array([[-65504, 3], [65504, 65504]], np.float16)),
        ("double", np.array([[1e300, -1e-300], [0, 1]])),
        ("int8", np.array([[-128, 127], [0, 1]], np.int8)),
        ("uint8", np.array([[3, 255], [7, 9]], np.uint8)),
        ("int32", np.array([[-(2**31), 2**31 - 1], [0, 1]], np.int32)),
        ("int64", np.array([[2**53 - 1, -(2**53) + 1], [0, 1]], np.int64)),
        ("bool", np.array([[True, False], [True, True]])),
    ],
)
def test_types_are_reduced_exactly(opset, onnx_type, values):
    model = parse(f"g ({onnx_type}[1,2] x) => ({onnx_type}[2] y) {{ y = Reshape(x, s) }}", opset, s=np.array([2]))
    got = observe(model, ["x", "y"], {"x": values})
    for name in ("x", "y"):
        assert (got[name].low, got[name].high) == (float(values.min()), float(values.max()))


def test_bfloat16_activations():
    model = parse("g (float[1,2] x) => (float[1,2] y) { h = Cast<to=16>(x) y = Cast<to=1>(h) }")
    got = observe(model, ["h"], {"x": np.array([[1.5, -3.0]], np.float32)})["h"]
    assert (got.low, got.high) == (-3.0, 1.5)


def test_tensors_without_elements_are_skipped():
    model = parse("g (float[N,3] x) => (int64[2,M] y) { y = NonZero(x) }")
    x = np.zeros((3, 1, 3), np.float32)
    assert observe(model, ["y"], {"x": x})["y"].is_empty
    x[1, 0, 2] = 1
    got = observe(model, ["y"], {"x": x})["y"]
    assert (got.low, got.high) == (0, 2)


@pytest.mark.parametrize("position", [0, 1, 51, 4095])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_traced_to_its_origin(position, value):
    """Relu and the reductions can hide NaN: it has to be found where it arises."""
    model = parse(
        "g (float[4096] x) => (float[4096] y) { h = Div(x, x) k = Mul(h, big) r = Relu(k) y = Neg(r) }",
        big=np.ones(4096, np.float32),
    )
    factors = np.ones(4096, np.float32)
    factors[position] = value
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(factors, "big"))
    model.graph.node[1].name = "scale"
    with pytest.raises(CalibrationError, match=r"sample 0: tensor 'k' \(made by Mul node 'scale'\) holds") as error:
        observe(model, ["y", "r", "k", "h", "x"], {"x": np.full((2, 4096), 2, np.float32)})
    assert ("NaN" in str(error.value)) == bool(np.isnan(value))


def test_a_sum_that_overflows_is_no_error():
    model = parse("g (float[1,4] x) => (float[1,4] y) { y = Identity(x) }")
    got = observe(model, ["x"], {"x": np.full((1, 4), 3e38, np.float32)})["x"]
    assert got.low == got.high == float(np.float32(3e38))


def test_the_failing_sample_is_named():
    model = parse("g (float[1,2] x) => (float[1,2] y) { y = Log(x) }")
    x = np.ones((3, 2), np.float32)
    x[2, 0] = 0
    with pytest.raises(CalibrationError, match=r"sample 2: tensor 'y' .*\[-inf, 0.0\]"):
        observe(model, ["y"], {"x": x})


IF = """g (float[2] x, bool c) => (float[2] y) {
    y = If<then_branch = t () => (float[2] a) { inner = Neg(x) a = Neg(inner) },
           else_branch = e () => (float[2] b) { b = Abs(x) }>(c)
}"""


def test_tensors_that_cannot_be_observed():
    model = parse(IF)
    model.graph.node[0].name = "choose"
    stacked = {"x": np.ones((1, 2), np.float32), "c": np.array([True])}
    with pytest.raises(CalibrationError, match="'inner' is made inside a subgraph of If node 'choose'"):
        observe(model, ["y", "inner"], stacked)
    assert observe(model, ["y"], stacked)["y"].high == 1
    with pytest.raises(CalibrationError, match="no tensor 'p22': did you mean 'p2'"):
        observe(NET, ["p22"], SAMPLES)
    with pytest.raises(CalibrationError, match="'w1' is a constant"):
        observe(NET, ["w1"], SAMPLES)
    text = parse("g (string[1] x) => (string[1] y) { y = Identity(x) }")
    with pytest.raises(CalibrationError, match=r"'y' is a tensor\(string\)"):
        observe(text, ["y"], {"x": np.array([["a"]])})


def test_constant_nodes_are_not_observed():
    model = parse("g (float[1] x) => (float[1] y) { k = Constant<value_float=2.0>() y = Mul(x, k) }")
    with pytest.raises(CalibrationError, match="'k' is a constant"):
        observe(model, ["k"], {"x": np.ones((1, 1), np.float32)})


def test_nothing_to_observe_runs_nothing():
    def never():
        raise AssertionError("the data was read")

    assert collect(NET, [], Dataset(never, name="d")) == {}


def test_names_in_the_model_never_collide():
    model = parse("g (float[1] x) => (float[1] y) { observed_0_low = Neg(x) y = Neg(observed_0_low) }")
    got = observe(model, ["x", "observed_0_low", "y"], {"x": np.array([[3.0]], np.float32)})
    assert [s.low for s in got.values()] == [3, -3, 3]


def test_a_model_without_standard_operators():
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["com.microsoft":1]>
        g (float[1,4] x) => (float[1,4] y) { y = com.microsoft.Gelu(x) }"""
    )
    assert observe(model, ["y"], {"x": np.full((1, 4), 10, np.float32)})["y"].high == pytest.approx(10)


def test_types_behind_operators_that_onnx_does_not_know():
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["":13, "com.microsoft":1]>
        g (double[1,2] x) => (double[1,2] y) {
            f = Cast<to=1>(x) c = com.microsoft.Gelu(f) d = Cast<to=11>(c) y = Neg(d) }"""
    )
    got = observe(model, ["c", "d", "y"], {"x": np.array([[10.0, 20.0]])})
    assert [(round(s.low), round(s.high)) for s in got.values()] == [(10, 20), (10, 20), (-20, -10)]


def test_progress_counts_samples():
    calls = []
    observe(NET, ["r"], SAMPLES, progress=lambda done, total: calls.append((done, total)), threads=1)
    assert calls == [(i, 6) for i in range(1, 7)]


def test_a_model_that_cannot_be_loaded_and_a_sample_that_cannot_be_run():
    alien = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["com.acme":1]> g (float[1] x) => (float[1] y) { y = com.acme.Warp(x) }'
    )
    with pytest.raises(UnsupportedError, match=r"com\.acme:Warp") as error:
        observe(alien, ["x"], {"x": np.ones((1, 1), np.float32)})
    assert "\n" not in str(error.value)
    model = parse("g (float[N] x, float[M] z) => (float[?] y) { y = Add(x, z) }")
    with pytest.raises(CalibrationError, match="sample 0: onnxruntime failed") as error:
        observe(model, ["y"], [{"x": np.ones(2, np.float32), "z": np.ones(3, np.float32)}])
    assert "\n" not in str(error.value)


def test_weights_beyond_protobuf_s_limit_go_through_files(monkeypatch):
    monkeypatch.setattr(session, "MAX_INLINE_BYTES", 16)
    # Above onnx's threshold for external data, so that a file is really written.
    weight = RNG.normal(size=(64, 64)).astype(np.float32)
    model = parse("g (float[1,64] x) => (float[1,64] y) { y = MatMul(x, w) }", w=weight)
    x = np.ones((1, 64), np.float32)
    got = observe(model, ["y"], {"x": x})["y"]
    assert (got.low, got.high) == pytest.approx(((x @ weight).min(), (x @ weight).max()), rel=1e-5)
    assert model.graph.initializer[0].data_location == TensorProto.DEFAULT


@pytest.mark.parametrize("limit", [1 << 30, 0])
def test_external_data_is_found_in_the_base_folder(tmp_path, monkeypatch, limit):
    weight = RNG.normal(size=(64, 64)).astype(np.float32)
    model = parse("g (float[1,64] x) => (float[1,64] y) { y = MatMul(x, w) }", w=weight)
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin")
    light = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    light.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "unused"))
    monkeypatch.setattr(session, "MAX_INLINE_BYTES", limit)
    x = np.ones((1, 64), np.float32)
    got = observe(light, ["y"], {"x": x}, base_dir=tmp_path)["y"]
    assert got.high == pytest.approx((x @ weight).max(), rel=1e-5)


def test_overridable_initializers_are_not_fed():
    model = parse("g (float[2] x, float[2] w) => (float[2] y) { y = Mul(x, w) }", ir=3, opset=7, w=np.float32([2, 3]))
    assert [spec.name for spec in input_specs(model)] == ["x"]
    assert observe(model, ["y"], {"x": np.ones((1, 2), np.float32)})["y"].high == 3


@pytest.mark.skipif("GRAPHOPT_ZOO" not in os.environ, reason="needs the models that GRAPHOPT_ZOO points at")
def test_real_models_agree_with_fetching_every_tensor(tmp_path, monkeypatch):
    """Every float tensor of real models, against plain sessions without any rewriting by onnxruntime."""
    monkeypatch.syspath_prepend(os.environ["GRAPHOPT_ZOO"])
    zoo = __import__("zoo")
    for entry in zoo.models():
        if entry.path.stat().st_size > 1_500_000:
            continue
        model = onnx.load(entry.path)
        samples = entry.calibration(2)
        arrays = {k: [f[k] for f in samples] for k in samples[0]}
        np.savez(tmp_path / "d.npz", **{k: np.concatenate(v) if v[0].ndim else np.stack(v) for k, v in arrays.items()})
        dataset = load_dataset(tmp_path / "d.npz", input_specs(model))
        for given, read in zip(samples, dataset, strict=True):
            assert {k: (v.shape, v.dtype, v.tobytes()) for k, v in given.items()} == {
                k: (v.shape, v.dtype, v.tobytes()) for k, v in read.items()
            }
        fetched = onnx.ModelProto()
        fetched.CopyFrom(model)
        del fetched.graph.output[:]
        constant = {tensor.name for tensor in model.graph.initializer}
        names = [name for name in results(model) if name and name not in constant]
        fetched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        plain = session.open_session(fetched, optimize=False)
        runs = [plain.run(names, feed) for feed in dataset]
        got = collect(model, names, dataset)
        for position, name in enumerate(names):
            values = np.concatenate([np.asarray(run[position], np.float64).reshape(-1) for run in runs])
            if not values.size:
                assert got[name].is_empty
                continue
            tolerance = 1e-4 * max(1e-3, np.abs(values).max())
            assert abs(got[name].low - values.min()) <= tolerance, (entry.name, name)
            assert abs(got[name].high - values.max()) <= tolerance, (entry.name, name)
