"""Streamed spreads against numpy on everything at once."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.calibration.spread import Spread
from graphopt.errors import CalibrationError


@pytest.mark.parametrize("axis", [1, -1])
def test_everything_is_as_of_all_values_at_once(axis: int) -> None:
    rng = np.random.default_rng(0)
    values = np.maximum(rng.normal(size=(5, 2, 4, 3, 4)), 0).astype(np.float32)
    spread = Spread(axis)
    for sample in values:
        spread.update(sample)
    flat = np.moveaxis(values, 2 if axis == 1 else 4, 0).reshape(4, -1).astype(np.float64)
    np.testing.assert_allclose(spread.mean, flat.mean(1))
    np.testing.assert_allclose(spread.magnitude, np.abs(flat).mean(1))
    np.testing.assert_allclose(spread.variance, flat.var(1))
    np.testing.assert_allclose(spread.density, (flat != 0).mean(1))


def test_a_small_variance_beside_a_large_mean_is_seen() -> None:
    values = np.random.default_rng(0).normal(size=(8, 1, 2, 500)) * 1e-3 + 4096
    spread = Spread(1)
    for sample in values:
        spread.update(sample)
    np.testing.assert_allclose(spread.variance, values.var(axis=(0, 1, 3)), rtol=1e-6)


def test_values_that_are_not_finite_are_refused_and_none_at_all_is_fine() -> None:
    spread = Spread(1)
    spread.update(np.zeros((0, 3), np.float32))
    with pytest.raises(CalibrationError, match="NaN or infinity"):
        spread.update(np.array([[1, np.nan]], np.float32))
