"""Give a Pad's zeros to the operator that reads it, which pads for nothing.

    p = Pad(x, [0,0,1,1, 0,0,1,1]); y = Conv(p, W)      →      y = Conv(x, W, pads=[1,1,1,1])

Exact for Conv and LpPool, whose own padding is zeros. AveragePool: its padding must count in the average
(count_include_pad), which is set when it had no padding of its own. MaxPool pads with −∞: exact when the Pad does so
too, or when it pads with 0 and the input is never negative (after a Relu), as every window holds a real element.

Each reader is treated on its own; the Pad stays for those that can't take it. Declines: another mode than constant,
another value, pads known at run time only, negative ones, padded batch or channel axes, auto_pad SAME, pooling pads as
long as the window (onnxruntime refuses them), ceil_mode, MaxPool's indices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Graph, Node
from graphopt.ir.operands import int_list, is_given, normalized_axes, parameter
from graphopt.ir.ops import is_never_negative
from graphopt.pipeline import Context, Pass

_READERS = ("Conv", "LpPool", "AveragePool", "MaxPool")


@dataclass(frozen=True)
class FoldPad(Pass):
    """Fold Pad into the padding of Conv and pooling."""

    name: ClassVar[str] = "fold-pad"
    summary: ClassVar[str] = "give the zeros of a Pad to the Conv or pooling that reads it"
    lossless: ClassVar[bool] = True

    def run(self, graph: Graph, ctx: Context) -> None:
        """Visit each Pad; a Pad of a Pad is taken in two steps when they are visited from the last."""
        for scope in graph.walk():
            for node in reversed(list(scope.live_nodes())):
                if node.scope is not None and node.is_op("Pad"):
                    _fold(scope, node, ctx)


def _fold(graph: Graph, pad: Node, ctx: Context) -> None:
    output = pad.outputs[0]
    readers = [n for n in graph.consumers(output) if n.is_op(*_READERS) and n.inputs[0] is output]
    for reader in readers:
        rank = _spatial_rank(reader)
        if rank is None:
            ctx.remarks.declined(reader, "its number of axes isn't known")
            continue
        pads = _spatial_pads(pad, rank)
        reason = pads if isinstance(pads, str) else _refusal(pad, reader, pads)
        if isinstance(pads, str) or reason is not None:
            ctx.remarks.declined(reader, f"it can't take over {pad}: {reason}")
            continue
        own = reader.attr("pads") or [0] * (2 * rank)
        graph.set_attr(reader, "pads", [a + b for a, b in zip(own, pads, strict=True)])
        graph.set_attr(reader, "auto_pad", None)
        if reader.op == "AveragePool":
            graph.set_attr(reader, "count_include_pad", 1)
        graph.set_input(reader, 0, pad.inputs[0])
        ctx.remarks.applied(reader, f"it pads by {reader.attrs['pads']} itself, for {pad}")
    if readers and not output.outputs and not graph.is_output(output):
        graph.remove(pad)


def _spatial_rank(reader: Node) -> int | None:
    """Number of spatial axes, from the window or the weight."""
    if reader.attr("kernel_shape"):
        return len(reader.attr("kernel_shape"))
    weight = reader.input(1)
    return None if weight is None or weight.shape is None else len(weight.shape) - 2


def _spatial_pads(pad: Node, rank: int) -> list[int] | str:
    """What the Pad adds to the spatial axes, [begin…, end…] as Conv wants it, or why that can't be said."""
    if pad.attr("mode", "constant") != "constant":
        return f"its mode is {pad.attr('mode')}"
    pads = int_list(pad, "pads", 1)
    axes = int_list(pad, "axes", 3) if is_given(pad, "axes", 3) else list(range(rank + 2))
    axes = None if axes is None else normalized_axes(axes, rank + 2)
    if pads is None or axes is None or len(pads) != 2 * len(axes):
        return "its pads are known at run time only"
    begin, end = [0] * (rank + 2), [0] * (rank + 2)
    for i, axis in enumerate(axes):
        begin[axis], end[axis] = pads[i], pads[i + len(axes)]
    if min(pads, default=0) < 0:
        return "it cuts (negative pads)"
    if any(begin[:2] + end[:2]):
        return "it pads the batch or the channels"
    return begin[2:] + end[2:]


def _refusal(pad: Node, reader: Node, pads: list[int]) -> str | None:
    """Why `reader` can't do this padding itself, or None."""
    value = _value(pad)
    if value is None:
        return "its value is known at run time only"
    if reader.attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return f"auto_pad is {reader.attr('auto_pad')}"
    if reader.op == "Conv":
        return None if value == 0 else f"it pads with {value:g}, Conv with 0"
    own = reader.attr("pads") or [0] * len(pads)
    window = list(reader.attr("kernel_shape", [])) * 2
    if any(a + b >= size for a, b, size in zip(own, pads, window, strict=True)):
        return "the padding would be as long as the window"
    if reader.attr("ceil_mode", 0):
        return "ceil_mode adds windows that depend on where the padding is"
    if reader.op == "MaxPool":
        return _max_pool_refusal(pad, reader, value)
    if value != 0:
        return f"it pads with {value:g}, {reader.op} with 0"
    if reader.op == "AveragePool" and any(own) and not reader.attr("count_include_pad", 0):
        return "the average leaves out its own padding but counts this one"
    return None


def _max_pool_refusal(pad: Node, reader: Node, value: float) -> str | None:
    if len(reader.outputs) > 1 and not reader.outputs[1].is_empty():
        return "its indices count in the padded tensor"
    if value == -math.inf:
        return None
    if value != 0:
        return f"it pads with {value:g}, MaxPool with −∞"
    if any(d != 1 for d in reader.attr("dilations", [1])):
        return "a dilated window may hold padding only"
    return None if is_never_negative(pad.inputs[0]) else "its 0 may be more than the values, which may be negative"


def _value(pad: Node) -> float | None:
    if not is_given(pad, "value", 2):
        return 0.0
    value = parameter(pad, "value", 2)
    return None if value is None or value.size != 1 else float(value.reshape(-1)[0])
