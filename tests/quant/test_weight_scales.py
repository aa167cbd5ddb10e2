"""Scales of weights against a fine search, and what they must hold."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from graphopt.quant.weight_scales import search_scales

LIMIT = 127


def error(row: np.ndarray, importance: np.ndarray, scale: float, limit: int = LIMIT) -> float:
    q = np.clip(np.rint(row / scale), -limit, limit)
    return float((importance * (row - scale * q) ** 2).sum())


def weights(seed: int, rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_t(3, (rows, width)), rng.exponential(size=(rows, width))


def search(rows: np.ndarray, importance: np.ndarray, limit: int = LIMIT, least: float = 0.0) -> np.ndarray:
    return search_scales(rows, np.arange(len(rows)), importance, limit, np.full(len(rows), least))


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 60), st.sampled_from([7, 127]))
def test_never_worse_than_covering_all(seed: int, rows: int, width: int, limit: int) -> None:
    w, h = weights(seed, rows, width)
    for row, importance, scale in zip(w, h, search(w, h, limit), strict=True):
        covering = float(np.float32(np.abs(row).max() / limit))
        assert error(row, importance, float(scale), limit) <= error(row, importance, covering, limit) * (1 + 1e-6)


def test_close_to_the_best_of_a_fine_search() -> None:
    w, h = weights(1, 20, 64)
    for row, importance, scale in zip(w, h, search(w, h, 7), strict=True):
        tried = np.abs(row).max() / 7 * np.linspace(0.1, 1.02, 4000)
        assert error(row, importance, float(scale), 7) <= 1.05 * min(error(row, importance, s, 7) for s in tried)


def test_a_weight_whose_input_is_always_zero_is_clipped() -> None:
    w = np.random.default_rng(0).uniform(-1, 1, (1, 50))
    w[0, 7] = 3.0
    h = np.ones_like(w)
    h[0, 7] = 0.0
    assert float(search(w, h)[0]) * LIMIT < 1.1
    assert float(search(w, np.ones_like(w))[0]) * LIMIT > 2.9


def test_rows_that_share_a_scale_are_weighed_together() -> None:
    w, h = weights(2, 4, 30)
    shared = search_scales(w, np.array([0, 1, 0, 1]), h, LIMIT, np.zeros(2))
    for owner in (0, 1):
        joined = search(w[owner::2].reshape(1, -1), h[owner::2].reshape(1, -1))
        np.testing.assert_array_equal(shared[owner], joined[0])


@given(st.integers(0, 1000), st.floats(0, 1))
def test_no_scale_is_below_its_least(seed: int, least: float) -> None:
    w, h = weights(seed, 3, 20)
    scales = search(w, h, least=least)
    assert scales.dtype == np.float32
    assert (scales.astype(np.float64) >= least).all()


def test_zeros() -> None:
    assert search(np.zeros((2, 5)), np.ones((2, 5))).tolist() == [0.0, 0.0]
