"""Channels told from other channels, against numpy's least squares."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.calibration import channel_prediction
from graphopt.calibration.channel_prediction import ChannelStatistics, zeroed

RNG = np.random.default_rng(0)
STAYS = np.array([True, False, True, True, False])


def correlated(samples: int = 3) -> list[np.ndarray]:
    """[1, 5, 6, 7]: five mixtures of five independent channels, around means that aren't 0."""
    mix, shift = RNG.normal(size=(5, 5)), RNG.normal(size=(5, 1, 1)) * 3
    return [(np.tensordot(mix, RNG.normal(size=(5, 6, 7)), 1) + shift)[None].astype(np.float32) for _ in range(samples)]


def test_the_map_is_least_squares_with_an_intercept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_prediction, "_DAMPING", 1e-9)
    values = correlated()
    found = ChannelStatistics.of(values, axis=1).without(STAYS)
    rows = np.concatenate([v[0].reshape(5, -1).T for v in values]).astype(np.float64)
    known = np.column_stack([rows[:, STAYS], np.ones(len(rows))])
    solution, *_ = np.linalg.lstsq(known, rows[:, ~STAYS], rcond=None)
    mapped = rows @ found.matrix + found.shift
    np.testing.assert_allclose(mapped[:, ~STAYS], known @ solution, atol=1e-4)
    np.testing.assert_array_equal(mapped[:, STAYS], rows[:, STAYS])


def test_channels_that_go_are_never_read() -> None:
    found = ChannelStatistics.of(correlated(), axis=1).without(STAYS)
    assert not found.matrix[~STAYS].any()


def test_a_copy_is_told_from_what_it_copies() -> None:
    values = [np.concatenate([v, 2 * v[:, :1] + 1], axis=1) for v in correlated()]
    stays = np.array([True] * 5 + [False])
    found = ChannelStatistics.of(values, axis=1).without(stays)
    mapped = np.moveaxis(values[0], 1, -1) @ found.matrix + found.shift
    lost = mapped[..., 5] - values[0][:, 5]
    assert np.mean(lost**2) < 1e-2 * np.var(values[0][:, 5])


def test_without_variance_the_mean_is_told() -> None:
    values = [np.full((2, 3), 4.0, np.float32)]
    found = ChannelStatistics.of(values, axis=-1).without(np.array([True, True, False]))
    np.testing.assert_array_equal(values[0] @ found.matrix + found.shift, values[0])


def test_with_nothing_left_the_means_are_told() -> None:
    values = correlated()
    found = ChannelStatistics.of(values, axis=1).without(np.zeros(5, dtype=bool))
    assert not found.matrix.any()
    np.testing.assert_allclose(found.shift, np.mean([v.mean(axis=(0, 2, 3)) for v in values], axis=0), atol=1e-5)


def test_zeroed_sets_to_zero() -> None:
    found = zeroed(STAYS)
    np.testing.assert_array_equal(np.ones(5) @ found.matrix + found.shift, STAYS.astype(float))
