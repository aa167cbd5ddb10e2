"""Averages of integers over windows, as DEPTHWISE_CONV_2D with ones.

It rounds halves to even, as ONNX does; AVERAGE_POOL_2D rounds them away from zero, another integer for one of eight
averages over 2 × 2. It takes scales of its own on both sides, too, and XNNPACK runs it, which has no integer
AVERAGE_POOL_2D.

Windows at the edge that read fewer rows, or divide by another number, are convolutions of their own:

    3 × 3, stride 1, pads 1:    2 × 2 | 2 × 3 | 2 × 2
                                3 × 2 | 3 × 3 | 3 × 2
                                2 × 2 | 2 × 3 | 2 × 2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from graphopt.backends.litert_writer.emitter import Emitter
from graphopt.backends.litert_writer.lower_linear import slide
from graphopt.backends.litert_writer.padding import as_image, image_shape, read_image
from graphopt.backends.litert_writer.pooling import average_form, pool_kernel
from graphopt.backends.litert_writer.schema import schema
from graphopt.backends.litert_writer.values import Op, Value
from graphopt.backends.litert_writer.weights import Weight, bias_tensor
from graphopt.backends.litert_writer.windows import Window, stated_pads


@dataclass(frozen=True)
class Run:
    """Windows along one axis, one after the other, that read as many rows and divide by the same number.

    Attributes:
        start: the first row that the first one reads.
        rows: how many each reads.
        divisor: what it divides by along this axis.
        stride: from one to the next.
        count: how many windows.
    """

    start: int
    rows: int
    divisor: int
    stride: int
    count: int

    @property
    def stop(self) -> int:
        """Behind the last row that is read."""
        return self.start + (self.count - 1) * self.stride + self.rows


_WHOLE = Run(0, 1, 1, 1, 1)
_WHOLE_AXES = 0b1001  # of a slice: the batch and the channels


def average_of_integers(em: Emitter, op: Op, found: list[Window]) -> None:
    """AveragePool of integers, with any pads and divisors."""
    if average_form(op) in ("VALID", "PAD"):
        data, channels = op.input(0), op.output.shape[1]
        height, width = [1] * (2 - len(found)) + [w.kernel for w in found]
        slide(em, op, data, found, _ones(op.output, height, width, height * width, channels), None, "DEPTHWISE_CONV_2D")
        return
    include = bool(op.attr("count_include_pad", 0))
    pads = stated_pads(op, op.input(0), pool_kernel(op))
    runs = [_runs(w, w.counted(include, end)) for w, (_, end) in zip(found, pads, strict=True)]
    bands, strips = runs if len(runs) == 2 else ([_WHOLE], runs[0])
    source = read_image(em, op.input(0))
    with as_image(em, op) as (target, activation):
        made: list[int] = []
        for band in bands:
            parts = [_piece(em, op, source, band, strip, activation) for strip in strips]
            made.append(_joined(em, op, parts, 2))
        whole = _joined(em, op, made, 1)
        # The last operator writes the result itself.
        last = em.flat.operators[-1]
        assert last.outputs == (whole,)
        last.outputs = (target,)


def _runs(window: Window, divisors: Sequence[int]) -> list[Run]:
    """The windows of an axis, like ones together."""
    found: list[Run] = []
    for k, divisor in enumerate(divisors):
        begin = k * window.stride - window.before
        start, stop = max(begin, 0), min(begin + window.reach, window.size)
        one = Run(start, stop - start, divisor, window.stride, 1)
        last = found[-1] if found else None
        if last is not None and replace(last, start=last.start + last.count * last.stride, count=1) == one:
            found[-1] = replace(last, count=last.count + 1)
        else:
            found.append(one)
    return found


def _piece(em: Emitter, op: Op, source: int, band: Run, strip: Run, activation: int) -> int:
    """The averages where a run of rows and one of columns meet."""
    data, result = op.input(0), op.output
    batch, height, width, channels = image_shape(data)
    if (band.start, strip.start, band.stop, strip.stop) != (0, 0, height, width):
        begins, ends = [0, band.start, strip.start, 0], [batch, band.stop, strip.stop, channels]
        shape = [end - begin for begin, end in zip(begins, ends, strict=True)]
        cut = em.tensor(f"{data.name}_cut", shape, data.dtype, data.grid, data)
        numbers = (em.ints(n, "cut") for n in (begins, ends, [1] * 4))
        em.add("STRIDED_SLICE", [source, *numbers], [cut], beginMask=_WHOLE_AXES, endMask=_WHOLE_AXES)
        source = cut
    weight = _ones(result, band.rows, strip.rows, band.divisor * strip.divisor, channels)
    filters, bias = weight.store(em, 3), bias_tensor(em, op, weight, None, channels, is_depthwise=True)
    made = em.tensor(result.name, [batch, band.count, strip.count, channels], result.dtype, result.grid, result)
    em.add(
        "DEPTHWISE_CONV_2D", [source, filters, bias], [made], padding=schema().Padding.VALID, strideH=band.stride,
        strideW=strip.stride, dilationHFactor=1, dilationWFactor=1, depthMultiplier=1,
        fusedActivationFunction=activation,
    )  # fmt: skip
    return made


def _ones(result: Value, height: int, width: int, divisor: int, channels: int) -> Weight:
    share = np.full(channels, 1 / divisor, np.float32)
    return Weight(np.ones((1, height, width, channels), np.int8), share, f"{result.name}_ones")


def _joined(em: Emitter, op: Op, parts: Sequence[int], axis: int) -> int:
    if len(parts) == 1:
        return parts[0]
    shapes = [em.flat.tensors[p].shape for p in parts]
    shape = list(shapes[0])
    shape[axis] = sum(s[axis] for s in shapes)
    made = em.tensor(op.output.name, shape, op.output.dtype, op.output.grid, op.output)
    em.add("CONCATENATION", list(parts), [made], axis=axis)
    return made
