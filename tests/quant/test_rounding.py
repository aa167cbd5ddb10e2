"""Balanced rounding against its definition and, on small rows, against brute force."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphopt.quant import Range, Scheme, quantize, round_balanced, solve_params

SCHEME = Scheme("int8", symmetric=True, channel_axis=0, narrow=True)


def params_of(weight: np.ndarray, axis: int = 0):
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scheme = Scheme("int8", symmetric=True, channel_axis=axis, narrow=True)
    return solve_params(Range(weight.min(axis=others).astype(float), weight.max(axis=others).astype(float)), scheme)


def errors(weight: np.ndarray) -> np.ndarray:
    params = params_of(weight)
    scale = params.scale.astype(np.float64).reshape(-1, *[1] * (weight.ndim - 1))
    return round_balanced(weight, params) - weight / scale


shapes = hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=6)


@given(hnp.arrays(np.float32, shapes, elements=st.floats(-1, 1, width=32)))
def test_every_integer_is_a_neighbour_and_each_channel_sums_up(weight: np.ndarray) -> None:
    error = errors(weight)
    assert np.abs(error).max() < 1 + 1e-6
    per_channel = error.reshape(len(error), -1)
    # The channel stage can only fail to cancel where too few entries err in the sum's direction.
    nearest = quantize(weight, params_of(weight)) - weight / params_of(weight).scale.reshape(
        -1, *[1] * (weight.ndim - 1)
    )
    assert np.all(np.abs(per_channel.sum(1)) <= np.abs(nearest.reshape(len(error), -1).sum(1)) + 0.51)


def test_channel_sums_are_below_half_a_step() -> None:
    weight = np.random.default_rng(0).normal(size=(32, 16, 3, 3)).astype(np.float32)
    assert np.abs(errors(weight).reshape(32, -1).sum(1)).max() <= 0.5 + 1e-3
    params = params_of(weight)
    nearest = quantize(weight, params) - weight / params.scale.reshape(-1, 1, 1, 1)
    assert np.abs(nearest.reshape(32, -1).sum(1)).max() > 2, "nearest rounding leaves a shift"


@pytest.mark.parametrize("seed", range(20))
def test_a_row_is_rounded_as_well_as_brute_force_can(seed: int) -> None:
    weight = np.random.default_rng(seed).uniform(-1, 1, (1, 6)).astype(np.float32)
    params = params_of(weight)
    quotient = weight[0].astype(np.float64) / float(params.scale[0])

    def cost(q: np.ndarray) -> float:
        return float(((q - quotient) ** 2).sum() + (q - quotient).sum() ** 2)

    best = min(cost(np.floor(quotient) + np.array(up)) for up in product((0, 1), repeat=6))
    assert cost(round_balanced(weight, params)[0]) <= best + 0.26  # flips stop at half a step: at most 0.5² more


def test_the_channel_axis_may_be_any() -> None:
    weight = np.random.default_rng(1).normal(size=(5, 7)).astype(np.float32)
    np.testing.assert_array_equal(
        round_balanced(weight.T, params_of(weight.T, 1)), round_balanced(weight, params_of(weight)).T
    )


def test_values_on_the_grid_stay() -> None:
    weight = np.arange(-127, 128, dtype=np.float32).reshape(1, -1)
    np.testing.assert_array_equal(round_balanced(weight, params_of(weight)), weight.astype(np.int8))
