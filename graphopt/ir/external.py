"""Where an external tensor's bytes are, and how to map them into memory.

External locations are relative to the model's folder. ONNX's own rule (ExternalData.md, and onnx's loader) refuses
absolute paths, paths that leave the folder, and links: a model file must not be able to name /etc/passwd as a weight.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from graphopt.errors import LoadError

_PACKED_BITS: dict[int, int] = {
    TensorProto.INT2: 2,
    TensorProto.UINT2: 2,
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.FLOAT4E2M1: 4,
    TensorProto.FLOAT6E2M3: 6,
    TensorProto.FLOAT6E3M2: 6,
}


@dataclass(frozen=True)
class ExternalData:
    """A span of a file: `length` bytes from byte `offset`."""

    path: Path
    offset: int
    length: int


def is_packed(data_type: int) -> bool:
    """Whether elements of this TensorProto.DataType are smaller than a byte in a file."""
    return data_type in _PACKED_BITS


def stored_bytes(data_type: int, elements: int) -> int:
    """Bytes that `elements` elements of a TensorProto.DataType take in a file (raw_data or external)."""
    bits = _PACKED_BITS.get(data_type)
    if bits is None:
        bits = 8 * np.dtype(onnx.helper.tensor_dtype_to_np_dtype(data_type)).itemsize
    return -(-elements * bits // 8)


def locate(tensor: TensorProto, base_dir: str) -> ExternalData:
    """The span that holds `tensor`, checked against the file system.

    Raises:
        LoadError: an unsafe location, a file that is missing or too short, or a length that the shape contradicts.
    """
    what = f"tensor '{tensor.name}'"
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    path = _safe_path(location, base_dir, what)
    needed = stored_bytes(tensor.data_type, int(np.prod(tensor.dims, dtype=np.int64)))
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries.get("length") or needed)
    except ValueError:
        raise LoadError(f"{what}: offset and length of its external data aren't numbers: {entries}") from None
    if offset < 0 or length != needed:
        raise LoadError(
            f"{what}: shape {list(tensor.dims)} needs {needed} bytes, but its external data says {length} bytes "
            f"from offset {offset}; the file is damaged: export the model again"
        )
    size = path.stat().st_size
    if offset + length > size:
        raise LoadError(
            f"{what}: its external data ends at byte {offset + length}, but '{path}' has only {size} bytes; "
            "the data file is truncated or belongs to another model: copy it again"
        )
    return ExternalData(path, offset, length)


def memory_map(tensor: TensorProto, base_dir: str) -> NDArray[np.uint8]:
    """The tensor's bytes, mapped read-only: the operating system reads them when they are looked at."""
    span = locate(tensor, base_dir)
    if span.length == 0:
        return np.zeros(0, np.uint8)
    mapped: NDArray[Any] = np.memmap(span.path, np.uint8, mode="r", offset=span.offset, shape=(span.length,))
    return mapped


def _safe_path(location: str, base_dir: str, what: str) -> Path:
    if not location:
        raise LoadError(f"{what} is stored in another file, but the model doesn't say in which; export it again")
    # Both flavours: a model made on Windows must not be judged by POSIX rules only, and the other way round.
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    leaves = posix.is_absolute() or windows.is_absolute() or bool(windows.drive) or ".." in windows.parts
    if leaves:
        raise LoadError(
            f"{what} is stored in '{location}': an external location must be a relative path inside the model's "
            "folder; export the model again with its data beside it"
        )
    path = Path(base_dir or ".", *posix.parts)
    if not path.exists() and not path.is_symlink():
        raise LoadError(
            f"{what} is stored in '{path}', which doesn't exist; put the model's data file there "
            "(a model given as bytes or as a ModelProto is looked up from base_dir)"
        )
    base = Path(os.path.realpath(base_dir or "."))
    if path.is_symlink() or not path.is_file() or not Path(os.path.realpath(path)).is_relative_to(base):
        raise LoadError(
            f"{what} is stored in '{path}', which is a link or not a plain file; ONNX forbids that: "
            "put a copy of the data file there"
        )
    return path
