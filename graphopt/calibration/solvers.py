"""Pure solvers: what was seen of a tensor (a statistic) and its scheme → the range to represent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from graphopt.calibration.statistics import MinMax
from graphopt.errors import CalibrationError, ConfigError, nearest
from graphopt.quant import Range, Scheme

Solver = Callable[[MinMax, Scheme], Range]


def minmax(statistic: MinMax, scheme: Scheme) -> Range:
    """[smallest value, largest value]: nothing is clipped, whatever the scheme.

    Raises:
        CalibrationError: no value was seen.
    """
    del scheme  # every scheme can cover the values; other solvers trade clipping against its step size
    if statistic.is_empty:
        raise CalibrationError(
            "no value was observed (the tensor is empty in every sample): give samples that fill it, or keep it float"
        )
    return Range.of(statistic.low, statistic.high)


SOLVERS: Mapping[str, Solver] = MappingProxyType({"minmax": minmax})


def solver(method: str) -> Solver:
    """The solver named `method`.

    Raises:
        ConfigError: there is none of that name.
    """
    if method not in SOLVERS:
        raise ConfigError(f"there is no calibration method '{method}': {nearest(method, SOLVERS)}")
    return SOLVERS[method]
