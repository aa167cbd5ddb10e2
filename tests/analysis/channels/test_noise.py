"""The expected noise: its terms against simulated rounding, its gradient against differences, its minimum by search."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphopt.analysis.channels.flow import channel_flow
from graphopt.analysis.channels.noise import GridTerm, WeightTerm, expected_noise, least_noise, separate
from graphopt.analysis.noise_gain import find_ends, noise_gains, weight_blocks
from graphopt.ir import from_proto
from tests.passes.test_equalize_channels import build, noise
from tests.support.rewrite import run

RNG = np.random.default_rng(0)


def grid(symmetric: bool = False) -> GridTerm:
    return GridTerm(
        np.array([0, 1, 2, 2, 3]), RNG.uniform(0.1, 5, 5), RNG.uniform(0, 2, 5), RNG.uniform(0.1, 1, 5), symmetric, 255
    )


def weight() -> WeightTerm:
    classes = np.array([[0, 1, 2], [3, 1, 2]])
    return WeightTerm(
        classes, RNG.uniform(0.1, 3, (2, 4, 3)), RNG.uniform(0.1, 3, (2, 3)), RNG.uniform(0, 1, (2, 4)), 127
    )


@pytest.mark.parametrize("term", [grid(), grid(symmetric=True), weight()], ids=["grid", "symmetric grid", "weight"])
@pytest.mark.parametrize("sharpness", [8.0, 32.0])
def test_gradients_are_those_of_the_noise(term: GridTerm | WeightTerm, sharpness: float) -> None:
    u, gradient = RNG.normal(size=4), np.zeros(4)
    noise_at = term.at(sharpness)
    noise_at(u, gradient)
    for c in range(4):
        step = np.zeros(4)
        step[c] = 1e-5
        difference = noise_at(u + step, np.zeros(4)) - noise_at(u - step, np.zeros(4))
        assert gradient[c] == pytest.approx(difference / 2e-5, rel=1e-5)


def test_the_noise_of_a_grid_is_that_of_rounding() -> None:
    values = RNG.uniform(0, 1, (3, 40_000)) * np.array([[4.0], [1.0], [0.25]])
    gain, step = np.array([1.0, 2.0, 3.0]), 4.0 / 255
    errors = np.rint(values / step) * step - values
    term = GridTerm(np.array([1, 2, 3]), np.array([4.0, 1, 0.25]), np.zeros(3), gain, False, 255)
    assert expected_noise([term], np.zeros(4)) == pytest.approx((gain * (errors**2).mean(axis=1)).sum(), rel=0.02)


def test_the_noise_of_a_weight_is_that_of_rounding() -> None:
    inputs, outputs, samples = 8, 200, 500
    w = RNG.normal(size=(outputs, inputs))
    x = RNG.normal(size=(inputs, samples)) * np.linspace(0.2, 2, inputs)[:, None]
    steps = np.abs(w).max(axis=1, keepdims=True) / 127
    errors = (np.rint(w / steps) * steps - w) @ x
    term = WeightTerm(
        np.arange(1, inputs + 1)[None], np.abs(w)[None], (x**2).mean(axis=1)[None], np.ones((1, outputs)), 127
    )
    simulated = (errors**2).mean(axis=1).sum()
    assert expected_noise([term], np.zeros(inputs + 1)) == pytest.approx(simulated, rel=0.2)


def test_the_least_noise_is_found() -> None:
    terms = [grid(), weight()]
    found = least_noise(terms, 4, 10.0)
    least = expected_noise(terms, found)
    axes = np.linspace(-3, 3, 13)
    around = np.stack(np.meshgrid([0.0], axes, axes, axes, indexing="ij"), -1).reshape(-1, 4)
    assert found[0] == 0
    assert least <= min(expected_noise(terms, u) for u in around) * 1.001
    assert (
        least
        <= min(expected_noise(terms, found + 0.05 * step * (np.arange(4) > 0)) for step in RNG.normal(size=(50, 4)))
        * 1.001
    )


def test_scales_stay_within_the_limit() -> None:
    term = GridTerm(np.array([1, 2]), np.array([1e6, 1e-6]), np.zeros(2), np.ones(2), False, 255)
    assert np.abs(least_noise([term], 3, np.log(16.0))).max() <= np.log(16.0) + 1e-12


def test_terms_without_a_class_in_common_are_apart() -> None:
    def of(*classes: int) -> GridTerm:
        ones = np.ones(len(classes))
        return GridTerm(np.array(classes), ones, ones, ones, False, 255)

    parts = separate([of(0, 5), of(2, 3), of(0), of(3, 4)])
    assert sorted(tuple(p.classes.tolist()) for p in parts) == [(2, 3, 4), (5,)]
    apart = next(p for p in parts if p.count == 2)
    assert apart.terms[0].classes.tolist() == [0, 1]


def test_gains_say_what_noise_in_a_channel_does_to_the_output() -> None:
    """Against noise put on one channel of a linear network with a depthwise layer, a branch and a skip."""
    text = """g (float[1,3,16,16] x) => (float[1,4,16,16] y) { a = Conv(x, w) d = Conv<group=6>(a, k) e = Conv(d, v)
        s = Add(a, e) m = Concat<axis=1>(s, d) y = Conv(m, o) }"""
    constants = {"w": noise(6, 3, 1, 1), "k": noise(6, 1, 1, 1, seed=4), "v": noise(6, 6, 1, 1, seed=5)}
    model = build(text, **constants, o=noise(4, 12, 1, 1, seed=6))
    graph = from_proto(model)
    flow = channel_flow(graph)
    end = dict.fromkeys(find_ends(graph, flow), 1.0)
    gains = {t.name: g for t, g in noise_gains(flow, end).items()}
    assert [t.name for t in end] == ["y"]
    tail = onnx.utils.Extractor(model).extract_model(["a"], ["y"])
    base = run(tail, {"a": np.zeros((1, 6, 16, 16), np.float32)})[0]
    for channel in range(6):
        error = np.zeros((1, 6, 16, 16), np.float32)
        error[0, channel] = np.random.default_rng(channel).normal(size=(16, 16))
        seen = run(tail, {"a": error})[0] - base
        # The skip adds to the branch, which the first-order sum of squares doesn't see: no more than a factor.
        assert 0.2 < (seen**2).sum() / (error**2).sum() / gains["a"][channel] < 5
    step = next(s for s in flow.linears if s.linear.output.name == "y")
    np.testing.assert_allclose(gains["m"], (weight_blocks(step.linear) ** 2).sum(axis=(0, 1, 3)), rtol=1e-5)
