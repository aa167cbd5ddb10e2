"""Samples in .npz files: headers are read first (cheap, for checking everything up front), values a file at a time.

Pickled object arrays are never loaded: unpickling runs code from the file.
"""

from __future__ import annotations

import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from graphopt.calibration.samples import (
    Feed,
    InputSpec,
    cast,
    count_samples,
    cut_sample,
    require_castable,
    require_names,
)
from graphopt.errors import CalibrationError, one_line
from graphopt.ir.files import replacing

LABELS = "labels"

_READ_HEADER = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
# What a damaged archive raises, in zipfile, zlib and numpy.
_DAMAGE = (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, OSError)


@dataclass(frozen=True)
class Header:
    """Shape and type of one array in an .npz file."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class NpzFile:
    """An .npz file whose arrays were checked against a model's inputs; `count` samples, values not read yet."""

    path: Path
    count: int
    has_labels: bool


def open_npz(path: Path, specs: Sequence[InputSpec]) -> NpzFile:
    """Check the file's headers against the inputs.

    Raises:
        CalibrationError: the file can't be read, or an array is missing, or its shape or type is wrong.
    """
    headers = _read_headers(path)
    where = str(path)
    has_labels = LABELS in headers and all(spec.name != LABELS for spec in specs)
    if has_labels and _is_pickled(headers[LABELS]):
        raise CalibrationError(f"{where}: array '{LABELS}' is pickled: save it as integers")
    arrays = {name: header for name, header in headers.items() if not (has_labels and name == LABELS)}
    require_names(arrays, specs, where)
    counts: dict[str, int] = {}
    for spec in specs:
        header = arrays[spec.name]
        if _is_pickled(header):
            raise CalibrationError(
                f"{where}: array '{spec.name}' holds pickled Python objects, which are never loaded: "
                f"save it as {spec.dtype}"
            )
        require_castable(header.dtype, spec, where)
        counts[spec.name] = count_samples(header.shape, spec, where)
    return NpzFile(path, common_count(counts, where, extra=arrays.keys() - counts.keys()), has_labels)


def common_count(counts: dict[str, int], where: str, extra: Iterable[str] = ()) -> int:
    """The number of samples that all inputs agree on; warns of arrays that no input takes.

    Raises:
        CalibrationError: the inputs disagree, or there are no samples.
    """
    for name in sorted(extra):
        warnings.warn(f"{where}: array '{name}' is not an input of the model: ignored", stacklevel=2)
    if len(set(counts.values())) > 1:
        found = ", ".join(f"'{name}' has {count}" for name, count in counts.items())
        raise CalibrationError(f"{where}: the inputs hold different numbers of samples ({found})")
    count = next(iter(counts.values()), 0)
    if count == 0:
        raise CalibrationError(f"{where}: no samples: give at least one")
    return count


def read_feeds(file: NpzFile, specs: Sequence[InputSpec]) -> Iterator[Feed]:
    """The file's samples in order; its arrays are in memory while it is read."""
    arrays = _read_arrays(file.path, [spec.name for spec in specs])
    return cut_feeds(arrays, specs, file.count, str(file.path))


def cut_feeds(arrays: dict[str, NDArray[Any]], specs: Sequence[InputSpec], count: int, where: str) -> Iterator[Feed]:
    """The first `count` samples of stacked arrays, cast and checked one at a time."""
    for index in range(count):
        here = f"{where}, sample {index}"
        yield {spec.name: cast(cut_sample(arrays[spec.name], spec, index, where), spec, here) for spec in specs}


def save_feeds(feeds: Sequence[Mapping[str, NDArray[Any]]], path: Path) -> None:
    """Stack samples on a new axis 0, as the .npz format has it; those of another shape than the first are left out.

    Raises:
        EmitError: the file can't be written.
    """
    alike = [f for f in feeds if all(f[name].shape == value.shape for name, value in feeds[0].items())]
    with replacing(path) as file:
        np.savez(file, allow_pickle=False, **{name: np.stack([f[name] for f in alike]) for name in feeds[0]})


def read_labels(file: NpzFile) -> NDArray[Any]:
    """The file's array `labels`, as it was saved."""
    return _read_arrays(file.path, [LABELS])[LABELS]


def _read_arrays(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except _DAMAGE as error:
        raise _damaged(path, error) from error


def _read_headers(path: Path) -> dict[str, Header]:
    headers: dict[str, Header] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                with archive.open(entry) as stream:
                    shape, _, dtype = _READ_HEADER[npy.read_magic(stream)](stream)
                headers[entry.removesuffix(".npy")] = Header(shape, dtype)
    except FileNotFoundError:
        raise CalibrationError(f"calibration data '{path}' doesn't exist: check the path") from None
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    return headers


def _is_pickled(header: Header) -> bool:
    return header.dtype.hasobject


def _damaged(path: Path, error: Exception) -> CalibrationError:
    return CalibrationError(
        f"'{path}' is not a readable .npz file ({one_line(error)}): save the samples with numpy.savez, "
        f"one array per input, stacked on axis 0"
    )
