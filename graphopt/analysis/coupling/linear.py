"""How channels go through sums of products: Conv, ConvTranspose, Gemm, MatMul, Einsum, and the inputs of LSTM and GRU.

    Conv               x:1 – w:1                    w:0 – b:0 – y:1
    grouped            whole groups: x:1, w:0, b and y:1 of a group are one unit; `group` shrinks
                       positions:    the k-th input channel of every group and w:1[k]; one output of every group
    MatMul             a:−1 – b:−2                  a:−2 – y:−2, b:−1 – y:−1; batch axes as in an elementwise operation

What is summed over may go from both operands: what is left reads as if it were zero.
"""

from __future__ import annotations

from graphopt.analysis.coupling.links import Links, broadcast, every, is_stored
from graphopt.analysis.coupling.shapes import Shapes
from graphopt.ir import Node, Tensor


def conv(node: Node, shapes: Shapes) -> list[Links]:
    """Conv and ConvTranspose."""
    x, w, y = node.inputs[0], node.inputs[1], node.outputs[0]
    transposed = node.op == "ConvTranspose"
    in_axis, out_axis = (0, 1) if transposed else (1, 0)
    sizes = shapes.size(x, 1), shapes.size(y, 1), shapes.size(w, 0), shapes.size(w, 1)
    groups = int(node.attr("group", 1))
    if any(s is None for s in sizes):
        return [_window(node, Links(node, shapes))]
    ins, outs = sizes[0] or 0, sizes[1] or 0
    n_in, n_out = ins // max(groups, 1), outs // max(groups, 1)
    if groups < 1 or n_in * groups != ins or n_out * groups != outs or not n_in or not n_out:
        return [_window(node, Links(node, shapes))]
    if groups == 1:
        links = _window(node, Links(node, shapes))
        links.same(x, 1, w, in_axis)
        links.same(w, out_axis, y, 1)
        _bias(node, links)
        return [links]
    if n_in == n_out == 1:
        links = _window(node, Links(node, shapes))
        links.same(x, 1, y, 1)
        links.same(w, 0, y, 1)
        _bias(node, links)
        return [links]
    ways = [_whole_groups(node, shapes, groups, n_in, n_out), _positions(node, shapes, groups, n_in, n_out)]
    return ways if groups >= n_in else ways[::-1]


def _window(node: Node, links: Links) -> Links:
    """Batch and spatial axes."""
    x, w, y = node.inputs[0], node.inputs[1], node.outputs[0]
    links.same(x, 0, y, 0)
    for tensor in (x, y, w):
        for axis in range(2, links.rank(tensor)):
            links.hold(tensor, axis, f"{node.op} moves a window over it")
    return links


def _bias(node: Node, links: Links) -> None:
    bias = node.input(2)
    if bias is not None:
        links.same(bias, 0, node.outputs[0], 1)


