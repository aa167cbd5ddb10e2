"""Whether two outputs of a model are the same up to rounding."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

# Largest |difference| allowed, as a share of the largest |value| of the same output. Every error of a rewrite is a
# rounding, about half a unit in the last place of each operand, summed over the layers and, as a random walk, over the
# products of each: sqrt(10^4 products · 50 layers) · 2^-24 = 4e-5 for float32. A wrong fold is off by percents.
_FLOAT32 = 1e-4
# The same walk from 2^-11 would allow anything; kernels accumulate in float32, which leaves layers: sqrt(50) · 2^-11.
_FLOAT16 = 5e-3
_BFLOAT16 = 5e-2  # from 2^-8, likewise
# In a quantized model a rounding can move a value into the next of 255 steps, and several such steps add up.
QUANTIZED = 2e-2
# An output that cancels to nothing still carries the rounding of its operands (inputs are of the order of 1).
_LEAST_SCALE = 1e-3


def difference(old: Any, new: Any, least_tolerance: float = 0.0) -> str | None:
    """How `new` differs from `old` by more than rounding, as the rest of a sentence; None when it doesn't.

    Tensors, sequences (lists) and absent optionals (None) as onnxruntime returns them. Integers, booleans and texts
    must be equal, and NaN and infinities in the same places.
    """
    if isinstance(old, np.ndarray) and isinstance(new, np.ndarray):
        return _arrays(cast("NDArray[Any]", old), cast("NDArray[Any]", new), least_tolerance)
    if isinstance(old, list) and isinstance(new, list):
        return _sequences(cast("list[Any]", old), cast("list[Any]", new), least_tolerance)
    return None if type(cast("object", old)) is type(new) and bool(old == new) else f"is {new!s} instead of {old!s}"


def _sequences(old: list[Any], new: list[Any], least_tolerance: float) -> str | None:
    if len(old) != len(new):
        return f"has {len(new)} elements instead of {len(old)}"
    found = (difference(a, b, least_tolerance) for a, b in zip(old, new, strict=True))
    return next((d for d in found if d), None)


def _arrays(old: NDArray[Any], new: NDArray[Any], least_tolerance: float) -> str | None:
    if old.dtype != new.dtype or old.shape != new.shape:
        return f"is {new.dtype}{list(new.shape)} instead of {old.dtype}{list(old.shape)}"
    if old.dtype.kind in "biuOSU":
        wrong = int(np.count_nonzero(old != new))
        return f"has {wrong} of {old.size} values changed" if wrong else None
    tolerance = max(least_tolerance, {"float16": _FLOAT16, "bfloat16": _BFLOAT16}.get(old.dtype.name, _FLOAT32))
    a, b = old.astype(np.float64), new.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return "has NaN or infinity in other places"
    if not finite.any():
        return None
    largest = float(np.abs(a[finite]).max())
    moved = float(np.abs(a[finite] - b[finite]).max())
    if moved <= tolerance * max(largest, _LEAST_SCALE):
        return None
    return f"moved by {moved:.3g} (its largest value is {largest:.3g}, allowed are {tolerance:g} of that)"
