"""Images for LiteRT's windows: four axes, channels last, and padded where SAME and VALID don't say it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import numpy as np

from graphopt.backends.litert_writer.emitter import Emitter
from graphopt.backends.litert_writer.layout import channels_last
from graphopt.backends.litert_writer.schema import schema
from graphopt.backends.litert_writer.values import Op, Value
from graphopt.backends.litert_writer.windows import Window


def image_shape(value: Value) -> tuple[int, int, int, int]:
    """[N, H, W, C] of a value [N, C, H, W] or [N, C, W]."""
    batch, channels, *spatial = value.shape
    height, width = spatial if len(spatial) == 2 else (1, spatial[0])
    return (batch, height, width, channels)


def read_image(em: Emitter, value: Value) -> int:
    """The tensor that holds the value as an image."""
    source = em.want(value, channels_last(value.rank))
    if value.rank == 4:
        return source
    return em.image_of(value, source, image_shape(value))


@contextmanager
def as_image(em: Emitter, op: Op) -> Generator[tuple[int, int]]:
    """(tensor for a kernel that writes the result as an image, its fused activation)."""
    result = op.output
    target, activation = em.result(op, channels_last(result.rank))
    if result.rank == 4:
        yield target, activation
        return
    image = em.temporary(result, channels_last(result.rank), image_shape(result))
    yield image, activation
    stored = tuple(result.shape[axis] for axis in channels_last(result.rank))
    em.reshape(image, target, stored, [0] if 0 in result.dynamic else [])
    em.images[target] = image


def pad(em: Emitter, value: Value, found: Sequence[Window], source: int, filler: float) -> tuple[int, int]:
    """(image to slide over, LiteRT's padding), with an explicit PAD of `filler` where it is needed."""
    padding = schema().Padding
    if all(w.is_valid for w in found):
        return source, padding.VALID
    if all(w.is_same for w in found):
        return source, padding.SAME
    return explicit(em, value, [w.padding for w in found], source, filler), padding.VALID


def explicit(em: Emitter, value: Value, rows: Sequence[tuple[int, int]], source: int, filler: float) -> int:
    """The image with `rows` added before and after; nothing where there are none."""
    both = [(0, 0)] * (2 - len(rows)) + list(rows)
    if not any(a or b for a, b in both):
        return source
    amounts = [(0, 0), *both, (0, 0)]
    shape = [d + a + b for d, (a, b) in zip(image_shape(value), amounts, strict=True)]
    padded = em.tensor(f"{value.name}_padded", shape, value.dtype, value.grid, value)
    operands = [source, em.array(np.array(amounts, np.int32), "paddings")]
    if filler == 0.0:
        em.add("PAD", operands, [padded])
        return padded
    lowest = np.array(filler if value.grid is None else np.iinfo(value.dtype).min, value.dtype)
    em.add("PADV2", [*operands, em.array(lowest, "lowest", value.grid)], [padded])
    return padded
