"""How channels go through operations that move elements: Transpose, Concat, Pad, Expand, Tile, Resize, …

    Concat of 8 and 24 channels     channels 0–7 go with the first operand, 8–31 with the second
    Pad                             what is added are channels of their own
    DepthToSpace                    channel c of the result goes with the blocksize² channels that it is made of

The parameters (targets, pads, copies) follow from which elements are left.
"""

from __future__ import annotations

from graphopt.analysis.coupling.links import Links, axes_or_none, every, front_axis
from graphopt.ir import Node
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
