"""Sliding windows: what ONNX's pads, strides and rounding mean in terms of LiteRT's SAME and VALID.

    SAME:  size_out = ceil(size_in / stride), the missing rows are split evenly, the odd one at the end
    VALID: no rows are added

What neither of them says exactly becomes an explicit PAD before a VALID window.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.backends.litert_writer.values import Op, UnwritableError, Value


@dataclass(frozen=True)
class Window:
    """A window along one spatial axis.

    Attributes:
        size, out: elements of the input and output along the axis.
        kernel, stride, dilation: of the window.
        before, after: rows of padding that a window reads; `after` can be negative: rows that none reads.
        is_dynamic: whether the size changes with the batch.
    """

    size: int
    out: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def reach(self) -> int:
        """Rows from a window's first to its last."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def is_valid(self) -> bool:
        """Whether VALID is exact."""
        return self.before == 0 and self.after <= 0 and self.out == (self.size - self.reach) // self.stride + 1

    @property
    def is_same(self) -> bool:
        """Whether SAME is exact."""
        total = max((self.out - 1) * self.stride + self.reach - self.size, 0)
        return self.out == -(-self.size // self.stride) and self.before == total // 2

    @property
    def padding(self) -> tuple[int, int]:
        """Rows for an explicit PAD."""
        return (self.before, max(self.after, 0))

    def counted(self, include_pad: bool, pads_end: int) -> list[int]:
        """For each window, by how many rows an average divides: those in the input, or in input and stated pads."""
        low, high = (-self.before, self.size + pads_end) if include_pad else (0, self.size)
        begins = [k * self.stride - self.before for k in range(self.out)]
        return [max(0, min(begin + self.reach, high) - max(begin, low)) for begin in begins]


def windows(op: Op, kernel: tuple[int, ...]) -> list[Window]:
    """The windows of a Conv or pool, one for each spatial axis."""
    data, result = op.input(0), op.output
    if any(axis > 1 for axis in data.dynamic):
        raise UnwritableError("a spatial size changes with the batch")
    rank = len(kernel)
    strides = [int(s) for s in op.attr("strides") or [1] * rank]
    dilations = [int(d) for d in op.attr("dilations") or [1] * rank]
    found: list[Window] = []
    for k, (before, _) in enumerate(stated_pads(op, data, kernel)):
        size, out, reach = data.shape[2 + k], result.shape[2 + k], dilations[k] * (kernel[k] - 1) + 1
        after = (out - 1) * strides[k] + reach - size - before
        found.append(Window(size, out, kernel[k], strides[k], dilations[k], before, after))
    return found


def stated_pads(op: Op, data: Value, kernel: tuple[int, ...]) -> list[tuple[int, int]]:
    """(begin, end) for each spatial axis, auto_pad resolved as ONNX defines it."""
    rank = len(kernel)
    strides = [int(s) for s in op.attr("strides") or [1] * rank]
    dilations = [int(d) for d in op.attr("dilations") or [1] * rank]
    auto = op.attr("auto_pad", "NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else auto
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads: list[tuple[int, int]] = []
        for k in range(rank):
            out = -(-data.shape[2 + k] // strides[k])
            reach = dilations[k] * (kernel[k] - 1) + 1
            total = max((out - 1) * strides[k] + reach - data.shape[2 + k], 0)
            half = total // 2 if auto == "SAME_UPPER" else -(-total // 2)
            pads.append((half, total - half))
        return pads
    if auto == "VALID":
        return [(0, 0)] * rank
    stated = [int(p) for p in op.attr("pads") or [0] * (2 * rank)]
    return [(stated[k], stated[rank + k]) for k in range(rank)]
