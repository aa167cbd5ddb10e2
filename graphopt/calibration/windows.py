"""What a linear layer reads for each position of its result: its input as rows of numbers, one for each weight.

    result[position, channel] = Σ_k weight[channel, k] · row[position, k]

For a convolution a row is the patch under the kernel (im2col); for a ConvTranspose the patch of its input with zeros
between the values, with the kernel mirrored; for a Gemm or MatMul the vector along the input channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from graphopt.ir.linear import Linear

# Steps through positions by the golden ratio, so that any number of them in a row is spread over all.
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Windows:
    """How a layer reads its input.

    Attributes:
        groups: sets of output channels that read the same numbers; a row is cut into as many.
        width: numbers that a group reads for a position; those of all groups are a row.
        channel_axis: axis of the input that holds channels.
        kernel, strides, dilations: for each spatial axis; () for a Gemm or MatMul.
        pads: before, then after, for each spatial axis; negative ones crop.
        auto_pad: "NOTSET", or one that takes the place of `pads`.
        spread: zeros between the values of the input, plus one, for each spatial axis: strides of a ConvTranspose.
    """

    groups: int
    width: int
    channel_axis: int
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    auto_pad: str = "NOTSET"
    spread: tuple[int, ...] = ()

    @staticmethod
    def of(linear: Linear) -> Windows:
        """The windows of a layer. Where a ConvTranspose leaves its pads to be computed, they are taken as 0."""
        width = linear.weight.nbytes // linear.weight.dtype.itemsize // linear.out_channels
        if not linear.is_conv:
            return Windows(1, width, linear.data_channel_axis)
        node, kernel = linear.node, linear.kernel_shape
        rank = len(kernel)

        def sizes(name: str, default: int, count: int = rank) -> tuple[int, ...]:
            return tuple(cast("list[int]", node.attr(name, [default] * count)))

        strides, dilations, pads = sizes("strides", 1), sizes("dilations", 1), sizes("pads", 0, 2 * rank)
        if linear.kind == "Conv":
            auto = str(node.attr("auto_pad", "NOTSET"))
            return Windows(linear.groups, width, 1, kernel, strides, dilations, pads, auto)
        reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
        extra = sizes("output_padding", 0)
        before = [r - p for r, p in zip(reach, pads[:rank], strict=True)]
        after = [r - p + e for r, p, e in zip(reach, pads[rank:], extra, strict=True)]
        ones = (1,) * rank
        return Windows(linear.groups, width, 1, kernel, ones, dilations, (*before, *after), "NOTSET", strides)

    def rows(self, data: NDArray[Any], most: int | None = None, start: int = 0) -> NDArray[np.float32]:
        """The rows of at most `most` positions, spread over all; `start` chooses others.

        Args:
            data: the layer's input.
            most: None means all positions, in order.
            start: any number, such as that of the sample.

        Returns:
            [group, position, width].
        """
        data = np.asarray(data, np.float32)
        if not self.kernel:
            front = np.moveaxis(data, self.channel_axis, -1)
            flat = front.reshape(-1, front.shape[-1])
            chosen = _spread(len(flat), most, start)
            found = flat if chosen is None else flat[chosen]
        else:
            view = self._view(data)
            positions = (view.shape[0], *view.shape[2 : 2 + len(self.kernel)])
            chosen = _spread(prod(positions), most, start)
            where = np.unravel_index(np.arange(prod(positions)) if chosen is None else chosen, positions)
            found = view[where[0], :, *where[1:]]
            if self.spread:
                found = np.flip(found, tuple(range(2, found.ndim)))
        return np.moveaxis(found.reshape(len(found), self.groups, self.width), 1, 0)

    def _view(self, data: NDArray[np.float32]) -> NDArray[np.float32]:
        """[batch, channel, positions…, kernel…], a view of the padded input."""
        rank = len(self.kernel)
        if self.spread:
            sizes = [(n - 1) * s + 1 for n, s in zip(data.shape[2:], self.spread, strict=True)]
            apart = np.zeros((*data.shape[:2], *sizes), np.float32)
            apart[(..., *(slice(None, None, s) for s in self.spread))] = data
            data = apart
        pads = self._pads(data.shape[2:])
        data = np.pad(data, [(0, 0), (0, 0), *((max(b, 0), max(a, 0)) for b, a in pads)])
        crop = tuple(slice(max(-b, 0), n - max(-a, 0)) for (b, a), n in zip(pads, data.shape[2:], strict=True))
        data = data[(..., *crop)]
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        axes = tuple(range(2, 2 + rank))
        view = np.lib.stride_tricks.sliding_window_view(data, reach, axes)
        steps = tuple(slice(None, None, s) for s in self.strides)
        taps = tuple(slice(None, None, d) for d in self.dilations)
        return view[(slice(None), slice(None), *steps, *taps)]

    def _pads(self, sizes: tuple[int, ...]) -> list[tuple[int, int]]:
        """(before, after) for each spatial axis, auto_pad resolved as ONNX defines it."""
        rank = len(self.kernel)
        if self.auto_pad == "VALID":
            return [(0, 0)] * rank
        if not self.auto_pad.startswith("SAME"):
            return list(zip(self.pads[:rank], self.pads[rank:], strict=True))
        found: list[tuple[int, int]] = []
        for n, k, s, d in zip(sizes, self.kernel, self.strides, self.dilations, strict=True):
            total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
            small, large = total // 2, total - total // 2
            found.append((small, large) if self.auto_pad == "SAME_UPPER" else (large, small))
        return found


def _spread(count: int, most: int | None, start: int) -> NDArray[np.intp] | None:
    """`most` of `count` indexes, spread evenly, each once; None for all."""
    if most is None or count <= most:
        return None
    step = max(1, round(count * _GOLDEN))
    while np.gcd(step, count) != 1:
        step += 1
    return np.sort((int(start * _GOLDEN * count) + np.arange(most) * step) % count)
