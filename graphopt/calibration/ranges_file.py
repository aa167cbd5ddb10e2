"""The ranges file: calibrated ranges as JSON, tied to the model they were measured on.

    {"format": "graphopt-ranges", "version": 1, "tool": "graphopt 0.1.0", "model_hash": "…", "data_hash": "…",
     "method": "percentile", "parameters": {"percentile": 99.9},
     "ranges": {"tensor": {"low": -1.5, "high": 6.0}, "per channel": {"low": [0.0, …], "high": [1.0, …]}},
     "statistics": {"tensor": {"low": -1.6, "high": 9.0, "count": 4096, "zeros": 17, "exponent": -9, "p99.9": 6.2}}}

`statistics` says what was seen, for the reader; nothing reads it back. The order of the samples, how they are batched
and how many workers share them don't change a byte (method ema, which is about order, excepted). Keys are sorted and
floats are written with the shortest text that reads back to the same bits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto

from graphopt._version import __version__
from graphopt.calibration.histogram import Histogram
from graphopt.calibration.statistics import EmaMinMax, MinMax, Statistic
from graphopt.errors import CalibrationError
from graphopt.ir.files import replacing
from graphopt.quant import Range

_FORMAT = "graphopt-ranges"
_VERSION = 1


def save_ranges(
    path: Path,
    ranges: Mapping[str, Range],
    *,
    model_hash: str,
    data_hash: str,
    method: str,
    parameters: Mapping[str, float] = MappingProxyType({}),
    statistics: Mapping[str, Statistic] = MappingProxyType({}),
    decisions: Mapping[str, Range] = MappingProxyType({}),
) -> None:
    """Write the ranges; the file appears complete or not at all.

    `decisions` is what passes chose by the samples besides ranges, by names of their own (see `Context.kept`);
    `load_ranges` gives both back together.

    Raises:
        EmitError: the file can't be written.
    """
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "tool": f"graphopt {__version__}",
        "method": method,
        "parameters": dict(parameters),
        "model_hash": model_hash,
        "data_hash": data_hash,
        "ranges": {name: {"low": r.low.tolist(), "high": r.high.tolist()} for name, r in ranges.items()},
        "decisions": {name: {"low": r.low.tolist(), "high": r.high.tolist()} for name, r in decisions.items()},
        "statistics": {name: summary(seen) for name, seen in statistics.items() if not seen.is_empty},
    }
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"
    with replacing(path) as file:
        file.write(text.encode())


def summary(statistic: Statistic) -> dict[str, float | int | None]:
    """What a statistic that isn't empty says in a few numbers.

    `low` and `high` are the extremes. Of a histogram also `count`, `zeros`, `exponent` (a bin is 2^exponent wide, null
    when all were zero) and `p99.9`, the upper end of the bin that holds the 99.9th percentile of the magnitudes.
    """
    if isinstance(statistic, EmaMinMax):
        return {"low": float(statistic.lows.min()), "high": float(statistic.highs.max())}
    if isinstance(statistic, MinMax):
        return {"low": statistic.low, "high": statistic.high}
    assert isinstance(statistic, Histogram)
    up_to = statistic.zeros + np.cumsum(statistic.magnitudes())
    # In whole numbers: 99.9 % of the count, rounded up.
    bin_index = int(np.searchsorted(up_to, -(-999 * statistic.count // 1000)))
    return {
        "low": statistic.low,
        "high": statistic.high,
        "count": statistic.count,
        "zeros": statistic.zeros,
        "exponent": statistic.exponent,
        "p99.9": (bin_index + 1) * statistic.width,
    }


def load_ranges(path: Path, *, model_hash: str) -> dict[str, Range]:
    """Read the ranges of the model with this hash, sorted by tensor name, and the decisions kept with them.

    Raises:
        CalibrationError: the file can't be read, is not a ranges file, or was made for another model or other passes.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CalibrationError(f"can't read the ranges file '{path}' ({error.strerror})") from error
    except ValueError as error:
        raise CalibrationError(
            f"'{path}' is not a ranges file ({error}): make one with `graphopt calibrate`"
        ) from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:  # pyright: ignore[reportUnknownMemberType]  # JSON
        raise CalibrationError(f"'{path}' is not a ranges file: make one with `graphopt calibrate`")
    fields = cast("dict[str, Any]", content)
    if fields.get("version") != _VERSION:
        raise CalibrationError(f"'{path}' has version {fields.get('version')}; expected {_VERSION}: calibrate again")
    if fields.get("model_hash") != model_hash:
        raise CalibrationError(
            f"'{path}' holds the ranges of another model, or of this one after other passes (hash "
            f"{str(fields.get('model_hash'))[:12]}, expected {model_hash[:12]}): calibrate this model with these passes"
        )
    try:
        found = {**fields["ranges"], **fields.get("decisions", {})}
        return {name: Range(_array(r["low"]), _array(r["high"])) for name, r in sorted(found.items())}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CalibrationError(f"'{path}' is damaged ({error}): calibrate again") from error


