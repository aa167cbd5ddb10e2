"""What says which part of an axis is meant, once channels are removed: in Split, Slice, Gather, Pad and Squeeze."""

from __future__ import annotations

import numpy as np

from graphopt.analysis.coupling.groups import Kept
from graphopt.ir import Node, fixed_value
from graphopt.ir.operands import is_given
from graphopt.passes._removal_cuts import Cuts, Mend, axes_of, failure, known_list, known_size, rank_of, said
from graphopt.passes._removal_sizes import Sizes

# A Slice that runs backwards to the front ends before index 0; any end further out than that means it.
_BEFORE_FRONT = -(2**31)


def split_rule(node: Node, cuts: Cuts) -> Mend:
    """Sizes of the parts, where they aren't equal any more."""
    data, axis = node.inputs[0], int(node.attr("axis", 0))
    axis += rank_of(data) if axis < 0 else 0
    kept = cuts.of(data, axis)
    if kept is None:
        return Mend()
    is_stated = is_given(node, "split", 1)
    omitted = any(output.is_empty() for output in node.outputs)
    before = known_list(node, cuts, "split", 1) if omitted else [known_size(t, axis) for t in node.outputs]
    parts = np.split(kept, np.cumsum(before)[:-1])
    for part, output in zip(parts, node.outputs, strict=True):
        if not output.is_empty() and not np.array_equal(part, cuts.all_of(output, axis)):
            raise failure(node, f"'{output.name}' doesn't keep the same channels")
    sizes = [int(part.sum()) for part in parts]
    if is_stated:
        return said(node, "split", 1, sizes)
    if len(set(sizes)) == 1:
        return Mend()
    if cuts.opset < 13:
        return Mend(attrs={"split": sizes})
    attrs = {"num_outputs": None} if "num_outputs" in node.attrs else {}
    return Mend(attrs, {1: Sizes.of(np.array(sizes, dtype=np.int64))})


def slice_rule(node: Node, cuts: Cuts) -> Mend:
    """Bounds and steps, counted among the elements that stay."""
    data, result = node.inputs[0], node.outputs[0]
    starts_tensor = node.input(1)
    if is_given(node, "axes", 3):
        given = known_list(node, cuts, "axes", 3)
    else:
        given = list(range(len(node.attrs["starts"]) if starts_tensor is None else known_size(starts_tensor, 0)))
    axes = axes_of(node, given, rank_of(data))
    if not any(cuts.of(data, axis) is not None for axis in axes):
        return Mend()
    starts, ends = known_list(node, cuts, "starts", 1), known_list(node, cuts, "ends", 2)
    steps = known_list(node, cuts, "steps", 4) if is_given(node, "steps", 4) else [1] * len(starts)
    for place, axis in enumerate(axes):
        kept = cuts.of(data, axis)
        if kept is None:
            continue
        bounds = _bounds(starts[place], ends[place], steps[place])
        read = np.arange(len(kept))[bounds]
        if not np.array_equal(kept[read], cuts.all_of(result, axis)):
            raise failure(node, f"its result doesn't keep the same channels of axis {axis}")
        places = (np.cumsum(kept) - 1)[read[kept[read]]]
        jumps = set(np.diff(places).tolist()) or {steps[place]}
        if len(jumps) != 1:
            raise failure(node, f"it reads axis {axis} in steps, and what stays isn't evenly spaced")
        steps[place] = jumps.pop()
        starts[place] = int(places[0])
        end = int(places[-1]) + (1 if steps[place] > 0 else -1)
        ends[place] = end if end >= 0 else _BEFORE_FRONT
    mends = [said(node, "starts", 1, starts), said(node, "ends", 2, ends)]
    if is_given(node, "steps", 4):
        mends.append(said(node, "steps", 4, steps))
    return Mend({k: v for m in mends for k, v in m.attrs.items()}, {k: v for m in mends for k, v in m.operands.items()})


def _bounds(start: int, end: int, step: int) -> slice:
    """As ONNX means it: an end far before the front, going backwards, takes the first element too."""
    return slice(start, None if step < 0 and end < -(2**30) else end, step)


def gather_rule(node: Node, cuts: Cuts) -> Mend:
    """Indices, counted among the elements that stay."""
    data, indices, result = node.inputs[0], node.inputs[1], node.outputs[0]
    axis = int(node.attr("axis", 0))
    axis += rank_of(data) if axis < 0 else 0
    kept = cuts.of(data, axis)
    before, values = cuts.sizes.before(indices), fixed_value(indices)
    if before is not None and before.known.all():
        values = before.values
    taken = range(axis, axis + rank_of(indices))
    if kept is None and not any(cuts.of(result, a) is not None for a in taken):
        return Mend()
    if values is None:
        raise failure(node, "its indices aren't known before the model runs")
    for place, a in enumerate(taken):
        values = np.compress(cuts.all_of(result, a), values, axis=place)
    if kept is not None:
        values = np.where(values < 0, values + len(kept), values)
        if not kept[values].all():
            raise failure(node, "it reads a channel that is to be removed")
        values = (np.cumsum(kept) - 1)[values]
    return Mend(operands={1: Sizes.of(values.astype(indices.dtype))})


def pad_rule(node: Node, cuts: Cuts) -> Mend:
    """How many elements are added, or dropped, of those that stay."""
    data, result = node.inputs[0], node.outputs[0]
    if not cuts.axes(data) and not cuts.axes(result):
        return Mend()
    given = known_list(node, cuts, "axes", 3) if is_given(node, "axes", 3) else list(range(rank_of(data)))
    axes = axes_of(node, given, rank_of(data))
    pads = known_list(node, cuts, "pads", 1)
    for place, axis in enumerate(axes):
        if cuts.of(data, axis) is None and cuts.of(result, axis) is None:
            continue
        kept, out = cuts.all_of(data, axis), cuts.all_of(result, axis)
        before, after = pads[place], pads[place + len(axes)]
        if (before or after) and node.attr("mode", b"constant") not in ("constant", b"constant"):
            raise failure(node, f"it repeats channels of axis {axis} at the border")
        inner = kept[max(0, -before) : len(kept) - max(0, -after)]
        if not np.array_equal(inner, out[max(0, before) : len(out) - max(0, after)]):
            raise failure(node, f"its result doesn't keep the same channels of axis {axis}")
        pads[place] = _padding(before, out[: max(0, before)], kept[: max(0, -before)])
        pads[place + len(axes)] = _padding(after, out[len(out) - max(0, after) :], kept[len(kept) - max(0, -after) :])
    return said(node, "pads", 1, pads)


def _padding(amount: int, added: Kept, dropped: Kept) -> int:
    """Elements that are added at an end, or dropped there where the amount is negative."""
    return int(added.sum()) if amount >= 0 else -int(dropped.sum())


def squeeze_rule(node: Node, cuts: Cuts) -> Mend:
    """Without axes it would also take an axis of which one element is left."""
    if is_given(node, "axes", 1):
        return Mend()
    data, result = node.inputs[0], node.outputs[0]
    axes = [axis for axis, size in enumerate(data.shape or ()) if size == 1]
    if rank_of(data) - len(axes) != rank_of(result):
        raise failure(node, "it squeezes whatever has size 1, and not all sizes are known")
    return Mend(attrs={"axes": axes}) if cuts.opset < 13 else Mend(operands={1: Sizes.of(np.array(axes, np.int64))})
