"""A Relu or Clip behind an operator: fused where LiteRT has it, else MAXIMUM and MINIMUM.

On a grid, the clamp is one of integers, and often nothing is left to do: behind a Relu the zero point is the smallest
integer. `NONE` is right then, and every kernel has it. XNNPACK has no integer RELU and RELU6: LiteRT's own take a
hundred times as long as MAXIMUM (measured), which therefore stands for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.backends.litert_writer.values import INF, NO_BOUNDS, Grid, Op

NONE, RELU, RELU_N1_TO_1, RELU6 = 0, 1, 2, 3  # ActivationFunctionType of the schema
_FUSED: dict[int, tuple[float, float]] = {
    NONE: NO_BOUNDS,
    RELU: (0.0, INF),
    RELU6: (0.0, 6.0),
    RELU_N1_TO_1: (-1.0, 1.0),
}
_OPERATORS = {RELU: "RELU", RELU6: "RELU6", RELU_N1_TO_1: "RELU_N1_TO_1"}


@dataclass(frozen=True)
class Clamp:
    """What has to be done to a result.

    Attributes:
        fused: the activation that a kernel can do, or None.
        steps: (operator, limit as it is stored or None) that do it behind the kernel.
    """

    fused: int | None
    steps: tuple[tuple[str, float | int | None], ...]


def clamp_of(op: Op) -> Clamp:
    """The clamp behind an operator."""
    grid = op.output.grid
    wanted = _limits(op.bounds, grid)
    fused = next((code for code, bounds in _FUSED.items() if _limits(bounds, grid) == wanted), None)
    if grid is None and fused is not None:
        return Clamp(fused, () if fused == NONE else ((_OPERATORS[fused], None),))
    low, high = wanted
    whole = _limits(NO_BOUNDS, grid)
    steps: list[tuple[str, float | int | None]] = []
    if low != whole[0]:
        steps.append(("MAXIMUM", low))
    if high != whole[1]:
        steps.append(("MINIMUM", high))
    return Clamp(fused, tuple(steps))


def _limits(bounds: tuple[float, float], grid: Grid | None) -> tuple[float, float]:
    """The bounds as they are stored."""
    if grid is None:
        return bounds
    low, high = (float(np.clip(b, -1e30, 1e30)) for b in bounds)
    ends = grid.quantize(np.array([low, high], np.float32))
    return (int(ends[0]), int(ends[1]))