def _whole_groups(node: Node, shapes: Shapes, groups: int, n_in: int, n_out: int) -> Links:
    """A unit is a group: all its input and output channels. w:1 is what all groups have in common."""
    x, w, y = node.inputs[0], node.inputs[1], node.outputs[0]
    links = _window(node, Links(node, shapes))
    first = every(groups * n_out) // n_out * n_out
    links.tie(y, 1, every(groups * n_out), y, 1, first)
    links.tie(x, 1, every(groups * n_in), y, 1, every(groups * n_in) // n_in * n_out)
    links.same(w, 0, *((x, 1) if node.op == "ConvTranspose" else (y, 1)))
    links.hold(w, 1, f"all groups of {node.op} have it in common")
    _bias(node, links)
    return links


def _positions(node: Node, shapes: Shapes, groups: int, n_in: int, n_out: int) -> Links:
    """Each group loses equally many channels. Those along w:1 go at the same place in all of them."""
    x, w, y = node.inputs[0], node.inputs[1], node.outputs[0]
    links = _window(node, Links(node, shapes))
    if node.op == "ConvTranspose":
        links.same(w, 0, x, 1)
        links.balance(x, 1, groups)
        links.tie(y, 1, every(groups * n_out), w, 1, every(groups * n_out) % n_out)
    else:
        links.same(w, 0, y, 1)
        links.balance(y, 1, groups)
        links.tie(x, 1, every(groups * n_in), w, 1, every(groups * n_in) % n_in)
    _bias(node, links)
    return links


def gemm(node: Node, links: Links) -> None:
    """The product y = op(a) · op(b) + c."""
    a, b, y = node.inputs[0], node.inputs[1], node.outputs[0]
    rows, inner = (1, 0) if node.attr("transA", 0) else (0, 1)
    columns, inner_b = (0, 1) if node.attr("transB", 0) else (1, 0)
    links.same(a, rows, y, 0)
    links.same(b, columns, y, 1)
    links.same(a, inner, b, inner_b)
    bias = node.input(2)
    if bias is not None:
        broadcast(links, bias, y)


def matmul(node: Node, links: Links) -> None:
    """Batched, with numpy's rules for vectors."""
    a, b, y = node.inputs[0], node.inputs[1], node.outputs[0]
    rank_a, rank_b, rank = links.rank(a), links.rank(b), links.rank(y)
    links.same(a, rank_a - 1, b, max(rank_b - 2, 0))
    behind = (rank_a > 1) + (rank_b > 1)  # axes of the result that aren't batches
    if rank_a > 1:
        links.same(a, rank_a - 2, y, rank - behind)
    if rank_b > 1:
        links.same(b, rank_b - 1, y, rank - 1)
    batches = rank - behind
    for operand, own in ((a, rank_a - 2), (b, rank_b - 2)):
        for axis in range(max(own, 0)):
            if links.size(operand, axis) != 1:
                links.same(operand, axis, y, axis + batches - own)
    if not is_stored(a) and not is_stored(b):
        for axis in range(batches):
            links.batch(y, axis)


def einsum(node: Node, links: Links) -> None:
    """Axes of one letter go together; those that are summed over may go from all operands."""
    equation = node.attr("equation", b"")
    text = (equation.decode() if isinstance(equation, bytes) else str(equation)).replace(" ", "")
    terms, arrow, result = text.partition("->")
    operands = terms.split(",")
    if not arrow:
        letters = [c for c in terms if c.isalpha()]
        result = ("..." if "..." in terms else "") + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    if len(operands) != len(node.inputs):
        return
    y = node.outputs[0]
    labelled: list[tuple[Tensor, list[str]]] = [
        (tensor, _labels(term, links.rank(tensor)))
        for term, tensor in zip((*operands, result), (*node.inputs, y), strict=True)
    ]
    if any(len(labels) != links.rank(tensor) or len(set(labels)) != len(labels) for tensor, labels in labelled):
        return  # a letter twice in one operand takes a diagonal
    places: dict[str, tuple[Tensor, int]] = {}
    for tensor, labels in reversed(labelled):
        for axis, label in enumerate(labels):
            if links.size(tensor, axis) == 1:
                continue
            if label in places:
                links.same(tensor, axis, *places[label])
            else:
                places[label] = (tensor, axis)
                links.free(tensor, axis)
    for axis, label in enumerate(labelled[-1][1]):
        computed = [labels for tensor, labels in labelled[:-1] if not is_stored(tensor)]
        if len(computed) > 1 and all(label in labels for labels in computed):
            links.batch(y, axis)


def _labels(term: str, rank: int) -> list[str]:
    """A label for each axis; those of an ellipsis are numbered from the end, as in broadcasting."""
    before, dots, after = term.partition("...")
    missing = rank - len(before) - len(after)
    return [*before, *(str(i) for i in range(missing if dots else 0, 0, -1)), *after]


def recurrent(node: Node, links: Links) -> None:
    """LSTM, GRU and RNN: the input's channels may go; the hidden ones stay, since the state keeps what is removed."""
    x, w = node.inputs[0], node.inputs[1]
    links.same(x, links.rank(x) - 1, w, links.rank(w) - 1)
    reason = f"{node.op} carries it from step to step"
    for tensor in (*links.results(), *(t for i, t in node.present_inputs() if i in (2, 5, 6))):
        if links.rank(tensor):
            links.hold(tensor, links.rank(tensor) - 1, reason)
