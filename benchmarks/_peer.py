"""onnxruntime.quantization on the same samples: quantize_static, MinMax, Q/DQ, u8 activations, s8 weights by channel.

The settings are those its documentation recommends for CPUs with VNNI. Models below opset 13, which has no Q/DQ by
channel, are brought there with onnx.version_converter first, as its documentation asks for.
"""

from __future__ import annotations

import re
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import onnx.version_converter
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_static,
)

from benchmarks._common import Feeds, zoo_folder

PER_CHANNEL_OPSET = 13


class Reader(CalibrationDataReader):
    """Samples as the peer reads them."""

    def __init__(self, feeds: Feeds) -> None:
        self._left = iter(feeds)

    def get_next(self) -> dict[str, object] | None:
        return dict(feed) if (feed := next(self._left, None)) is not None else None


@dataclass(frozen=True)
class Quantized:
    """The peer's model.

    Attributes:
        model: in 8 bits.
        seconds: upgrading, pre-processing, calibrating and quantizing.
        note: why it had to do without its pre-processing; "" when it had not.
    """

    model: onnx.ModelProto
    seconds: float
    note: str


def quantized(path: Path, feeds: Feeds) -> Quantized | str:
    """The model in 8 bits as the peer makes it, or why it can't: its error with and without its pre-processing."""
    try:
        return _quantize(path, feeds, prepare=True)
    except Exception as error:  # its functions raise whatever is underneath
        prepared = said(error)
    try:
        plain = _quantize(path, feeds, prepare=False)
    except Exception as error:
        plainly = said(error)
        return plainly if plainly == prepared else f"{plainly} (with its pre-processing: {prepared})"
    return replace(plain, note=f"without its pre-processing, with which it fails: {prepared}")


def _quantize(path: Path, feeds: Feeds, *, prepare: bool) -> Quantized:
    began = time.perf_counter()
    model = onnx.ModelProto.FromString(path.read_bytes())
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if opset < PER_CHANNEL_OPSET:
        model = onnx.version_converter.convert_version(model, PER_CHANNEL_OPSET)
    with tempfile.TemporaryDirectory(prefix="peer-") as folder:
        source, prepared, out = (Path(folder) / f"{stem}.onnx" for stem in ("upgraded", "prepared", "int8"))
        source.write_bytes(model.SerializeToString())  # a model in memory it may leave without its weights
        if prepare:
            # Its symbolic shape inference needs sympy; every model of the zoo has its shapes from ONNX's own.
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared if prepare else source,
            out,
            Reader(feeds),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return Quantized(onnx.ModelProto.FromString(out.read_bytes()), time.perf_counter() - began, note="")


def said(error: Exception) -> str:
    """An error of the peer's on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


@dataclass(frozen=True)
class Published:
    """A line of peers.md beside the zoo: the same peer, measured at another time.

    Attributes: each as the file has it, in (onnxruntime, OpenVINO) order; "–" where it has none.
    """

    top1: tuple[str, str]
    sqnr_db: tuple[str, str]
    share: tuple[str, str]

    def cells(self, engine: int) -> list[str]:
        """Top-1 in percent, SQNR and share in one of the engines."""
        top1 = self.top1[engine]
        return [top1 if top1 == "–" else f"{100 * float(top1):.2f}", self.sqnr_db[engine], self.share[engine]]


def best_published(name: str, engine: int) -> float | None:
    """The highest SQNR (dB) that peers.md has of any peer and setting for a model, if it is one that left 8 bits in.

    Args:
        name: the model's.
        engine: 0 for onnxruntime, 1 for OpenVINO, where the first table has a figure of its own. Figures of the second
            table, of stronger settings, are from onnxruntime.
    """
    file = zoo_folder().parent / "peers.md"
    found: list[float] = []
    current = ""
    for line in file.read_text().splitlines() if file.exists() else []:
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")] if line.startswith("| ") else []
        if len(cells) >= 6 and cells[0] == name and " / " in cells[5]:
            decibel, share = (cells[k].split(" / ")[engine] for k in (4, 5))
            found += [float(decibel)] if decibel != "–" and float(share) > 0 else []
        elif len(cells) in (4, 5) and "." in line:
            current = cells[0].split(" ")[0] if len(cells) == 5 else current
            decibel, share = cells[-2:]
            if current and name.startswith(current) and share != "0 / 0":
                found += [max(float(number) for number in re.findall(r"\d+\.\d+", decibel.split("(")[0]))]
    return max(found, default=None)


def published(name: str) -> Published | None:
    """What peers.md says of onnxruntime's MinMax on a model; None where it says nothing, or that it fails."""
    file = zoo_folder().parent / "peers.md"
    text = file.read_text() if file.exists() else ""
    row = re.search(rf"^\| {re.escape(name)} \| ort-minmax \|(.*)$", text, re.MULTILINE)
    cells = [] if row is None else [tuple(part.strip() for part in cell.split(" / ")) for cell in row[1].split("|")]
    pairs = [(cell[0], cell[1]) for cell in cells[1:4] if len(cell) == 2]
    return Published(*pairs) if len(pairs) == 3 else None
