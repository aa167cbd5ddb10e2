"""Activation functions that nothing before them takes along."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.backends.litert_writer.emitter import Emitter, Lowering
from graphopt.backends.litert_writer.layout import Order
from graphopt.backends.litert_writer.lower_elementwise import emit_unary, on_grid, requantize, unary
from graphopt.backends.litert_writer.schema import schema
from graphopt.backends.litert_writer.values import INF, INT8, Grid, Op, UnwritableError, Value

_FLOAT = np.dtype(np.float32)


def clip(em: Emitter, op: Op) -> None:
    """A Clip (or Relu) that nothing before it takes along."""
    data = op.input(0)
    low, high = op.bounds
    if op.kind == "Clip":
        limits = [op.constant(1, "min"), op.constant(2, "max")]
        first = -INF if limits[0] is None else float(limits[0].reshape(()))
        second = INF if limits[1] is None else float(limits[1].reshape(()))
        # What comes behind it (op.bounds) has the last word.
        low, high = min(max(first, low), high), max(min(second, high), low)
    else:
        low, high = max(low, 0.0), max(high, 0.0)
    op.bounds = (low, high)
    order = em.common_order([data], op.output)
    source = em.want(data, order)
    if data.grid is None or data.grid == op.output.grid:
        em.clamped(op, order, source)
        return
    target, activation = em.result(op, order)
    requantize(em, source, target, activation)


def leaky_relu(em: Emitter, op: Op) -> None:
    """LeakyRelu → LEAKY_RELU; 8 bits as max(x, alpha · x).

    LEAKY_RELU has 8 bits for the slope and for the ratio of the scales, in XNNPACK: off by one for 2 to 4 % of all
    values (measured), which deep models amplify.
    """
    alpha = float(op.attr("alpha", 0.01))
    if op.output.dtype != INT8 or not 0 < alpha < 1:
        emit_unary(em, op, "LEAKY_RELU", {"alpha": alpha})
        return
    slope = Grid((float(np.float32(alpha / 127)),), (0,))
    order = em.common_order([op.input(0)], op.output)
    _bent(em, op, order, em.array(np.full(1, 127, np.int8), "slope", slope))


def prelu(em: Emitter, op: Op) -> None:
    """PRelu → PRELU, whose slopes lack the batch axis; integers as max(x, slope · x).

    XNNPACK has no integer PRELU, and LiteRT's own takes 35 times as long as the two operators (measured).
    """
    data, slope = op.input(0), op.input(1)
    if slope.array is None:
        raise UnwritableError("its slope is not a constant")
    order = em.common_order([data], op.output)
    if order[0] != 0 or slope.rank > data.rank or (slope.rank == data.rank and slope.shape[0] != 1):
        raise UnwritableError("its slopes differ along the batch")
    missing = data.rank - slope.rank
    whole = slope.array.reshape((1,) * missing + slope.shape).transpose(order)[0]
    slopes = em.array(np.ascontiguousarray(whole), slope.name, slope.grid)
    if op.is_integer and slope.real().max() <= 1:
        _bent(em, op, order, slopes)
        return
    source = em.want(data, order)
    target, _ = em.result(op, order, fuses=False)
    em.add("PRELU", [source, slopes], [target])


def _bent(em: Emitter, op: Op, order: Order, slopes: int) -> None:
    """max(x, slope · x) of integers, each rounded once, to the result's grid."""
    source = em.want(op.input(0), order)
    low = em.temporary(op.output, order)
    em.add("MUL", [source, slopes], [low])
    high = on_grid(em, source, op.output.grid)
    target, _ = em.result(op, order, fuses=False)
    em.add("MAXIMUM", [high, low], [target])


def hard_swish(em: Emitter, op: Op) -> None:
    """HardSwish → HARD_SWISH; integers as x · gate, where gate = max(0, min(1, x / 6 + 1/2)) is a DEPTHWISE_CONV_2D.

    XNNPACK has no integer HARD_SWISH: LiteRT's own takes 8 times as long as the two operators, and 40 times as long as
    the float one (measured). The gate's grid ends at 0 and 1, which does the clamping. Its steps are 1/255, half a step
    of the result at most where it isn't 0 or 1.
    """
    data, result = op.input(0), op.output
    order = em.common_order([data], result)
    if not op.is_integer or data.rank != 4 or data.grid is None:
        emit_unary(em, op, "HARD_SWISH", {})
        return
    # All weights are alike: whichever axis is stored last can be the channels.
    channels, unit = data.shape[order[-1]], float(np.float32(1 / (6 * 127)))
    half = np.full(channels, min(round(0.5 / (data.grid.scale * unit)), np.iinfo(np.int32).max), np.int32)
    source = em.want(data, order)
    weight = em.array(np.full((1, 1, 1, channels), 127, np.int8), "sixth", _channels(unit, channels, 3))
    bias = em.array(half, "half", _channels(float(np.float32(data.grid.scale * unit)), channels, 0))
    gate_grid = Grid((float(np.float32(1 / 255)),), (-128,))
    gate = em.tensor(f"{result.name}_gate", [data.shape[a] for a in order], data.dtype, gate_grid, result)
    em.add(
        "DEPTHWISE_CONV_2D", [source, weight, bias], [gate], padding=schema().Padding.VALID, strideH=1, strideW=1,
        dilationHFactor=1, dilationWFactor=1, depthMultiplier=1,
    )  # fmt: skip
    target, activation = em.result(op, order)
    em.add("MUL", [source, gate], [target], fusedActivationFunction=activation)


