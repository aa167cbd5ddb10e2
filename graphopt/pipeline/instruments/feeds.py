"""Inputs to run a model on when nobody gave samples: seeded noise in the shapes and types that the model takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.calibration import Feed, InputSpec

# (size of a dynamic first axis, size of every other dynamic axis), from the most telling to the least. A batch of two
# shows rows getting mixed up; 64 is enough for five halvings of an image; some networks need just what they need.
_SIZES = ((2, 64), (1, 64), (1, 16), (1, 224), (1, 512), (1, 1))


def random_feeds(specs: Sequence[InputSpec], seed: int) -> Iterator[list[Feed]]:
    """Attempts, best first: each is a list of feeds; take the first that the model accepts.

    The two feeds of an attempt differ in their floats: normal noise reaches both sides of every Relu, and uniform
    noise in [0, 1) suits models that begin with Log or Sqrt, or expect images.
    """
    is_dynamic = any(spec.shape is None or None in map(_size, spec.shape) for spec in specs)
    for batch, other in _SIZES if is_dynamic else _SIZES[:1]:
        rng = np.random.default_rng(seed)
        shapes = [_shape(spec, batch, other) for spec in specs]
        yield [
            {spec.name: _noise(spec, shape, rng, positive) for spec, shape in zip(specs, shapes, strict=True)}
            for positive in (False, True)
        ]


def _size(dim: int | str | None) -> int | None:
    return dim if isinstance(dim, int) else None


def _shape(spec: InputSpec, batch: int, other: int) -> tuple[int, ...]:
    if spec.shape is None:
        return (batch, other)
    sizes = [_size(dim) for dim in spec.shape]
    return tuple((other if axis else batch) if size is None else size for axis, size in enumerate(sizes))


def _noise(spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator, positive: bool) -> NDArray[Any]:
    match spec.dtype.kind:
        case "i" | "u" | "b":
            # Integers are mostly indices and lengths: 0 and 1 are valid ones nearly everywhere.
            return np.asarray(rng.integers(0, 2, shape)).astype(spec.dtype)
        case "O":
            return np.full(shape, "a", dtype=object)
        case _:  # floats, ml_dtypes' among them
            values = rng.random(shape) if positive else rng.standard_normal(shape)
            return np.asarray(values).astype(spec.dtype)