def model_hash(model: ModelProto) -> str:
    """SHA-256 (hex) of the model's content; doc strings, producer, metadata and inferred shapes don't count.

    External data counts by its location, not its content.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    for name in ("producer_name", "producer_version", "model_version", "doc_string", "metadata_props"):
        copy.ClearField(name)
    _clear_docs(copy.graph)
    for function in copy.functions:
        function.ClearField("doc_string")
        for node in function.node:
            _clear_node_docs(node)
    digest = hashlib.sha256()
    # The weights one by one, so that a model beyond protobuf's 2 GiB can be hashed.
    for tensor in copy.graph.initializer:
        digest.update(tensor.SerializeToString(deterministic=True))
    copy.graph.ClearField("initializer")
    digest.update(copy.SerializeToString(deterministic=True))
    return digest.hexdigest()


def data_hash(samples: Iterable[Mapping[str, NDArray[Any]]]) -> str:
    """A hash (hex) of all samples that doesn't depend on their order.

    The sum, modulo 2^256, of the samples' SHA-256, each over its names, types, shapes and values.
    """
    digest = DataHash()
    for sample in samples:
        digest.add(sample)
    return digest.hex()


@dataclass
class DataHash:
    """`data_hash`, one sample after the other."""

    total: int = 0

    def add(self, sample: Mapping[str, NDArray[Any]]) -> None:
        """Take in one more sample."""
        self.add_digest(sample_digest(sample))

    def add_digest(self, digest: bytes) -> None:
        """Take in one more sample by its `sample_digest`."""
        self.total = (self.total + int.from_bytes(digest)) % 2**256

    def hex(self) -> str:
        """The hash of what has been taken in."""
        return f"{self.total:064x}"


def sample_digest(sample: Mapping[str, NDArray[Any]]) -> bytes:
    """SHA-256 over a sample's names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, value in sorted(sample.items()):
        digest.update(f"{name}:{value.dtype.str}{value.shape};".encode())
        digest.update(value.tobytes())
    return digest.digest()


def _clear_docs(graph: GraphProto) -> None:
    # Value infos only repeat what inference finds: whether it was run is not part of the model.
    for name in ("doc_string", "metadata_props", "value_info"):
        graph.ClearField(name)
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.ClearField("doc_string")
        value.ClearField("metadata_props")
    for node in graph.node:
        _clear_node_docs(node)


def _clear_node_docs(node: NodeProto) -> None:
    node.ClearField("doc_string")
    node.ClearField("metadata_props")
    for attribute in node.attribute:
        attribute.ClearField("doc_string")
        if attribute.HasField("g"):
            _clear_docs(attribute.g)
        for graph in attribute.graphs:
            _clear_docs(graph)


def _array(value: Any) -> NDArray[np.float64]:
    return np.asarray(value, np.float64)