def _channels(scale: float, channels: int, axis: int) -> Grid:
    return Grid((scale,) * channels, (0,) * channels, axis)


def hard_sigmoid(em: Emitter, op: Op) -> None:
    """max(0, min(1, alpha · x + beta))"""
    slope, offset = float(op.attr("alpha", 0.2)), float(op.attr("beta", 0.5))
    chain(("MUL", slope), ("ADD", offset), ("MAXIMUM", 0.0), ("MINIMUM", 1.0))(em, op)


def elu(em: Emitter, op: Op) -> None:
    """LiteRT's ELU has alpha 1."""
    if op.attr("alpha", 1.0) != 1.0:
        raise UnwritableError("LiteRT's ELU has alpha 1")
    emit_unary(em, op, "ELU", {})


# Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: off by 1.5e-7 at most.
_ERF_T = 0.3275911
_ERF_A = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


def erf(em: Emitter, op: Op) -> None:
    """Erf, which LiteRT lacks.

    sign(x) · (1 − ((((a5·t + a4)·t + a3)·t + a2)·t + a1)·t · exp(−x²)),  t = 1 / (1 + p·|x|)
    """
    data, result = op.input(0), op.output
    if data.dtype != _FLOAT:
        raise UnwritableError(f"Erf of {data.dtype} isn't written")
    order = em.common_order([data], result)
    source = em.want(data, order)

    def made(kind: str, *operands: int | float) -> int:
        tensor = em.temporary(result, order)
        numbers = (em.array(np.array(o, np.float32), "number") if isinstance(o, float) else o for o in operands)
        em.add(kind, list(numbers), [tensor])
        return tensor

    t = made("DIV", 1.0, made("ADD", made("MUL", made("ABS", source), _ERF_T), 1.0))
    total = made("MUL", t, _ERF_A[0])
    for number in _ERF_A[1:]:
        total = made("MUL", made("ADD", total, number), t)
    tail = made("MUL", total, made("EXP", made("NEG", made("MUL", source, source))))
    target, _ = em.result(op, order, fuses=False)
    em.add("MUL", [made("SIGN", source), made("SUB", 1.0, tail)], [target])


def gelu(op: Op) -> dict[str, object]:
    """Which of the two forms."""
    approximate = op.attr("approximate", "none")
    approximate = approximate.decode() if isinstance(approximate, bytes) else approximate
    return {"approximate": approximate == "tanh"}


def chain(*steps: tuple[str, float | None]) -> Lowering:
    """Float operators one after the other, each with one operand or with a constant as the second."""

    def lower(em: Emitter, op: Op) -> None:
        data = op.input(0)
        if data.dtype != _FLOAT:
            raise UnwritableError(f"{op.kind} of {data.dtype} isn't written")
        order = em.common_order([data], op.output)
        target, _ = em.result(op, order, fuses=False)
        emit_chain(em, op.output, order, em.want(data, order), target, steps)

    return lower


def emit_chain(
    em: Emitter, like: Value, order: Order, source: int, target: int, steps: Sequence[tuple[str, float | None]]
) -> None:
    """The operators of `chain`."""
    for k, (kind, number) in enumerate(steps):
        made = target if k == len(steps) - 1 else em.temporary(like, order)
        operands = [source] if number is None else [source, em.array(np.array(number, np.float32), "number")]
        em.add(kind, operands, [made])
        source = made


LOWERINGS: dict[str, Lowering] = {
    "Relu": clip,
    "Clip": clip,
    "LeakyRelu": leaky_relu,
    "PRelu": prelu,
    "Elu": elu,
    "Erf": erf,
    "Gelu": unary("GELU", gelu),
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "Sigmoid": unary("LOGISTIC"),
    "Softplus": chain(("EXP", None), ("ADD", 1.0), ("LOG", None)),
    "Tanh": unary("TANH"),
}
