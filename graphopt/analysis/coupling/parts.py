"""How channels go through operations that take parts of an axis: Split, Slice and Gather.

    Split of 32 channels into 8 and 24      channels 0–7 go with the first result, 8–31 with the second
    Slice with step 2                       pairs of channels go, so that the step stays right
    Gather of channels 7, 0, 0              what is read goes with every place where it is read

What isn't read isn't tied to anything. Sizes, bounds and indices follow from which elements are left.
"""

from __future__ import annotations

import numpy as np

from graphopt.analysis.coupling.links import Indices, Links, axes_or_none, every, front_axis
from graphopt.ir import Node, fixed_value
from graphopt.ir.operands import int_list, is_given


def split(node: Node, links: Links) -> None:
    """Parts one behind the other, apart."""
    x = node.inputs[0]
    cut = front_axis(node, "axis", 0, links.rank(x))
    sizes = [links.size(t, cut) if not t.is_empty() else None for t in node.outputs]
    if None in sizes:
        sizes = list(int_list(node, "split", 1) or [None])
    known = [s for s in sizes if s is not None]
    start = 0
    for index, part in enumerate(node.outputs):
        if part.is_empty():
            start += known[index] if index < len(known) else 0
            continue
        for axis in range(links.rank(x)):
            if axis != cut:
                links.same(x, axis, part, axis)
            elif len(known) != len(node.outputs) or sum(known) != links.size(x, cut):
                links.hold(x, axis, "the sizes of Split aren't known")
            else:
                links.tie(x, axis, every(known[index]) + start, part, axis, every(known[index]))
                start += known[index]


def slice_(node: Node, links: Links) -> None:
    """Runs of elements; with a step s, s elements in a row go together, so that the step stays right."""
    x, y = node.inputs[0], node.outputs[0]
    rank = links.rank(x)
    starts, ends = int_list(node, "starts", 1), int_list(node, "ends", 2)
    steps = int_list(node, "steps", 4) if is_given(node, "steps", 4) else [1] * rank
    named = int_list(node, "axes", 3) if is_given(node, "axes", 3) else list(range(len(starts or ends or [])))
    axes = axes_or_none(named, rank)
    if axes is None or (starts is None and ends is None and not is_given(node, "axes", 3)):
        return
    for axis in range(rank):
        if axis not in axes:
            links.same(x, axis, y, axis)
            continue
        size, place = links.size(x, axis), axes.index(axis)
        if size is None or starts is None or ends is None or steps is None or links.size(y, axis) is None:
            reason = "it isn't known what Slice takes of it"
            links.hold(x, axis, reason)
            links.hold(y, axis, reason)
            continue
        step = steps[place]
        taken = every(size)[slice(*_bounds(starts[place], ends[place], step, size))]
        if len(taken) == size and step == 1:
            links.same(x, axis, y, axis)
            continue
        if len(taken) != links.size(y, axis) or size % abs(step):
            reason = f"Slice takes one in {abs(step)} of it"
            links.hold(x, axis, reason)
            links.hold(y, axis, reason)
            continue
        links.tie(x, axis, taken, y, axis, every(len(taken)))
        if abs(step) > 1:
            links.tie(x, axis, every(size), x, axis, every(size) // abs(step) * abs(step))


def _bounds(start: int, end: int, step: int, size: int) -> tuple[int, int | None, int]:
    """ONNX's start and end as Python's: clamped to the axis; an end before the first element is None."""
    start = start + size if start < 0 else start
    end = end + size if end < 0 else end
    if step > 0:
        return min(max(start, 0), size), min(max(end, 0), size), step
    return min(max(start, 0), size - 1), (None if end < 0 else min(end, size - 1)), step


def gather(node: Node, links: Links) -> None:
    """With known indices along one axis, elements go with those that are picked; an embedding keeps its rows."""
    x, indices, y = node.inputs[0], node.inputs[1], node.outputs[0]
    axis, extra = front_axis(node, "axis", 0, links.rank(x)), links.rank(indices)
    for own in range(links.rank(x)):
        if own != axis:
            links.same(x, own, y, own if own < axis else own + extra - 1)
    for own in range(extra):
        links.same(indices, own, y, axis + own)
    size, values = links.size(x, axis), fixed_value(indices)
    if values is None or size is None:
        links.hold(x, axis, "Gather picks from it by computed indices")
        return
    picked: Indices = np.where(values < 0, values + size, values).astype(np.int64).reshape(-1)
    if picked.size and (picked.min() < 0 or picked.max() >= size):
        links.hold(x, axis, "Gather picks what isn't there")
    elif extra == 1:
        links.tie(x, axis, picked, y, axis, every(len(picked)))
    else:
        links.hold(x, axis, "Gather picks single elements of it", picked)
        if not picked.size:
            links.free(x, axis)
