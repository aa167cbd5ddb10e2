"""y = scale·x + shift along one axis: what Mul, Div, Add, Sub and Neg with a constant compute, and how it moves.

The axis that holds channels is tracked as a tensor goes through Transpose, Reshape and the like: `at_axis` and
`reshaped` say what the same numbers are on the other side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from graphopt.ir import FLOAT_TYPES, Constant, Node, Shape, Tensor, fixed_value
from graphopt.ir.linear_edit import Declined, Floats

AFFINE_OPS = ("Mul", "Div", "Add", "Sub", "Neg")


@dataclass(frozen=True, eq=False)
class ChannelAffine:
    """`scale`·x + `shift`, both float64 [channels] along `axis` ≥ 0; axis None: [1], the same for every element."""

    axis: int | None
    scale: Floats
    shift: Floats

    @property
    def has_shift(self) -> bool:
        """Whether anything is added."""
        return bool(self.shift.any())

    @property
    def has_scale(self) -> bool:
        """Whether anything is multiplied."""
        return bool((self.scale != 1).any())

    @property
    def is_positive(self) -> bool:
        """Whether every scale is above zero, so that it commutes with max and with Relu."""
        return bool((self.scale > 0).all())

    @property
    def is_finite(self) -> bool:
        """Whether all numbers are."""
        return bool(np.isfinite(self.scale).all() and np.isfinite(self.shift).all())

    def then(self, after: ChannelAffine) -> ChannelAffine | None:
        """`after`(self(x)) as one; None when they are along different axes."""
        if None not in (self.axis, after.axis) and self.axis != after.axis:
            return None
        axis = after.axis if self.axis is None else self.axis
        with np.errstate(all="ignore"):
            scale, shift = self.scale * after.scale, self.shift * after.scale + after.shift
        return ChannelAffine(axis, *(np.array(v) for v in np.broadcast_arrays(scale, shift)))

    def parts(self) -> tuple[Floats | None, Floats | None]:
        """(scale, shift), None for one that does nothing."""
        return self.scale if self.has_scale else None, self.shift if self.has_shift else None

    def only_scale(self) -> ChannelAffine:
        """Without the shift."""
        return ChannelAffine(self.axis, self.scale, np.zeros_like(self.shift))

    def only_shift(self) -> ChannelAffine:
        """Without the scale."""
        return ChannelAffine(self.axis, np.ones_like(self.scale), self.shift)

    def shift_before_scale(self) -> ChannelAffine | None:
        """The inner x + t/s of s·(x + t/s) = s·x + t; None when a scale is zero or the quotient isn't finite."""
        with np.errstate(all="ignore"):
            first = ChannelAffine(self.axis, np.ones_like(self.scale), self.shift / self.scale)
        return first if first.is_finite else None

    def inverse_scale(self) -> ChannelAffine | Declined:
        """The inverse of the scale, for what is added to the scaled tensor.

        Only when all channels are scaled alike: dividing each by its own scale may blow some of them up.
        """
        if self.axis is not None or (self.scale == 0).any():
            return Declined("what is added to it can't be divided by the scale of each channel")
        return ChannelAffine(None, 1 / self.scale, np.zeros_like(self.shift))

    def at_axis(self, axis: int) -> ChannelAffine:
        """The same numbers along another axis (unless they are the same for every element)."""
        return self if self.axis is None else ChannelAffine(axis, self.scale, self.shift)

    def taken(self, axis: int, index: NDArray[np.intp]) -> ChannelAffine:
        """Channel `index[i]`'s numbers at position i of `axis`."""
        return ChannelAffine(axis, self.scale[index], self.shift[index])

    def channels(self, count: int) -> ChannelAffine | None:
        """With numbers for each of `count` channels; None when there are numbers for another count."""
        if self.axis is None:
            return ChannelAffine(None, np.repeat(self.scale, count), np.repeat(self.shift, count))
        return self if len(self.scale) == count else None

    def reshaped(self, shape: Shape | None, onto: Shape | None) -> ChannelAffine | None:
        """The same on a tensor of `shape` reshaped to `onto` (or the other way round: order is all that counts).

        [N, C, H, W] → [N, C·H·W] repeats each channel's number H·W times; the way back is possible when the numbers
        are equal over each channel. None when the numbers aren't along one axis of `onto`, or sizes aren't known.
        """
        if self.axis is None:
            return self
        if shape is None or onto is None:
            return None
        inner = _stride(shape, self.axis)
        for axis, size in enumerate(onto):
            stride = _stride(onto, axis)
            if inner is None or stride is None or inner[1] != stride[1] or not isinstance(size, int) or size < 2:
                continue
            moved = _regrouped(self, (len(self.scale), inner[0]), (size, stride[0]), axis)
            if moved is not None:
                return moved
        return None


