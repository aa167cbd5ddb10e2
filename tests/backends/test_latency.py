"""Latency in turns, on a clock that the models themselves turn: nothing here is timed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from graphopt.backends import latency
from graphopt.backends.latency import measure_latency


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.order: list[str] = []
        monkeypatch.setattr(latency.time, "perf_counter", lambda: self.now)

    def model(self, name: str, *seconds: float) -> Iterator[None]:
        """A model whose calls take these seconds, over and over."""
        while True:
            for taken in seconds:
                self.now += taken
                self.order.append(name)
                yield


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_the_ratio_is_that_of_the_medians_of_steady_models(clock: Clock) -> None:
    found = measure_latency(clock.model("a", 0.3), clock.model("b", 0.1), engine="E", threads=2, budget=9.9)
    assert (found.engine, found.threads, found.calls) == ("E", 2, 1)
    assert found.rounds == 25
    assert found.reference_seconds == pytest.approx(0.3)
    assert found.seconds == pytest.approx(0.1)
    assert (found.speedup_low, found.speedup, found.speedup_high) == pytest.approx((3, 3, 3))


def test_models_take_turns_and_each_is_first_as_often(clock: Clock) -> None:
    measure_latency(clock.model("a", 0.5), clock.model("b", 0.5), engine="E", budget=5.9)
    warming = len("aaabbb") + len("b")
    assert "".join(clock.order[:warming]) == "aaabbbb"
    assert "".join(clock.order[warming:]) == "ab" + "ba" + "ab" + "ba" + "ab" + "ba"


def test_a_slow_model_still_gets_some_rounds(clock: Clock) -> None:
    assert measure_latency(clock.model("a", 60.0), clock.model("b", 30.0), engine="E", budget=1).rounds == 5


def test_quick_models_are_called_several_times(clock: Clock) -> None:
    found = measure_latency(clock.model("a", 4e-5), clock.model("b", 2e-5), engine="E", budget=0.1)
    assert found.calls == 100
    assert found.seconds == pytest.approx(2e-5)
    assert found.speedup == pytest.approx(2)


def test_a_burst_of_other_work_shows_in_the_spread_and_not_in_the_figure(clock: Clock) -> None:
    found = measure_latency(clock.model("a", 0.1, 0.1, 0.1, 0.5), clock.model("b", 0.1), engine="E", budget=20)
    assert found.speedup == pytest.approx(1)
    assert found.speedup_high > 1


def test_how_far_the_median_is_known(clock: Clock) -> None:
    """Of 25 ratios 1, 2, … 25 the 8th and the 19th: 12.5 ± 4.9, rounded outwards."""
    ratios = [float(k) for k in range(1, 26)]
    model = clock.model("a", *[1.0] * 3, *ratios)
    found = measure_latency(model, clock.model("b", 1.0), engine="E", budget=sum(ratios) + 24.5)
    assert (found.rounds, found.speedup) == (25, 13)
    assert (found.median_low, found.median_high) == (8, 19)
    assert found.is_rough
    calm = measure_latency(clock.model("a", 0.2, 0.21), clock.model("b", 0.1), engine="E", budget=20)
    assert not calm.is_rough
    assert (calm.median_low, calm.median_high) == pytest.approx((2, 2.1))
