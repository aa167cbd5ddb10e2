"""Operands whose small values matter, because the result for 0 is far from the result for the smallest values.

    Log(1e-9) = −20.7, and Log(0) = −∞        x / 1e-9 = 1e9·x, and x / 0 = ∞

Elsewhere a small value that becomes 0 is an error of its own size, which sensitivity measures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import ml_dtypes
import numpy as np

from graphopt.ir import Node

# Infinite at 0.
_POLES = {"Div": 1, "Log": 0, "Reciprocal": 0}
# Steep near 0; one value of many may become 0.
_STEEP = {"Pow": 0, "Sqrt": 0}
_MOST = 0.5


@dataclass(frozen=True)
class Smallness:
    """How small the values of a tensor are.

    Attributes:
        least: the smallest magnitude that isn't 0.
        share: of the values that aren't 0, how many are below the smallest normal one of a type.
    """

    least: float
    share: float


def small_operand(node: Node) -> int | None:
    """Which input of a node tells by its small values, so that these must not become 0; None: none does."""
    return (_POLES | _STEEP).get(node.op) if node.is_standard else None


def smallness_misfit(node: Node, found: Smallness, dtype: np.dtype[Any]) -> str | None:
    """Why the small values of a node's `small_operand` don't fit."""
    limits = cast("Any", ml_dtypes.finfo(dtype))
    index = small_operand(node)
    assert index is not None
    name = node.inputs[index].name
    # Half of the smallest one rounds to 0.
    if node.op in _POLES and found.least <= float(limits.smallest_subnormal) / 2:
        return f"'{name}' holds {found.least:.3g}, which is 0 in {dtype}, and {node.op} of 0 is infinite"
    if found.share > _MOST:
        least = float(limits.smallest_normal)
        return f"most of '{name}' is below the smallest normal value, {least:.3g}, where few bits are left"
    return None
