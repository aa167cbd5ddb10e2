"""γ, β and ½ that an engine fuses: which patterns are seen, and that the engine finds them behind the float preset."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.analysis.fused_scales import fused_patterns
from graphopt.calibration.session import open_session
from graphopt.ir import from_proto
from graphopt.targets.onnxruntime import ONNXRUNTIME
from tests.support.rewrite import run

CONSTANTS: dict[str, object] = {
    "two": 2.0,
    "three": 3.0,
    "one": 1.0,
    "half": 0.5,
    "eps": 1e-5,
    "root2": 2**0.5,
    "over_root2": 0.5**0.5,
    "cubic": 0.044715,
    "slope": (2 / np.pi) ** 0.5,
}
CENTER = "m = ReduceMean<axes=[-1]>(h) c = Sub(h, m)"
ROOT = "v = ReduceMean<axes=[-1]>(p) e = Add(v, eps) s = Sqrt(e)"
LAYER_NORM = f"{CENTER} p = Pow(c, two) {ROOT} d = Div(c, s) g = Mul(d, gamma) n = Add(g, beta)"
RMS_NORM = f"p = Pow(h, two) {ROOT} d = Div(h, s) n = Mul(d, gamma)"
GATE = "i = Div(h, root2) f = Erf(i) a = Add(f, one)"
TANH = "q = Pow(h, three) r = Mul(q, cubic) i = Add(h, r) j = Mul(slope, i) f = Tanh(j) a = Add(f, one)"
ERF_GELU = f"{GATE} g = Mul(h, a) n = Mul(g, half)"
HALF_FIRST = f"{GATE} g = Mul(half, h) n = Mul(g, a)"
TANH_GELU = f"{TANH} g = Mul(h, half) n = Mul(g, a)"
BOTH = ["erf-gelu", "erf-gelu-div"]

# What lies between h and n, and the patterns that g or n is the scale of.
PATTERNS: dict[str, tuple[str, list[str]]] = {
    "layer norm": (LAYER_NORM, ["layer-norm", "layer-norm"]),
    "layer norm, Mul(c, c)": (LAYER_NORM.replace("Pow(c, two)", "Mul(c, c)"), []),
    "layer norm, centred twice": (
        LAYER_NORM.replace("p = Pow(c, two)", "b = Sub(h, m) p = Pow(b, two)"),
        ["layer-norm", "layer-norm"],
    ),
    "layer norm without a shift": (
        LAYER_NORM.replace("n = Add(g, beta)", "").replace("g = Mul", "n = Mul"),
        ["layer-norm"],
    ),
    "layer norm over another axis": (LAYER_NORM.replace("[-1]", "[1]"), []),
    "layer norm of something else": (LAYER_NORM.replace("Div(c, s)", "Div(h, s)"), []),
    "layer norm, its quotient read twice": (LAYER_NORM.replace("Add(g, beta)", "Add(g, d)"), []),
    "rms norm": (RMS_NORM, ["rms-norm"]),
    "rms norm, 1 / s": (RMS_NORM.replace("d = Div(h, s)", "r = Div(one, s) d = Mul(h, r)"), ["rms-norm"]),
    "rms norm, 2 / s": (RMS_NORM.replace("d = Div(h, s)", "r = Div(two, s) d = Mul(h, r)"), []),
    "rms norm, Mul(h, h)": (RMS_NORM.replace("Pow(h, two)", "Mul(h, h)"), []),
    "cube root of a mean": (RMS_NORM.replace("two", "three"), []),
    "gelu": (ERF_GELU, BOTH),
    "gelu, ½ first": (HALF_FIRST, BOTH),
    "gelu, ½ at the gate": (f"{GATE} g = Mul(a, half) n = Mul(h, g)", ["erf-gelu"]),
    "gelu, Mul by 1/√2": (ERF_GELU.replace("Div(h, root2)", "Mul(h, over_root2)"), ["erf-gelu"]),
    "gelu of something else": (ERF_GELU.replace("Div(h, root2)", "Div(x, root2)"), []),
    "gelu by a third": (ERF_GELU.replace("half", "three"), []),
    "gelu, 2 + Erf": (ERF_GELU.replace("one", "two"), []),
    "tanh gelu": (TANH_GELU, ["tanh-gelu"]),
    "tanh gelu, ½ last": (f"{TANH} g = Mul(h, a) n = Mul(g, half)", []),
}

ENGINES = {
    LAYER_NORM: "LayerNormalization",
    RMS_NORM: "SimplifiedLayerNormalization",
    ERF_GELU: "Gelu",
    HALF_FIRST: "Gelu",
    TANH_GELU: "FastGelu",
}
KERNELS = set(ENGINES.values())


def net(body: str) -> onnx.ModelProto:
    """MatMul, `body` from h to n, MatMul; tokens of 8 channels."""
    graph = f"g (float[1,6,8] x) => (float[1,6,8] y) {{ h = MatMul(x, w) {body} y = MatMul(n, u) }}"
    text = f'<ir_version: 8, opset_import: ["" : 13]> {graph}'
    parsed = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.normal(size=(8, 8)),
        "u": rng.normal(size=(8, 8)),
        "gamma": rng.uniform(0.5, 2, 8),
        "beta": rng.normal(size=8),
    }
    for name, value in {**CONSTANTS, **arrays}.items():
        parsed.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value, np.float32), name))
    return onnx.shape_inference.infer_shapes(parsed)


@pytest.mark.parametrize("name", PATTERNS)
def test_which_patterns_are_seen(name: str) -> None:
    body, expected = PATTERNS[name]
    graph = from_proto(net(body))
    found = [sorted(patterns) for node in graph.nodes if (patterns := fused_patterns(graph, node))]
    assert [p for patterns in found for p in patterns] == expected


def inner_ops(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """Operators of the graph that onnxruntime runs."""
    open_session(model, optimized_path=folder / "optimized.onnx")
    optimized = onnx.ModelProto.FromString((folder / "optimized.onnx").read_bytes())
    return Counter(n.op_type for n in optimized.graph.node)


@pytest.mark.parametrize("name", PATTERNS)
def test_the_table_says_what_onnxruntime_fuses(name: str, tmp_path: Path) -> None:
    body, expected = PATTERNS[name]
    fused = inner_ops(net(body), tmp_path)
    assert bool(KERNELS & set(fused)) == bool(ONNXRUNTIME.fused_patterns & set(expected))


@pytest.mark.parametrize("body", ENGINES)
@pytest.mark.parametrize("preset", ["float", "int8"])
def test_onnxruntime_still_fuses_them_behind_our_passes(body: str, preset: str, tmp_path: Path) -> None:
    model = net(body)
    x = np.random.default_rng(1).normal(size=(8, 1, 6, 8)).astype(np.float32)
    result = graphopt.optimize(model, target="onnxruntime", preset=preset, calibration_data={"x": x})
    assert inner_ops(result.model, tmp_path)[ENGINES[body]] == 1
    remarks = [r.message for r in result.report.remarks if r.pass_name == "fold-channel-scale"]
    assert any("onnxruntime (CPU) runs a" in message for message in remarks)


@pytest.mark.parametrize("body", ENGINES)
def test_where_no_engine_fuses_them_they_are_folded(body: str) -> None:
    model = net(body)
    result = graphopt.optimize(model, target="tflite", preset="float")
    # β becomes a bias.
    assert len(result.model.graph.node) == len(model.graph.node) - 1
    assert {"gamma", "beta", "half"}.isdisjoint(t.name for t in result.model.graph.initializer)
    x = {"x": np.random.default_rng(1).normal(size=(1, 6, 8)).astype(np.float32)}
    np.testing.assert_allclose(run(result.model, x)[0], run(model, x)[0], rtol=1e-4, atol=1e-5)


def test_without_a_target_they_stay_for_whoever_fuses_them() -> None:
    for body in ENGINES:
        assert len(graphopt.optimize(net(body), preset="float").model.graph.node) == len(net(body).graph.node)


def test_a_scale_behind_them_is_folded_all_the_same() -> None:
    model = net(f"{LAYER_NORM.replace('n = Add', 'k = Add')} n = Mul(k, three)")
    result = graphopt.optimize(model, target="onnxruntime", preset="float")
    assert [n.op_type for n in result.model.graph.node].count("Mul") == 1
    x = {"x": np.random.default_rng(1).normal(size=(1, 6, 8)).astype(np.float32)}
    np.testing.assert_allclose(run(result.model, x)[0], run(model, x)[0], rtol=1e-4, atol=1e-5)
