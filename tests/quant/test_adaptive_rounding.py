"""Adaptive rounding against exhaustive search, and what it must never do."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.quant.adaptive_rounding import damped, output_error, refine, round_adaptively, round_greedily


def problem(seed: int, groups: int, rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(weights in steps, second moment of inputs that depend on each other)."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(groups, width, width))
    inputs = np.maximum(rng.normal(size=(groups, 4 * width, width)) @ mixing, 0)
    second = np.swapaxes(inputs, 1, 2) @ inputs / (4 * width)
    return rng.uniform(-20, 20, (groups, rows, width)), damped(second, 0.01)


def neighbours(wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.floor(wanted), np.ceil(wanted)


def best_of_all(wanted: np.ndarray, second: np.ndarray) -> float:
    """The least output error of one row over all roundings up or down."""
    candidates = np.floor(wanted) + np.array(list(product((0, 1), repeat=len(wanted))))
    error = candidates - wanted
    return float(np.min(np.sum(error @ second * error, axis=1)))


def test_it_comes_close_to_the_best_of_all_roundings() -> None:
    found = best = nearest = 0.0
    for seed in range(40):
        wanted, second = problem(seed, 1, 1, 9)
        q = round_adaptively(wanted, second, *neighbours(wanted))
        error = float(output_error(q - wanted, second)[0, 0])
        least = best_of_all(wanted[0, 0], second[0])
        assert error >= least - 1e-9
        found, best = found + error, best + least
        nearest += float(output_error(np.rint(wanted) - wanted, second)[0, 0])
    assert found <= 1.1 * best
    assert nearest >= 1.8 * best, "the problems are ones where rounding to nearest is bad"


@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 4), st.integers(1, 40))
def test_it_is_never_worse_than_nearest_and_stays_between_the_limits(
    seed: int, groups: int, rows: int, width: int
) -> None:
    wanted, second = problem(seed, groups, rows, width)
    low, high = np.clip(np.floor(wanted), -7, 7), np.clip(np.ceil(wanted), -7, 7)
    q = round_adaptively(wanted, second, low, high)
    assert np.array_equal(q, np.rint(q))
    assert (q >= low).all()
    assert (q <= high).all()
    nearest = np.clip(np.rint(wanted), low, high)
    assert (output_error(q - wanted, second) <= output_error(nearest - wanted, second) * (1 + 1e-9)).all()


@given(st.integers(0, 10_000), st.integers(2, 50))
def test_no_single_move_is_left_that_would_help(seed: int, width: int) -> None:
    wanted, second = problem(seed, 1, 2, width)
    low, high = np.floor(wanted) - 1, np.ceil(wanted) + 1
    q = refine(np.rint(wanted), wanted, second, low, high, sweeps=1000)
    error = output_error(q - wanted, second)
    for k, step in product(range(width), (-1, 1)):
        moved = q.copy()
        moved[..., k] = np.clip(moved[..., k] + step, low[..., k], high[..., k])
        assert (output_error(moved - wanted, second) >= error - 1e-6 * (1 + error)).all()


def test_the_greedy_order_is_that_of_gptq() -> None:
    """Against the published algorithm: each rounding error is spread over the rest with the inverse of H."""
    wanted, second = problem(3, 1, 4, 50)
    order = np.argsort(-np.diag(second[0]), kind="stable")
    inverse = np.linalg.inv(second[0][np.ix_(order, order)])
    factor = np.linalg.cholesky(inverse).T
    left = wanted[0][:, order].copy()
    expected = np.zeros_like(left)
    for k in range(left.shape[1]):
        expected[:, k] = np.rint(left[:, k])
        error = (left[:, k] - expected[:, k]) / factor[k, k]
        left[:, k:] -= error[:, None] * factor[k, None, k:]
    wide = np.full(wanted.shape, 1000.0)
    found = round_greedily(wanted, second, -wide, wide)
    np.testing.assert_array_equal(found[0][:, order], expected)


def test_groups_are_worked_on_separately() -> None:
    wanted, second = problem(5, 3, 2, 9)
    together = round_adaptively(wanted, second, *neighbours(wanted))
    for g in range(3):
        alone = round_adaptively(wanted[g : g + 1], second[g : g + 1], *neighbours(wanted[g : g + 1]))
        np.testing.assert_array_equal(together[g : g + 1], alone)


@pytest.mark.parametrize("second", [np.zeros((1, 6, 6)), np.eye(6)[None]])
def test_inputs_that_say_nothing_give_nearest(second: np.ndarray) -> None:
    wanted = np.random.default_rng(0).uniform(-5, 5, (1, 3, 6))
    np.testing.assert_array_equal(round_adaptively(wanted, damped(second, 0.01), *neighbours(wanted)), np.rint(wanted))


def in_steps(seed: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(weights, second moment, step of each weight, the limit −7 … 7 of each)."""
    wanted, second = problem(seed, 1, 2, width)
    step = np.random.default_rng(seed).uniform(3, 6, wanted.shape)
    return wanted, second, step, np.full(wanted.shape, 7.0)


def test_scales_of_their_own_for_each_weight_come_close_to_the_best_of_all() -> None:
    found = best = 0.0
    for seed in range(20):
        wanted, second, step, limit = in_steps(seed, 6)
        q = round_adaptively(wanted, second, -limit, limit, step=step)
        assert (np.abs(q) <= limit).all()
        found += float(output_error(q * step - wanted, second).sum())
        for row, steps in zip(wanted[0], step[0], strict=True):
            near = np.floor(row / steps) + np.array(list(product((-1, 0, 1, 2), repeat=len(row))))
            error = np.clip(near, -7, 7) * steps - row
            best += float(np.min(np.sum(error @ second[0] * error, axis=1)))
    assert best - 1e-9 <= found <= 1.15 * best


def test_steps_are_what_the_unit_is_scaled_by() -> None:
    wanted, second, step, limit = in_steps(3, 40)
    scaling = np.random.default_rng(0).uniform(0.5, 2, 40)
    scaled = second / scaling / scaling[:, None]
    plain = round_greedily(wanted, second, -limit, limit, step=step)
    # One unit for all inputs: another for each would change the order in which weights are rounded.
    np.testing.assert_array_equal(plain, round_greedily(2 * wanted, second, -limit, limit, step=2 * step))
    refined = refine(plain, wanted, second, -limit, limit, step=step)
    again = refine(plain, wanted * scaling, scaled, -limit, limit, step=step * scaling)
    np.testing.assert_array_equal(refined, again)


@pytest.mark.parametrize("width", [5, 70])
def test_greedy_in_steps_is_the_algorithm_as_published(width: int) -> None:
    """Frantar et al., algorithm 1, with the Cholesky factor of the inverse, one row and one weight at a time."""
    wanted, second, step, limit = in_steps(1, width)
    order = np.argsort(-np.diag(second[0]), kind="stable")
    upper = np.linalg.cholesky(np.linalg.inv(second[0][np.ix_(order, order)])).T
    for row, steps, found in zip(
        wanted[0], step[0], round_greedily(wanted, second, -limit, limit, step=step)[0], strict=True
    ):
        left, expected = row[order].copy(), np.empty(width)
        for k in range(width):
            expected[k] = np.clip(np.rint(left[k] / steps[order[k]]), -7, 7)
            lost = (left[k] - expected[k] * steps[order[k]]) / upper[k, k]
            left[k:] -= lost * upper[k, k:]
        np.testing.assert_array_equal(found[order], expected)
