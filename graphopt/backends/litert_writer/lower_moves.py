"""Operators that move, join, cut and repeat values."""

from __future__ import annotations

import math

import numpy as np

from graphopt.backends.litert_writer.emitter import Emitter, Lowering, Scrambled
from graphopt.backends.litert_writer.layout import (
    Order,
    axis_groups,
    channels_last,
    core,
    logical,
    reshaped,
    transposed,
)
from graphopt.backends.litert_writer.lower_elementwise import on_grid
from graphopt.backends.litert_writer.schema import schema
from graphopt.backends.litert_writer.values import Op, UnwritableError, Value
from graphopt.ir.operands import normalized_axes


def _axis(op: Op, default: int, rank: int) -> int:
    if not rank:
        raise UnwritableError("it reads along an axis of a tensor without axes, or of unknown rank")
    return int(op.attr("axis", default)) % rank


def transpose(em: Emitter, op: Op) -> None:
    """Transpose: the axes get other names, the bytes stay."""
    data = op.input(0)
    perm = [int(p) for p in op.attr("perm") or reversed(range(data.rank))]
    if data.array is not None:
        em.want(data, logical(data.rank))
    for order in em.orders(data):
        em.stored.setdefault(op.output, {})[transposed(order, perm)] = em.want(data, order)


def reshape(em: Emitter, op: Op) -> None:
    """Reshape and its kin: free where the joined or split axes are next to each other as stored."""
    data, result = op.input(0), op.output
    if data.array is not None:
        em.want(data, logical(data.rank))
    wish = em.wish(result)
    known = em.orders(data)
    if not known and data in em.scrambled:
        em.want(data, logical(data.rank))
        known = em.orders(data)
    free = [(source, target) for source in known if (target := reshaped(data, result, source, wish)) is not None]
    if not free:
        if _scramble(em, data, result):
            return
        order = _cheapest(em, data, result)
        target = reshaped(data, result, order, wish)
        assert target is not None  # both orders that are tried keep the groups together
        free = [(order, target)]
    source, order = next((f for f in free if f[1] == wish), free[0])
    shape = [result.shape[axis] for axis in order]
    dynamic = [k for k, axis in enumerate(order) if axis in result.dynamic]
    tensor = em.want(data, source)
    made = em.declare(result, order)
    em.reshape(tensor, made, shape, dynamic)


def _cheapest(em: Emitter, data: Value, result: Value) -> Order:
    """The order to bring the input to: the one that keeps what its readers want, or ONNX's own."""
    wish = em.wish(result)
    if wish is not None:
        back = reshaped(result, data, wish)
        if back is not None and reshaped(data, result, back) is not None:
            return back
    return logical(data.rank)


def _scramble(em: Emitter, data: Value, result: Value) -> bool:
    """Flatten [N, C, H, W] → [N, C·H·W] of what is stored channels last: note how the elements are mixed.

    Whoever needs ONNX's order makes it from there (`Emitter.unscramble`).
    """
    groups = axis_groups(data, result)
    if groups is None:
        return False
    *front, (ins, outs) = groups
    joined = core(data, ins)
    if outs != [result.rank - 1] or not joined or data.dynamic & set(joined):
        return False
    leading = tuple(axis for group, _ in front for axis in core(data, group))
    stored = next((o for o in em.orders(data) if core(data, o)[: len(leading)] == leading), None)
    if stored is None:
        return False
    inner = core(data, stored)[len(leading) :]
    numbers = np.arange(math.prod(data.shape[a] for a in joined)).reshape([data.shape[a] for a in joined])
    index = numbers.transpose([joined.index(a) for a in inner]).reshape(-1)
    made = em.temporary(result, logical(result.rank))
    em.reshape(em.want(data, stored), made, result.shape, sorted(result.dynamic))
    em.scrambled[result] = Scrambled(made, index)
    em.stored.setdefault(result, {})
    return True


def concat(em: Emitter, op: Op) -> None:
    """Concat → CONCATENATION; integers are brought to the result's grid first."""
    values = [v for v in op.inputs if v is not None]
    order = em.common_order(values, op.output)
    axis = order.index(_axis(op, 1, op.output.rank))
    operands = [on_grid(em, em.want(v, order), op.output.grid) for v in values if v.size]
    target, activation = em.result(op, order)
    em.add("CONCATENATION", operands, [target], axis=axis, fusedActivationFunction=activation)


