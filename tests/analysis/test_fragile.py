"""What planning leaves in float because of the graph alone, and its near misses."""

from __future__ import annotations

import onnx
import pytest

from graphopt.analysis.fragile import fragile
from graphopt.ir import from_proto
from graphopt.targets import TARGETS, find_target
from tests.support.quantization import model, plan_of

SQUARE = {"w": (8, 8), "v": (8, 8)}


def ops(body: str, target: str = "tflite", inputs: str = "float[2,4,8] x", **shapes: tuple[int, ...]) -> list[str]:
    """Operators of the fragile nodes, in graph order."""
    source = model(body, inputs, "float[A,B,C] y", **(shapes or SQUARE))
    return [node.op for node in fragile(from_proto(source), find_target(target))]


NORMALIZATION = """h = MatMul(x, w)
    m = ReduceMean<axes=[-1]>(h) c = Sub(h, m)
    two = Constant<value_float=2.0>() p = Pow(c, two) var = ReduceMean<axes=[-1]>(p)
    eps = Constant<value_float=0.00001>() e = Add(var, eps) s = Sqrt(e) d = Div(c, s)
    g = Mul(d, gamma) n = Add(g, beta)
    y = MatMul(n, v)"""
NORM = {**SQUARE, "gamma": (8,), "beta": (8,)}


def test_a_decomposed_layer_norm_is_float_and_quantized_once_behind() -> None:
    assert ops(NORMALIZATION, **NORM) == ["ReduceMean", "Sub", "ReduceMean", "Add", "Mul", "Add"]
    graph, _ = plan_of(model(NORMALIZATION, "float[2,4,8] x", "float[2,4,8] y", **NORM), "tflite")
    assert [e.tensor for e in graph.plan if e.reason != "weight"] == ["x", "h", "n", "y"]


@pytest.mark.parametrize("target", TARGETS)
def test_the_products_around_a_layer_norm_run_in_integers(target: str) -> None:
    graph, _ = plan_of(model(NORMALIZATION, "float[2,4,8] x", "float[2,4,8] y", **NORM), target)
    assert sorted(n.op for n in graph.nodes if n.name in graph.plan.quantized_nodes) == ["MatMul", "MatMul"]


def test_a_difference_of_something_else_is_quantized() -> None:
    body = "h = MatMul(x, w) m = ReduceMean<axes=[-1]>(x) c = Sub(h, m) y = MatMul(c, v)"
    assert ops(body) == []


GELU = """h = MatMul(x, w)
    r = Constant<value_float=1.4142135>() q = Div(h, r) e = Erf(q)
    one = Constant<value_float=1.0>() a = Add(e, one) m = Mul(h, a)
    y = MatMul(m, v)"""


@pytest.mark.parametrize("target", ["onnxruntime", "tflite"])
def test_gelu_is_float_and_quantized_once_behind(target: str) -> None:
    assert ops(GELU, target) == ["Add", "Mul"]
    graph, _ = plan_of(model(GELU, "float[2,4,8] x", "float[2,4,8] y", **SQUARE), target)
    assert {e.tensor for e in graph.plan if e.reason != "weight"} - {"h", "y"} == {"x", "m"}


@pytest.mark.parametrize("target", ["onnxruntime", "tflite"])
@pytest.mark.parametrize(
    "gate",
    [
        "g = Sigmoid(h)",  # has an integer kernel
        "p = ReduceMean<axes=[-1]>(h) k = MatMul(x, v) g = Add(k, p)",  # not computed from h alone
    ],
)
def test_other_gates_are_quantized(target: str, gate: str) -> None:
    assert "Mul" not in ops(f"h = MatMul(x, w)\n{gate}\nm = Mul(h, g) y = MatMul(m, v)", target)


@pytest.mark.parametrize("mask", ["s = Add(h, mask)", "z = Sub(one, mask) big = Mul(z, lots) s = Add(h, big)"])
def test_masked_scores_are_float(mask: str) -> None:
    body = f"""h = MatMul(x, w) one = Constant<value_float=1.0>() lots = Constant<value_float=-1000000000.0>()
        {mask} p = Softmax(s) y = MatMul(p, v)"""
    found = ops(body, inputs="float[2,4,8] x, float[1,1,8] mask")
    assert found == [*(["Sub", "Mul"] if "big" in mask else []), "Add", "Softmax"]
    graph, _ = plan_of(model(body, "float[2,4,8] x, float[1,1,8] mask", "float[2,4,8] y", **SQUARE), "tflite")
    assert not {"mask", "z", "big", "s"} & set(graph.plan.tensors)


def test_a_classifiers_bias_before_its_softmax_is_no_mask() -> None:
    assert ops("h = MatMul(x, w) b = Add(h, beta) p = Softmax(b) y = MatMul(p, v)", **NORM) == []


@pytest.mark.parametrize("end", ["Log", "Sqrt", "Reciprocal"])
def test_what_leads_to_a_logarithm_alone_is_float(end: str) -> None:
    body = f"h = MatMul(x, w) s = Mul(h, h) a = Add(s, x) r = {end}(a) y = MatMul(r, v)"
    assert ops(body) == ["Mul", "Add"]


def test_a_denominator_is_float_and_a_numerator_is_not() -> None:
    body = "h = MatMul(x, w) n = Add(h, x) d = Mul(h, x) r = Div(n, d) y = MatMul(r, v)"
    assert ops(body) == ["Mul"]


def test_what_is_read_elsewhere_too_is_not_given_up_for_a_logarithm() -> None:
    body = "h = MatMul(x, w) a = Add(h, x) r = Log(a) k = MatMul(a, w) y = MatMul(r, v) z = Add(y, k)"
    source = model(body, "float[2,4,8] x", "float[2,4,8] z", **SQUARE)
    assert [n.outputs[0].name for n in fragile(from_proto(source), find_target("tflite"))] == []


def test_values_that_are_compared_are_float() -> None:
    body = "h = MatMul(x, w) s = Sigmoid(h) b = Equal(s, x) c = Cast<to=1>(b) y = MatMul(c, v)"
    assert ops(body) == ["Sigmoid"]


@pytest.mark.parametrize("target", TARGETS)
def test_an_embedding_is_looked_up_in_float(target: str) -> None:
    body = "e = Gather(table, ids) a = Add(e, position) n = LayerNormalization(a, gamma, beta) y = MatMul(n, w)"
    source = onnx.version_converter.convert_version(
        model(
            body.replace("LayerNormalization(a, gamma, beta)", "Add(a, beta)"), "int64[2,4] ids", "float[2,4,8] y",
            table=(100, 8), position=(4, 8), beta=(8,), w=(8, 8),
        ),
        17,
    )  # fmt: skip
    graph, _ = plan_of(source, target)
    if target != "tflite":  # there the table itself is stored in 8 bits
        assert {e.tensor for e in graph.plan} <= {"n", "w", "y"}
    assert "ids" not in graph.plan.tensors


def test_the_user_hears_why_and_only_where_integers_were_wanted() -> None:
    _, remarks = plan_of(model(NORMALIZATION, "float[2,4,8] x", "float[2,4,8] y", **NORM), "tflite")
    said = [r.message for r in remarks.items if r.kind == "declined"]
    assert any("takes the mean away" in message for message in said)
    _, remarks = plan_of(model(NORMALIZATION, "float[2,4,8] x", "float[2,4,8] y", **NORM), "tensorrt")
    assert not any(r.kind == "declined" and r.op in ("ReduceMean", "Sub") for r in remarks.items)
