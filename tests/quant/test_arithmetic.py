"""Scale, zero point and rounding, against onnx's reference evaluator and against the definition."""

import numpy as np
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from graphopt.quant import Range, Scheme, dequantize, quantize, solve_params

SCHEMES = [
    Scheme("uint8"),
    Scheme("int8"),
    Scheme("int8", symmetric=True),
    Scheme("int8", symmetric=True, narrow=True),
    Scheme("uint8", symmetric=True),
]

finite = st.floats(-1e4, 1e4, width=32)


@given(low=finite, high=finite, scheme=st.sampled_from(SCHEMES))
def test_zero_is_exact_and_the_range_is_covered(low: float, high: float, scheme: Scheme) -> None:
    low, high = min(low, high), max(low, high)
    params = solve_params(Range.of(low, high), scheme)
    assert params.scale.shape == () == params.zero_point.shape
    assert params.scale.dtype == np.float32
    assert dequantize(quantize(np.zeros(1), params), params)[0] == 0
    ends = np.array([min(low, 0), max(high, 0)])
    # Half a step of rounding at the zero point, half a step of rounding the value.
    assert np.all(np.abs(dequantize(quantize(ends, params), params) - ends) <= 1.01 * params.scale + 1e-12)


@given(st.floats(0.01, 100), st.sampled_from(SCHEMES))
def test_values_inside_the_range_are_off_by_half_a_step(bound: float, scheme: Scheme) -> None:
    params = solve_params(Range.of(-bound, bound), scheme)
    values = np.linspace(-bound, bound, 97) * 0.98
    assert np.abs(dequantize(quantize(values, params), params) - values).max() <= 0.501 * params.scale


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_same_integers_as_the_onnx_reference(scheme: Scheme) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=1000).astype(np.float32) * 3
    params = solve_params(Range.of(-2.5, 4.0), scheme)
    text = f"""<ir_version: 9, opset_import: ["" : 19]>
    g (float[N] x, float s, {scheme.dtype} z) => ({scheme.dtype}[N] q, float[N] y) {{
        q = QuantizeLinear(x, s, z)
        y = DequantizeLinear(q, s, z)
    }}"""
    feeds = {"x": values, "s": params.scale, "z": params.zero_point}
    q, y = ReferenceEvaluator(onnx.parser.parse_model(text)).run(None, feeds)
    if scheme.narrow:
        q = np.maximum(q, scheme.qmin)
        y = np.maximum(y, np.float32(scheme.qmin) * params.scale)
    np.testing.assert_array_equal(quantize(values, params), q)
    np.testing.assert_array_equal(dequantize(quantize(values, params), params), y)


def test_per_channel_uses_its_axis() -> None:
    values = np.array([[1.0, -10.0, 0.0], [0.5, 20.0, 0.0]])
    scheme = Scheme("int8", symmetric=True, channel_axis=1, narrow=True)
    params = solve_params(Range(values.min(axis=0), values.max(axis=0)), scheme)
    assert params.scale.shape == (3,)
    np.testing.assert_array_equal(quantize(values, params), [[127, -64, 0], [64, 127, 0]])


def test_an_all_zero_channel_gives_zeros_and_a_normal_scale() -> None:
    params = solve_params(Range.of(0, 0), Scheme("uint8"))
    assert params.scale > np.finfo(np.float32).tiny
    assert dequantize(quantize(np.zeros(3), params), params).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("scale", "zero_point"), [(1 / 256, -128), (1 / 128, 0)])
def test_prescribed_outputs_come_back_exactly(scale: float, zero_point: int) -> None:
    # TFLite's Softmax/Logistic and Tanh: the range that stands for them must solve to them.
    scheme = Scheme("int8")
    wanted = Range.of((scheme.qmin - zero_point) * scale, (scheme.qmax - zero_point) * scale)
    params = solve_params(wanted, scheme)
    assert float(params.scale) == scale
    assert int(params.zero_point) == zero_point


@settings(max_examples=30)
@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=5))
def test_union_covers_every_member(bounds: list[tuple[float, float]]) -> None:
    ranges = [Range.of(min(b), max(b)) for b in bounds]
    union = ranges[0]
    for other in ranges[1:]:
        union = union.union(other)
    assert union.low == min(r.low for r in ranges)
    assert union.high == max(r.high for r in ranges)


@pytest.mark.parametrize("bad", [(1.0, 0.0), (np.nan, 1.0), (0.0, np.inf)])
def test_a_range_is_finite_and_ordered(bad: tuple[float, float]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # three different messages, each named by its case
        Range.of(*bad)