def composed(steps: Sequence[ChannelAffine]) -> ChannelAffine:
    """All of `steps`, which are along one axis, one after the other."""
    whole = steps[0]
    for step in steps[1:]:
        both = whole.then(step)
        assert both is not None
        whole = both
    return whole


def affine_op(node: Node) -> tuple[int, ChannelAffine] | Declined | None:
    """(position of the activation, what is computed); None when `node` isn't such an operation with a constant."""
    if node.is_op("Neg") and node.inputs[0].dtype in FLOAT_TYPES:
        return 0, ChannelAffine(None, np.array([-1.0]), np.zeros(1))
    if not node.is_op("Mul", "Div", "Add", "Sub"):
        return None
    fixed = [i for i, t in enumerate(node.inputs) if fixed_value(t) is not None]
    if len(fixed) != 1 or node.inputs[fixed[0]].dtype not in FLOAT_TYPES:
        return None
    constant, data = node.inputs[fixed[0]], node.inputs[1 - fixed[0]]
    assert isinstance(constant, Constant)
    found = _axis_of(constant.shape, data)
    if isinstance(found, Declined):
        return found
    values = constant.values.astype(np.float64).reshape(-1)
    ones, zeros = np.ones_like(values), np.zeros_like(values)
    if node.op == "Div" and fixed[0] == 0:
        return Declined("a constant divided by the activation isn't linear in it")
    with np.errstate(all="ignore"):
        scale, shift = {
            "Mul": (values, zeros),
            "Div": (1 / values, zeros),
            "Add": (ones, values),
            "Sub": (-ones, values) if fixed[0] == 0 else (ones, -values),
        }[node.op]
    affine = ChannelAffine(None if len(values) == 1 else found.axis, scale, shift)
    return (1 - fixed[0], affine) if affine.is_finite else Declined("its constant isn't finite, or divides by zero")


@dataclass(frozen=True)
class _Axis:
    axis: int


def _axis_of(constant: tuple[int, ...], data: Tensor) -> _Axis | Declined:
    """The one axis of the activation that the constant varies along (0 for a constant of one element)."""
    if constant == ():
        return _Axis(0)
    if data.shape is None:
        return Declined(f"the shape of '{data.name}' isn't known")
    wide = [i for i, size in enumerate(constant) if size != 1]
    axis = (wide[0] if wide else 0) - len(constant) + len(data.shape)
    if len(constant) > len(data.shape):
        return Declined(f"its constant {list(constant)} gives '{data.name}' more axes")
    if not wide:
        return _Axis(0)
    if len(wide) > 1:
        return Declined(f"its constant {list(constant)} varies along more than one axis")
    if data.shape[axis] != constant[wide[0]]:
        return Declined(f"'{data.name}' isn't known to have {constant[wide[0]]} channels on axis {axis}")
    return _Axis(axis)


def _stride(shape: Shape, axis: int) -> tuple[int, tuple[str, ...]] | None:
    """Elements from one position of `axis` to the next: (number, symbolic factors); None when unknown."""
    inner = shape[axis + 1 :]
    if None in inner:
        return None
    return prod(d for d in inner if isinstance(d, int)), tuple(sorted(d for d in inner if isinstance(d, str)))


def _regrouped(affine: ChannelAffine, old: tuple[int, int], new: tuple[int, int], axis: int) -> ChannelAffine | None:
    """`affine` along an axis of (size, stride) `old`, along the axis `new` of the same elements; None if it isn't."""
    (old_size, old_stride), (new_size, new_stride) = old, new
    if 0 in (old_stride, new_stride):
        return None
    if old_stride % new_stride == 0 and (new_size * new_stride) % (old_size * old_stride) == 0:
        return affine.taken(axis, (np.arange(new_size) * new_stride // old_stride) % old_size)
    if new_stride % old_stride == 0 and (old_size * old_stride) % (new_size * new_stride) == 0:
        group = (np.arange(old_size) * old_stride // new_stride) % new_size
        first = np.array([int(np.argmax(group == i)) for i in range(new_size)])
        moved = affine.taken(axis, first)
        same = (moved.scale[group] == affine.scale).all() and (moved.shift[group] == affine.shift).all()
        return moved if same else None
    return None
