"""Pools over windows, and over everything."""

from __future__ import annotations

import numpy as np

from graphopt.backends.litert_writer.emitter import Emitter, Lowering
from graphopt.backends.litert_writer.layout import channels_last
from graphopt.backends.litert_writer.lower_averages import average_of_integers
from graphopt.backends.litert_writer.padding import as_image, explicit, image_shape, pad, read_image
from graphopt.backends.litert_writer.pooling import average_form, divisors, pool_kernel
from graphopt.backends.litert_writer.schema import schema
from graphopt.backends.litert_writer.values import Op, UnwritableError
from graphopt.backends.litert_writer.windows import Window, windows


def _windows(op: Op) -> list[Window]:
    kernel = pool_kernel(op)
    if len(kernel) > 2:
        raise UnwritableError(f"pools over {len(kernel)} axes aren't written")
    found = windows(op, kernel)
    if any(w.dilation != 1 for w in found):
        raise UnwritableError("LiteRT has no dilated pools")
    return found


def _options(found: list[Window]) -> dict[str, int]:
    height, width = found if len(found) == 2 else (None, found[0])
    return {
        "filterHeight": 1 if height is None else height.kernel,
        "filterWidth": width.kernel,
        "strideH": 1 if height is None else height.stride,
        "strideW": width.stride,
    }


def max_pool(em: Emitter, op: Op) -> None:
    """MaxPool → MAX_POOL_2D; padding never wins, so an explicit one is the smallest number."""
    if len(op.node.present_outputs()) > 1:
        raise UnwritableError("LiteRT's MAX_POOL_2D gives no indices")
    data, found = op.input(0), _windows(op)
    source, padding = pad(em, data, found, read_image(em, data), float(np.finfo(np.float32).min))
    with as_image(em, op) as (target, activation):
        em.add(
            "MAX_POOL_2D", [source], [target], padding=padding, fusedActivationFunction=activation, **_options(found)
        )


def average_pool(em: Emitter, op: Op) -> None:
    """AveragePool → AVERAGE_POOL_2D; where its divisors at the edge are others than LiteRT's, a MUL mends them."""
    data, found = op.input(0), _windows(op)
    if all(w.is_valid and w.out == 1 and w.kernel == w.size for w in found):
        # MEAN rounds halves to even, as ONNX does; AVERAGE_POOL_2D rounds them away from zero.
        _over_space(em, op, "MEAN")
        return
    if op.is_integer:
        average_of_integers(em, op, found)
        return
    form = average_form(op)
    source, padding = read_image(em, data), schema().Padding
    if form != "SAME":
        source = explicit(em, data, [w.padding for w in found], source, 0.0)
    code = padding.SAME if form == "SAME" else padding.VALID
    with as_image(em, op) as (target, activation):
        options = {"padding": code, **_options(found)}
        if form:
            em.add("AVERAGE_POOL_2D", [source], [target], fusedActivationFunction=activation, **options)
            return
        even = em.tensor(f"{op.output.name}_even", image_shape(op.output), op.output.dtype, None, op.output)
        em.add("AVERAGE_POOL_2D", [source], [even], **options)
        counts = divisors(op, found).reshape(1, *([1] if len(found) == 1 else []), *(w.out for w in found), 1)
        factors = (np.prod(pool_kernel(op)) / counts).astype(np.float32)
        em.add("MUL", [even, em.array(factors, "divisors")], [target], fusedActivationFunction=activation)


def global_average(em: Emitter, op: Op) -> None:
    """GlobalAveragePool → MEAN over the spatial axes."""
    _over_space(em, op, "MEAN")


def global_max(em: Emitter, op: Op) -> None:
    """GlobalMaxPool → REDUCE_MAX over the spatial axes."""
    _over_space(em, op, "REDUCE_MAX")


def _over_space(em: Emitter, op: Op, kind: str) -> None:
    data = op.input(0)
    order = channels_last(data.rank)
    target, _ = em.result(op, order, fuses=False)
    axes = em.ints(range(1, data.rank - 1), "axes")
    em.add(kind, [em.want(data, order), axes], [target], keepDims=True)


LOWERINGS: dict[str, Lowering] = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average,
    "GlobalMaxPool": global_max,
}
