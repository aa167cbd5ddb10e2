"""What lowering an operator needs: its operands in the axis order that it wants, and a place for its result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphopt.backends.litert_writer.activation import Clamp, clamp_of
from graphopt.backends.litert_writer.flat import ABSENT, FlatModel, FlatTensor
from graphopt.backends.litert_writer.layout import Order, core, logical
from graphopt.backends.litert_writer.schema import schema
from graphopt.backends.litert_writer.values import INT16, Grid, Op, UnwritableError, Value

Lowering: TypeAlias = Callable[["Emitter", Op], None]

# Matrix products whose bias may be int32 with 16-bit activations → its position.
_BIAS = {"CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}


@dataclass(frozen=True)
class Scrambled:
    """A value whose last axis is stored in another order of its elements: stored element k is element index[k].

    A Flatten leaves this of a tensor that is stored channels last; a matrix product with a constant weight reads it by
    permuting the weight's rows.
    """

    tensor: int
    index: NDArray[np.int64]


class Emitter:
    """Writes operators into a `FlatModel`, and remembers in which orders each value is stored."""

    def __init__(self, wishes: Mapping[Value, Counter[Order]]) -> None:
        self.flat = FlatModel()
        self.wishes = wishes
        self.stored: dict[Value, dict[Order, int]] = {}
        self.scrambled: dict[Value, Scrambled] = {}
        self.images: dict[int, int] = {}  # tensor [N, W, C] → the same as an image of height 1
        self.widened: dict[int, int] = {}  # constant of float16 → the same in float32
        self._clamps: list[tuple[int, int, Clamp, Value]] = []

    # ---- operands ------------------------------------------------------------------------------------------------

    def orders(self, value: Value) -> list[Order]:
        """The orders that the value is stored in; none for a constant, which can be had in any."""
        return list(self.stored.get(value, {}))

    def wish(self, value: Value) -> Order | None:
        """The order that most of the value's readers want."""
        counted = self.wishes.get(value)
        return counted.most_common(1)[0][0] if counted else None

    def want(self, value: Value, order: Order) -> int:
        """The tensor that holds the value in `order`; a TRANSPOSE where there is none yet."""
        known = self.stored.setdefault(value, {})
        if order in known:
            return known[order]
        if not known and value in self.scrambled:
            self.unscramble(value)
        if value.array is not None:
            known[order] = self.constant(value, order)
            return known[order]
        source = self._source(value, order)
        shape = [value.shape[axis] for axis in order]
        made = self.temporary(value, order)
        if core(value, source) == core(value, order):
            self.reshape(known[source], made, shape, [k for k, a in enumerate(order) if a in value.dynamic])
        else:
            permutation = np.array([source.index(axis) for axis in order], np.int32)
            self.add("TRANSPOSE", [known[source], self.array(permutation, "permutation")], [made])
        known[order] = made
        return made

    def unscramble(self, value: Value) -> None:
        """Store a scrambled value in ONNX's order: a GATHER of its last axis."""
        mixed = self.scrambled[value]
        position = np.argsort(mixed.index).astype(np.int32)
        made = self.declare(value, logical(value.rank))
        self.add("GATHER", [mixed.tensor, self.array(position, "order")], [made], axis=value.rank - 1)

    def _source(self, value: Value, order: Order) -> Order:
        """The stored order to make another one from: one that differs in axes of size 1 only, or else the first."""
        if value.varying:
            raise UnwritableError(
                f"its input '{value.name}' is computed from the open batch: give that a number (emit --size N=1)"
            )
        if not self.stored[value]:
            raise UnwritableError(f"its input '{value.name}' comes from an operator that can't be written")
        alike = (known for known in self.stored[value] if core(value, known) == core(value, order))
        return next(alike, next(iter(self.stored[value])))

    def constant(self, value: Value, order: Order) -> int:
        """A constant in `order`."""
        assert value.array is not None
        grid = value.grid
        if grid is not None and not grid.is_single:
            grid = replace(grid, axis=order.index(grid.axis))
        if value.half:
            return self.half(value.array.transpose(order), value.name)
        return self.flat.constant(value.array.transpose(order), value.name, grid)

    def half(self, array: NDArray[Any], name: str) -> int:
        """A float32 constant that is held as float16, with a DEQUANTIZE behind it that LiteRT runs when it loads."""
        stored = self.array(array.astype(np.float16), f"{name}_float16")
        if stored not in self.widened:
            self.widened[stored] = self.flat.add(FlatTensor(name, array.shape, np.dtype(np.float32)))
            self.add("DEQUANTIZE", [stored], [self.widened[stored]])
        return self.widened[stored]

    def array(self, array: NDArray[Any], name: str, grid: Grid | None = None) -> int:
        """A constant of the writer's own."""
        return self.flat.constant(array, name, grid)

    def ints(self, values: Sequence[int], name: str) -> int:
        """An int32 vector: axes, sizes, paddings."""
        return self.array(np.array(values, np.int32), name)

    def common_order(self, values: Sequence[Value], result: Value) -> Order:
        """The order for an operator that doesn't care, with operands of the result's rank: the cheapest to bring about.

        Counts the elements to transpose: operands that aren't stored so, and the result where readers want another.
        """
        moving = [v for v in values if v.array is None and v.rank == result.rank]
        candidates = dict.fromkeys(order for v in moving for order in self.orders(v))
        wish = self.wish(result)
        if wish is not None:
            candidates.setdefault(wish)
        candidates.setdefault(logical(result.rank))

        def cost(order: Order) -> int:
            total = 0
            for value in moving:
                if not any(core(value, known) == core(value, order) for known in self.orders(value)):
                    total += value.size
            if wish is not None and core(result, wish) != core(result, order):
                total += result.size
            return total

        return min(candidates, key=cost)

    # ---- results -------------------------------------------------------------------------------------------------

    def declare(self, value: Value, order: Order) -> int:
        """The tensor that the value's operator writes, in `order`."""
        self.stored.setdefault(value, {})[order] = found = self.temporary(value, order)
        return found

    def temporary(self, value: Value, order: Order, shape: Sequence[int] | None = None) -> int:
        """A tensor of the value's type and grid; its shape is the value's in `order` unless another one is given."""
        dynamic = frozenset(k for k, axis in enumerate(order) if axis in value.dynamic)
        stored = tuple(value.shape[axis] for axis in order)
        if shape is not None:
            stored, dynamic = tuple(shape), frozenset[int]({0}) if value.dynamic else frozenset[int]()
        return self.flat.add(FlatTensor(value.name, stored, value.dtype, value.grid, dynamic))

    def tensor(self, name: str, shape: Sequence[int], dtype: np.dtype[Any], grid: Grid | None, like: Value) -> int:
        """A tensor between two operators of one lowering; its first axis is the batch where that of `like` is."""
        dynamic = frozenset[int]({0}) if 0 in like.dynamic else frozenset[int]()
        return self.flat.add(FlatTensor(name, tuple(shape), dtype, grid, dynamic))

    def result(self, op: Op, order: Order, *, fuses: bool = True) -> tuple[int, int]:
        """(tensor that the kernel writes, its fused activation); a clamp that can't be fused follows the kernel."""
        clamp = clamp_of(op)
        if clamp.fused is not None and (fuses or clamp.fused == 0):
            return self.declare(op.output, order), clamp.fused
        before = self.temporary(op.output, order)
        self._clamps.append((before, self.declare(op.output, order), clamp, op.output))
        return before, 0

    def clamped(self, op: Op, order: Order, source: int) -> None:
        """The clamp alone: of a tensor that has the result's type and grid already."""
        clamp = clamp_of(op)
        if not clamp.steps:
            self.stored.setdefault(op.output, {})[order] = source
            return
        self._clamps.append((source, self.declare(op.output, order), clamp, op.output))

    def close(self) -> None:
        """Write the clamps that the operator left to others."""
        for before, after, clamp, value in self._clamps:
            source = before
            for k, (kind, limit) in enumerate(clamp.steps):
                last = k == len(clamp.steps) - 1
                target = after if last else self.flat.add(replace(self.flat.tensors[before]))
                operands = [source]
                if limit is not None:
                    array = np.array(limit, value.dtype)
                    operands.append(self.array(array.reshape((1,) * value.rank), f"{value.name}_limit", value.grid))
                self.add(kind, operands, [target])
                source = target
        self._clamps.clear()

    # ---- operators -----------------------------------------------------------------------------------------------

    def image_of(self, value: Value, source: int, shape: Sequence[int]) -> int:
        """A tensor [N, W, C] as an image of height 1: the one that it was made from, or reshaped."""
        if source not in self.images:
            self.images[source] = self.tensor(value.name, shape, value.dtype, value.grid, value)
            self.reshape(source, self.images[source], shape, [0] if 0 in value.dynamic else [])
        return self.images[source]

    def add(self, kind: str, inputs: Sequence[int], outputs: Sequence[int], **options: Any) -> None:
        """Append an operator."""
        if self.flat.tensors[outputs[0]].dtype == INT16:
            options |= self._with_16_bits(kind, inputs)
        self.flat.operate(kind, inputs, outputs, options)

    def _with_16_bits(self, kind: str, inputs: Sequence[int]) -> dict[str, Any]:
        """What a kernel of 16-bit activations isn't told by its tensors."""
        if kind in ("ADD", "SUB"):
            return {"potScaleInt16": False}  # true unless it is said: scales would have to be powers of two
        if kind in _BIAS and self.flat.tensors[inputs[_BIAS[kind]]].dtype == np.int32:
            return {"quantizedBiasType": schema().TensorType.INT32}  # else CONV_2D takes it for int64
        return {}

    def reshape(self, source: int, target: int, shape: Sequence[int], dynamic: Sequence[int] = ()) -> None:
        """A RESHAPE; the axis that changes with the batch is −1."""
        if len(dynamic) > 1:
            raise UnwritableError("two axes of its result change with the batch")
        sizes = [-1 if k in dynamic else d for k, d in enumerate(shape)]
        self.add("RESHAPE", [source, self.ints(sizes, "shape")], [target], newShape=sizes)


__all__ = ["ABSENT", "Emitter", "Lowering", "Scrambled"]
