"""Moments of channels, streamed, against the same over whole arrays."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.calibration import input_specs, load_dataset
from graphopt.calibration.channel_moments import ChannelMoments, collect_channels
from graphopt.errors import CalibrationError
from tests.passes.test_equalize_channels import build, noise
from tests.support.rewrite import random_feeds, run

TEXT = "g (float[1,3,6,6] x) => (float[1,4,6,6] y) { a = Conv(x, w) y = Relu(a) }"


@pytest.mark.parametrize("budget", [None, 1])
def test_collected_in_one_pass_or_several(budget: int | None) -> None:
    model = build(TEXT, w=noise(4, 3, 1, 1))
    feeds = [random_feeds(model, seed) for seed in range(5)]
    data = load_dataset(feeds, input_specs(model))
    found = collect_channels(model, {"y": 1, "x": -1}, data, memory_budget=budget)["y"]
    values = np.stack([run(model, feed)[0][0] for feed in feeds]).astype(np.float64)  # sample, channel, …
    np.testing.assert_allclose(found.high, values.max(axis=(2, 3)).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.largest, values.max(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found.lowest, values.min(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found.mean_square, (values**2).mean(axis=(0, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(found.density, (values > 0).mean(axis=(0, 2, 3)))
    assert (found.below == 0).all()
    assert found.samples == 5


def test_empty_arrays_are_no_samples() -> None:
    moments = ChannelMoments(1)
    moments.update(np.zeros((0, 3), np.float32))
    assert moments.samples == 0
    assert moments.mean_square.size == 0


def test_values_that_are_not_finite_are_refused_with_their_place() -> None:
    model = build("g (float[1,3,6,6] x) => (float[1,3,6,6] y) { y = Log(x) }")
    data = load_dataset(
        [{"x": np.ones((1, 3, 6, 6), np.float32)}, {"x": np.zeros((1, 3, 6, 6), np.float32)}], input_specs(model)
    )
    with pytest.raises(CalibrationError, match="sample 1: tensor 'y': it holds NaN or infinity"):
        collect_channels(model, {"y": 1}, data)
