"""Rounding weights so that a layer's output errs least: the integers that minimise (q − t)ᵀ H (q − t).

`t` is a row of a weight in units of its scale and H the second moment of what the layer reads. Then the objective is
the expected squared error of that output channel, which is AdaRound's objective (Nagel et al., "Up or Down? Adaptive
Rounding for Post-Training Quantization", ICML 2020) without its relaxation to continuous variables. Where the weights
of a row have several scales, `t` is the weight itself, and each q a multiple of its own `step`.

Finding the best integers is the closest vector problem of a lattice. Two steps come close to it:

    greedy   one weight after the other is rounded, and those behind it make up for its error, H = R Rᵀ, R upper
             triangular:  q_k = round(t_k − Σ_{j<k} e_j R_jk / R_kk).  This is OBQ with a fixed order (Frantar et al.,
             "GPTQ", ICLR 2023), which is Babai's nearest plane; in this form it needs no inverse of H.
    refine   coordinate descent: each weight moves to the integer that is best while the others stand, until none moves
             or the sweeps are used up. The objective never grows.

Arrays have the axes [group, row, weight]: rows of one group read the same inputs and share one H [weight, weight]. A
dense layer is one group; a depthwise convolution has a group a channel, and all of them are worked on at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Columns worked on before the rest of the row is told, in one matrix product: the same result, less memory traffic.
BLOCK = 32
SWEEPS = 20
# Wider rows are refined from the greedy order only: rounding to nearest, refined as long, ends 24 % above it with 1,152
# correlated inputs. The widest get few sweeps, too, for time: a segmentation network of 3×3 convolutions loses 1.2 dB
# where that is done from 256 inputs on.
THOROUGH, WIDE, QUICK_SWEEPS = 256, 1152, 4


def output_error(error: Array, second: Array) -> Array:
    """eᵀ H e of each row.

    Args:
        error: [group, row, weight].
        second: H, [group, weight, weight].

    Returns:
        [group, row].
    """
    return np.einsum("grk,grk->gr", error @ second, error)


def damped(second: Array, share: float) -> Array:
    """H with `share` of its mean diagonal added to the diagonal, and never singular.

    Directions that few samples have shown little of would otherwise cost nothing, and the rounding would fit the
    samples instead of the layer.
    """
    mean = np.einsum("gkk->g", second) / second.shape[-1]
    # An input that was always zero: any positive multiple of the identity means rounding to nearest.
    added = np.where(mean > 0, np.maximum(share, 1e-10) * mean, 1.0)
    return second + added[:, None, None] * np.eye(second.shape[-1])


def round_adaptively(
    wanted: Array,
    second: Array,
    low: Array,
    high: Array,
    *,
    step: Array | None = None,
    greedy: bool = True,
    sweeps: int = SWEEPS,
) -> Array:
    """The integers with the least output error that rounding to nearest and the greedy order, both refined, lead to.

    Args:
        wanted: the weights in units of their scales, [group, row, weight].
        second: H, positive definite (see `damped`), [group, weight, weight].
        low: the smallest integer that each weight may take, of the shape of `wanted`.
        high: the largest, likewise.
        step: of the shape of `wanted`: the scale of each weight in the units of `wanted`; None: 1.
        greedy: whether to start from the greedy order, too.
        sweeps: of coordinate descent, at most.

    Returns:
        Integers (as float64) of the shape of `wanted`; no row has a larger output error than rounded to nearest.
    """
    step = np.ones_like(wanted) if step is None else step
    nearest = np.clip(np.rint(wanted / step), low, high)
    thorough = not greedy or wanted.shape[-1] <= THOROUGH
    if thorough:
        nearest = refine(nearest, wanted, second, low, high, sweeps, step=step)
    elif wanted.shape[-1] > WIDE:
        sweeps = min(sweeps, QUICK_SWEEPS)
    if not greedy:
        return nearest
    ordered = round_greedily(wanted, second, low, high, step=step)
    ordered = refine(ordered, wanted, second, low, high, sweeps, step=step)
    better = output_error(ordered * step - wanted, second) < output_error(nearest * step - wanted, second)
    return np.where(better[..., None], ordered, nearest)


def round_greedily(wanted: Array, second: Array, low: Array, high: Array, *, step: Array | None = None) -> Array:
    """Round weights one after the other, those whose inputs are strongest first; arguments as of `round_adaptively`."""
    diagonal = np.einsum("gkk->gk", second)
    order = np.argsort(-diagonal, axis=1, kind="stable")
    rows, columns = order[:, None, :], (order[:, :, None], order[:, None, :])
    groups = np.arange(len(order))[:, None, None]
    factor = _upper_factor(second[groups, columns[0], columns[1]])
    step = np.ones_like(wanted) if step is None else step
    wanted, low, high, step = (np.take_along_axis(a, rows, axis=2) for a in (wanted, low, high, step))
    feedback = factor / np.einsum("gkk->gk", factor)[:, None, :]
    q, error = np.empty_like(wanted), np.zeros_like(wanted)
    count = wanted.shape[-1]
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        carried = error[..., :start] @ feedback[:, :start, start:stop]
        for k in range(start, stop):
            inside = (error[..., start:k] @ feedback[:, start:k, k, None])[..., 0]
            best = (wanted[..., k] - carried[..., k - start] - inside) / step[..., k]
            q[..., k] = np.clip(np.rint(best), low[..., k], high[..., k])
            error[..., k] = q[..., k] * step[..., k] - wanted[..., k]
    result = np.empty_like(q)
    np.put_along_axis(result, np.broadcast_to(rows, q.shape), q, axis=2)
    return result


def refine(
    start: Array,
    wanted: Array,
    second: Array,
    low: Array,
    high: Array,
    sweeps: int = SWEEPS,
    *,
    step: Array | None = None,
) -> Array:
    """Coordinate descent from the integers `start`; the other arguments as of `round_adaptively`."""
    q = start.copy()
    step = np.ones_like(wanted) if step is None else step
    diagonal = np.einsum("gkk->gk", second)
    slope = (q * step - wanted) @ second
    count = wanted.shape[-1]
    for _ in range(sweeps):
        moved = False
        for first in range(0, count, BLOCK):
            last = min(first + BLOCK, count)
            moves = np.zeros((*q.shape[:-1], last - first))
            inside = slope[..., first:last].copy()
            for k in range(first, last):
                here = q[..., k]
                far = -inside[..., k - first] / (diagonal[:, None, k] * step[..., k])
                # At exactly half a step both neighbours are equally good: staying ends the descent.
                best = np.where(np.abs(far) > 0.5 + 1e-9, np.rint(here + far), here)
                move = np.clip(best, low[..., k], high[..., k]) - here
                if move.any():
                    moves[..., k - first] = move * step[..., k]
                    inside += moves[..., k - first, None] * second[:, None, k, first:last]
                    q[..., k] += move
            if moves.any():
                slope += moves @ second[:, first:last, :]
                moved = True
        if not moved:
            break
    return q


def _upper_factor(second: Array) -> Array:
    """R, upper triangular, with H = R Rᵀ: Cholesky's lower factor of H read backwards."""
    factor: Array = np.linalg.cholesky(second[:, ::-1, ::-1]).astype(np.float64)
    return factor[:, ::-1, ::-1]