def split(em: Emitter, op: Op) -> None:
    """Split → SPLIT, or SPLIT_V for pieces of different sizes."""
    data = op.input(0)
    order = em.common_order([data], data)
    axis = order.index(_axis(op, 0, data.rank))
    pieces = [v if v is not None else None for v in op.outputs]
    sizes = op.ints(1, "split")
    if sizes is None:
        count, whole = len(pieces), data.shape[order[axis]]
        each = -(-whole // count)
        sizes = [each] * (count - 1) + [whole - each * (count - 1)]
    source = em.want(data, order)
    targets: list[int] = []
    for value, size in zip(pieces, sizes, strict=True):
        if value is not None:
            targets.append(em.declare(value, order))
            continue
        shape = [size if k == axis else data.shape[a] for k, a in enumerate(order)]
        targets.append(em.tensor(f"{data.name}_unused", shape, data.dtype, data.grid, data))
    along = em.array(np.array(axis, np.int32), "axis")
    if len(set(sizes)) == 1:
        em.add("SPLIT", [along, source], targets, numSplits=len(sizes))
    else:
        em.add("SPLIT_V", [source, em.ints(sizes, "sizes"), along], targets, numSplits=len(sizes))


_MAX = 2**31 - 1


def slice_(em: Emitter, op: Op) -> None:
    """Slice → STRIDED_SLICE."""
    data = op.input(0)
    starts, ends = op.ints(1, "starts"), op.ints(2, "ends")
    if starts is None or ends is None:
        raise UnwritableError("its starts or ends are missing")
    axes = normalized_axes(op.ints(3, "axes") or list(range(len(starts))), data.rank)
    steps = op.ints(4, "steps") or [1] * len(starts)
    if axes is None:
        raise UnwritableError("its axes are out of range")
    order = em.common_order([data], op.output)
    begin, end, stride, begin_mask, end_mask = [0] * data.rank, [0] * data.rank, [1] * data.rank, 0, 0
    by_axis = dict(zip(axes, zip(starts, ends, steps, strict=True), strict=True))
    for k, axis in enumerate(order):
        size = data.shape[axis]
        if axis not in by_axis:
            begin_mask |= 1 << k
            end_mask |= 1 << k
            continue
        first, last, step = by_axis[axis]
        if axis in data.dynamic:
            begin[k], end[k], stride[k] = (max(min(v, _MAX), -_MAX) for v in (first, last, step))
            continue
        # As Python slices: out of range limits are clamped; a negative stop of a reversed slice is "to the end".
        indices = range(*slice(first, last, step).indices(size))
        begin[k], stride[k] = indices.start if len(indices) else 0, step
        end[k] = indices.stop if len(indices) else 0
        if end[k] < 0:
            end_mask |= 1 << k
    source = em.want(data, order)
    target = em.declare(op.output, order)
    operands = [em.ints(v, name) for v, name in ((begin, "begin"), (end, "end"), (stride, "strides"))]
    em.add("STRIDED_SLICE", [source, *operands], [target], beginMask=begin_mask, endMask=end_mask)


def pad(em: Emitter, op: Op) -> None:
    """Pad → PAD, PADV2 or MIRROR_PAD; negative pads are a slice."""
    data = op.input(0)
    amounts = op.ints(1, "pads")
    mode = op.attr("mode", "constant")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    if amounts is None:
        raise UnwritableError("its pads are missing")
    if mode not in ("constant", "reflect"):
        raise UnwritableError(f"LiteRT has no padding of mode '{mode}'")
    axes = normalized_axes(op.ints(3) or list(range(data.rank)), data.rank)
    if axes is None:
        raise UnwritableError("its axes are out of range")
    rows = [[0, 0] for _ in range(data.rank)]
    for k, axis in enumerate(axes):
        rows[axis] = [amounts[k], amounts[k + len(axes)]]
    order = em.common_order([data], op.output)
    source = em.want(data, order)
    if any(amount < 0 for pair in rows for amount in pair):
        source, rows = _cropped(em, data, order, source, rows)
    stored = em.array(np.array([rows[axis] for axis in order], np.int32), "paddings")
    target, _ = em.result(op, order, fuses=False)
    if mode == "reflect":
        em.add("MIRROR_PAD", [source, stored], [target], mode=schema().MirrorPadMode.REFLECT)
        return
    value = op.constant(2, "value")
    if value is None or not value.reshape(()):
        em.add("PAD", [source, stored], [target])
        return
    grid = op.output.grid
    real = value.reshape(())
    filler = real.astype(op.output.dtype) if grid is None else grid.quantize(real)
    em.add("PADV2", [source, stored, em.array(np.asarray(filler), "filler", grid)], [target])


def _cropped(em: Emitter, data: Value, order: Order, source: int, rows: list[list[int]]) -> tuple[int, list[list[int]]]:
    begin = [max(-rows[axis][0], 0) for axis in order]
    end = [data.shape[axis] + min(rows[axis][1], 0) for axis in order]
    shape = [e - b for b, e in zip(begin, end, strict=True)]
    made = em.tensor(f"{data.name}_cropped", shape, data.dtype, data.grid, data)
    # A batch is never padded: its end is wherever it ends.
    mask = sum(1 << k for k, axis in enumerate(order) if axis in data.dynamic)
    operands = [em.ints(v, name) for v, name in ((begin, "begin"), (end, "end"), ([1] * len(begin), "strides"))]
    em.add("STRIDED_SLICE", [source, *operands], [made], endMask=mask)
    return made, [[max(a, 0), max(b, 0)] for a, b in rows]


def gather(em: Emitter, op: Op) -> None:
    """Gather → GATHER: the axis is replaced by those of the indices."""
    data, indices = op.input(0), op.input(1)
    axis = _axis(op, 0, data.rank)
    order = next(iter(em.orders(data)), logical(data.rank))
    source = em.want(data, order)
    if indices.array is not None:
        # LiteRT doesn't count negative indices from the end.
        positive = np.where(indices.array < 0, indices.array + data.shape[axis], indices.array).astype(np.int32)
        where = em.array(positive, indices.name)
    else:
        where = em.want(indices, logical(indices.rank))
    position = order.index(axis)

    def after(a: int) -> int:
        return a if a < axis else a + indices.rank - 1

    found = [after(a) for a in order[:position]]
    found += [axis + k for k in range(indices.rank)]
    found += [after(a) for a in order[position + 1 :]]
    target = em.declare(op.output, tuple(found))
    em.add("GATHER", [source, where], [target], axis=position)


def tile(em: Emitter, op: Op) -> None:
    """Tile → TILE."""
    data = op.input(0)
    repeats = op.ints(1)
    if repeats is None:
        raise UnwritableError("its repeats are missing")
    order = em.common_order([data], op.output)
    source = em.want(data, order)
    em.add("TILE", [source, em.ints([repeats[a] for a in order], "repeats")], [em.declare(op.output, order)])


def expand(em: Emitter, op: Op) -> None:
    """Expand → BROADCAST_TO."""
    data, result = op.input(0), op.output
    if result.dynamic:
        raise UnwritableError("its shape changes with the batch")
    source = em.want(data, logical(data.rank))
    order = logical(result.rank)
    em.add("BROADCAST_TO", [source, em.ints(result.shape, "shape")], [em.declare(result, order)])


def depth_to_space(em: Emitter, op: Op) -> None:
    """DepthToSpace → DEPTH_TO_SPACE, which reads channels as DCR; CRD has them in another order first."""
    data, block = op.input(0), int(op.attr("blocksize"))
    mode = op.attr("mode", "DCR")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    order = channels_last(4)
    source = em.want(data, order)
    if mode == "CRD":
        depth = data.shape[1] // block**2
        index = np.arange(data.shape[1]).reshape(depth, block, block).transpose(1, 2, 0).reshape(-1)
        mixed = em.temporary(data, order)
        em.add("GATHER", [source, em.array(index.astype(np.int32), "channels")], [mixed], axis=3)
        source = mixed
    em.add("DEPTH_TO_SPACE", [source], [em.declare(op.output, order)], blockSize=block)


def space_to_depth(em: Emitter, op: Op) -> None:
    """SpaceToDepth → SPACE_TO_DEPTH."""
    order = channels_last(4)
    source = em.want(op.input(0), order)
    em.add("SPACE_TO_DEPTH", [source], [em.declare(op.output, order)], blockSize=int(op.attr("blocksize")))


LOWERINGS: dict[str, Lowering] = {
    "Transpose": transpose,
    "Reshape": reshape,
    "Flatten": reshape,
    "Squeeze": reshape,
    "Unsqueeze": reshape,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Pad": pad,
    "Gather": gather,
    "Tile": tile,
    "Expand": expand,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
}
