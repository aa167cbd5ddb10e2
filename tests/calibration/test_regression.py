"""Ridge regression from moments against numpy's least squares on the same rows."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.calibration.regression import DAMPINGS, ErrorRegression

Array = np.ndarray


def data(samples: int = 6, rows: int = 50, width: int = 5, groups: int = 2, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(samples, groups, rows, width)) @ rng.normal(size=(width, width)) + 3
    return mixed.astype(np.float32)


def take(regression: ErrorRegression, x: Array, e: Array) -> ErrorRegression:
    for rows, errors in zip(x, e, strict=True):
        regression.update(rows, errors.astype(np.float32))
    return regression


def joined(values: Array, group: int) -> Array:
    return values[:, group].reshape(-1, values.shape[-1]).astype(np.float64)


@pytest.mark.parametrize("biased", [True, False])
def test_a_linear_error_is_found_exactly(biased: bool) -> None:
    x = data()
    weight = np.random.default_rng(1).normal(size=(2, 3, 5))
    bias = np.random.default_rng(2).normal(size=(2, 3)) * biased
    e = np.einsum("gok,sgnk->sgno", weight, x) + bias[:, None]
    found = take(ErrorRegression(biased), x, e).solve()
    assert found is not None
    assert found.gain == pytest.approx(1.0, abs=1e-4)
    np.testing.assert_allclose(np.einsum("gok,sgnk->sgno", found.weight, x) + found.bias[:, None], e, atol=0.02)


@pytest.mark.parametrize("biased", [True, False])
def test_noise_is_fitted_as_ridge_regression_in_closed_form_does(biased: bool) -> None:
    x = data()
    rng = np.random.default_rng(1)
    e = np.einsum("gok,sgnk->sgno", rng.normal(size=(2, 3, 5)), x) + rng.normal(size=(*x.shape[:3], 3)) * 20
    found = take(ErrorRegression(biased), x, e).solve()
    assert found is not None
    assert found.damping in DAMPINGS
    for group in range(2):
        rows, errors = joined(x, group), joined(e, group)
        centre, middle = (rows.mean(0), errors.mean(0)) if biased else (np.zeros(5), np.zeros(3))
        rows, errors = rows - centre, errors - middle
        mean = np.mean(np.square(rows).mean(0))
        # Ridge as least squares with rows of its own.
        more = np.vstack([rows, np.sqrt(found.damping * mean * len(rows)) * np.eye(5)])
        weight = np.linalg.lstsq(more, np.vstack([errors, np.zeros((5, 3))]), rcond=None)[0].T
        np.testing.assert_allclose(found.weight[group], weight, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found.bias[group], middle - weight @ centre, rtol=1e-3, atol=1e-2)


def test_the_gain_is_what_a_fit_on_one_half_takes_off_the_other() -> None:
    x = data(groups=1)
    rng = np.random.default_rng(4)
    e = np.einsum("gok,sgnk->sgno", rng.normal(size=(1, 3, 5)), x) + rng.normal(size=(*x.shape[:3], 3)) * 5 + 1
    found = take(ErrorRegression(True), x, e).solve()
    assert found is not None
    before = after = 0.0
    for seen, unseen in ((0, 1), (1, 0)):
        half = take(ErrorRegression(True), x[seen::2], e[seen::2])
        inputs, errors = joined(x[seen::2], 0), joined(e[seen::2], 0)
        centre, middle = inputs.mean(0), errors.mean(0)
        second = (inputs - centre).T @ (inputs - centre) / len(inputs)
        damped = second + found.damping * np.trace(second) / 5 * np.eye(5)
        weight = np.linalg.solve(damped, (inputs - centre).T @ (errors - middle) / len(inputs)).T
        others, wanted = joined(x[unseen::2], 0), joined(e[unseen::2], 0)
        before += np.square(wanted).mean(0).sum()
        after += np.square(wanted - middle - (others - centre) @ weight.T).mean(0).sum()
        assert half.solve() is not None
    assert found.gain == pytest.approx(1 - after / before, rel=1e-3)


def test_errors_that_say_nothing_of_other_samples_change_nothing() -> None:
    x = data()
    noise = np.random.default_rng(5).normal(size=(*x.shape[:3], 3))
    # The second half of the samples has the opposite error: whatever one says is wrong on the other.
    e = np.concatenate([noise[:1], -noise[:1]] * 3)
    assert take(ErrorRegression(True), np.repeat(x[:1], 6, axis=0), e).solve() is None


def test_a_shift_that_has_nothing_to_do_with_the_inputs_goes_into_the_bias_alone() -> None:
    x = data(rows=20, width=30)
    e = np.random.default_rng(5).normal(size=(*x.shape[:3], 3)) + 2
    found = take(ErrorRegression(True), x, e).solve()
    assert found is not None
    assert found.damping == np.inf
    np.testing.assert_array_equal(found.weight, 0)
    np.testing.assert_allclose(found.bias, e.mean(axis=(0, 2)), rtol=1e-5)


def test_a_single_sample_moves_weights_carefully() -> None:
    x = data(samples=1)
    e = np.einsum("gok,sgnk->sgno", np.ones((2, 3, 5)), x)
    found = take(ErrorRegression(True), x, e).solve()
    assert found is not None
    assert np.isnan(found.gain)
    assert 0 < np.abs(found.weight).max() < 1
    assert ErrorRegression(True).solve() is None


def test_again_is_the_same_as_from_the_beginning() -> None:
    x = data()
    rng = np.random.default_rng(6)
    first, second = (np.einsum("gok,sgnk->sgno", rng.normal(size=(2, 3, 5)), x) + i for i in range(2))
    regression = take(ErrorRegression(True), x, first)
    regression.solve()
    again, fresh = take(regression.again(), x, second).solve(), take(ErrorRegression(True), x, second).solve()
    assert again is not None
    assert fresh is not None
    np.testing.assert_array_equal(again.weight, fresh.weight)
    np.testing.assert_array_equal(again.bias, fresh.bias)


def test_small_variances_beside_large_means_are_seen() -> None:
    x = data() + np.float32(1000)
    e = np.einsum("gok,sgnk->sgno", np.ones((2, 1, 5)), x.astype(np.float64) - 1000)
    found = take(ErrorRegression(True), x, e).solve()
    assert found is not None
    np.testing.assert_allclose(found.weight, 1.0, rtol=1e-2)
