"""How channels go through operations that move elements: Transpose, Concat, Split, Slice, Gather, Pad, Expand, Tile, …

    Concat of 8 and 24 channels     channels 0–7 go with the first operand, 8–31 with the second
    Split, Slice, Gather            the other way round; what isn't read isn't tied to anything
    Pad                             what is added are channels of their own
    DepthToSpace                    channel c of the result goes with the blocksize² channels that it is made of

The parameters (sizes, starts, indices, pads) follow from which elements are left.
"""

from __future__ import annotations

import numpy as np

from graphopt.analysis.coupling_links import Indices, Links, axes_or_none, every, front_axis
from graphopt.ir import Node, fixed_value
from graphopt.ir.operands import int_list, is_given, parameter


def transpose(node: Node, links: Links) -> None:
    """Axis i of the result is axis perm[i] of the operand."""
    x, y = node.inputs[0], node.outputs[0]
    order = node.attr("perm") or list(reversed(range(links.rank(x))))
    for axis, source in enumerate(order):
        links.same(x, int(source), y, axis)


def concat(node: Node, links: Links) -> None:
    """Parts one behind the other."""
    y = node.outputs[0]
    joined = front_axis(node, "axis", 1, links.rank(y))
    sizes = [links.size(t, joined) for t in node.inputs]
    known = [s for s in sizes if s is not None]
    start = 0
    for part, size in zip(node.inputs, sizes, strict=True):
        for axis in range(links.rank(y)):
            if axis != joined:
                links.same(part, axis, y, axis)
            elif len(known) < len(sizes) or sum(known) != links.size(y, joined):
                links.hold(part, axis, "Concat joins it with parts whose size isn't known")
            elif size is not None:
                links.tie(part, axis, every(size), y, axis, every(size) + start)
                start += size


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


def pad(node: Node, links: Links) -> None:
    """Added constant elements are new ones; other modes copy neighbours."""
    x, y = node.inputs[0], node.outputs[0]
    rank, amounts = links.rank(x), int_list(node, "pads", 1)
    axes = axes_or_none(int_list(node, "axes", 3), rank) if is_given(node, "axes", 3) else list(range(rank))
    if amounts is None or axes is None or len(amounts) != 2 * len(axes):
        return
    for axis in range(rank):
        place = axes.index(axis) if axis in axes else None
        before, after = (0, 0) if place is None else (amounts[place], amounts[place + len(axes)])
        size = links.size(x, axis)
        if before == after == 0:
            links.same(x, axis, y, axis)
        elif size is None or node.attr("mode", "constant") not in ("constant", b"constant"):
            for tensor in (x, y):
                links.hold(tensor, axis, "Pad copies elements of it")
        else:
            kept = every(size)[max(-before, 0) : size - max(-after, 0)]
            links.tie(x, axis, kept, y, axis, kept + before)


def expand(node: Node, links: Links) -> None:
    """Axes of the operand's size go through; new ones are copies, of which any may go."""
    x, y = node.inputs[0], node.outputs[0]
    for axis in range(links.rank(y)):
        own = axis - links.rank(y) + links.rank(x)
        if own >= 0 and links.size(x, own) != 1:
            links.same(x, own, y, axis)
        elif links.shapes.is_static(y, axis):
            links.free(y, axis)


def tile(node: Node, links: Links) -> None:
    """Every copy of an element goes with it."""
    x, y = node.inputs[0], node.outputs[0]
    repeats = parameter(node, "repeats", 1)
    if repeats is None or len(repeats.reshape(-1)) != links.rank(x):
        return
    for axis, count in enumerate(int(r) for r in repeats.reshape(-1)):
        size = links.size(x, axis)
        if count == 1:
            links.same(x, axis, y, axis)
        elif size is not None and count > 0 and links.size(y, axis) == size * count:
            links.tie(y, axis, every(size * count), x, axis, every(size * count) % size)


def depth_to_space(node: Node, links: Links) -> None:
    """DepthToSpace and SpaceToDepth: channels are taken apart or put together by their place in the block."""
    x, y = node.inputs[0], node.outputs[0]
    links.same(x, 0, y, 0)
    deep, flat = (x, y) if node.op == "DepthToSpace" else (y, x)
    count, channels = links.size(deep, 1), links.size(flat, 1)
    block = int(node.attr("blocksize", 1)) ** 2
    if count is not None and channels is not None and count == channels * block:
        by_column = node.attr("mode", "DCR") in ("CRD", b"CRD")
        places = every(count) // block if by_column else every(count) % channels
        links.tie(deep, 1, every(count), flat, 1, places)
    for tensor in (x, y):
        for axis in range(2, links.rank(tensor)):
            links.hold(tensor, axis, f"{node.op} mixes it with channels")


def resize(node: Node, links: Links) -> None:
    """Axes that are scaled by 1 go through; the others are interpolated."""
    x, y = node.inputs[0], node.outputs[0]
    cropped = node.attr("coordinate_transformation_mode", "") in ("tf_crop_and_resize", b"tf_crop_and_resize")
    kept = set[int]() if cropped else _unscaled(node, links)
    for axis in range(links.rank(x)):
        is_static = links.shapes.is_static(x, axis) and links.shapes.is_static(y, axis)
        if axis in kept and is_static and links.size(x, axis) == links.size(y, axis):
            links.same(x, axis, y, axis)
        else:
            for tensor in (x, y):
                links.hold(tensor, axis, f"{node.op} interpolates along it")


def _unscaled(node: Node, links: Links) -> set[int]:
    """Axes that a Resize or Upsample certainly leaves alone. Resize has its scales behind a region since opset 11."""
    rank = links.rank(node.inputs[0])
    axes = axes_or_none([int(a) for a in node.attr("axes", range(rank))], rank) or []
    scales = parameter(node, "scales", 1 if node.op == "Upsample" or len(node.inputs) == 2 else 2)
    if scales is not None and len(scales) == len(axes):
        return {a for a, scale in zip(axes, scales, strict=True) if scale == 1} | (set(range(rank)) - set(axes))
    # With `sizes`, computed or not, the scale is the result's size by the operand's.
    return set(range(rank)) if node.input(3) is not None else set(range(rank)) - set(axes)


def triangle(node: Node, links: Links) -> None:
    """Trilu: the last two axes are compared with each other."""
    x, y = node.inputs[0], node.outputs[0]
    for axis in range(links.rank(x)):
        links.same(x, axis, y, axis)
        if axis >= links.rank(x) - 2:
            links.hold(x, axis, "Trilu takes its diagonal")
