"""How an AveragePool's divisors compare to LiteRT's, which counts the rows of the input under SAME, all under VALID."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphopt.backends.litert_writer.values import Op, UnwritableError
from graphopt.backends.litert_writer.windows import Window, stated_pads, windows


def pool_kernel(op: Op) -> tuple[int, ...]:
    """The size of the window."""
    return tuple(int(k) for k in op.attr("kernel_shape"))


def divisors(op: Op, found: list[Window]) -> NDArray[np.int64]:
    """By how many elements each window's sum is divided, an array over the spatial axes of the result."""
    include = bool(op.attr("count_include_pad", 0))
    pads = stated_pads(op, op.input(0), pool_kernel(op))
    along = [np.array(w.counted(include, pads[k][1]), np.int64) for k, w in enumerate(found)]
    product = along[0]
    for more in along[1:]:
        product = product[..., None] * more
    return product


def average_form(op: Op) -> str:
    """The padding that divides as ONNX does: SAME, VALID or PAD (explicit zeros, then VALID); else ""."""
    found = windows(op, pool_kernel(op))
    wanted = divisors(op, found)
    inside = np.ones((), np.int64)
    for w in found:
        inside = inside[..., None] * np.array(w.counted(False, 0), np.int64)
    if all(w.is_valid for w in found):
        return "VALID"
    if all(w.is_same for w in found) and np.array_equal(wanted, inside):
        return "SAME"
    return "PAD" if (wanted == np.prod(pool_kernel(op))).all() else ""


def pool_problem(op: Op) -> str:
    """Why an AveragePool has no integer form, or ""."""
    try:
        if any(int(d) != 1 for d in op.attr("dilations") or ()):
            return "its window is dilated"
        if len(pool_kernel(op)) > 2:
            return "LiteRT pools over two axes"
        windows(op, pool_kernel(op))
        return ""
    except UnwritableError as reason:
        return str(reason)
