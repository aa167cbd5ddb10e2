"""Resize → RESIZE_NEAREST_NEIGHBOR or RESIZE_BILINEAR, where LiteRT samples where ONNX does.

ONNX asymmetric            x = i / scale                    neither flag
ONNX half_pixel            x = (i + ½) / scale − ½          halfPixelCenters
ONNX align_corners         x = i · (n − 1) / (m − 1)        alignCorners
"""

from __future__ import annotations

import numpy as np

from graphopt.backends.litert_writer.emitter import Emitter, Lowering
from graphopt.backends.litert_writer.layout import channels_last
from graphopt.backends.litert_writer.values import Op, UnwritableError


def _text(op: Op, name: str, default: str) -> str:
    value = op.attr(name, default)
    return value.decode() if isinstance(value, bytes) else value


def _positions(op: Op, size: int, out: int, scale: float, coordinates: str) -> np.ndarray:
    """Where ONNX samples the axis, a float position for each output element."""
    index = np.arange(out, dtype=np.float64)
    if coordinates == "asymmetric":
        return index / scale
    if coordinates == "align_corners":
        return index * (size - 1) / max(out - 1, 1)
    if coordinates == "pytorch_half_pixel" and out == 1:
        return np.zeros(1)
    if coordinates in ("half_pixel", "pytorch_half_pixel"):
        return (index + 0.5) / scale - 0.5
    raise UnwritableError(f"LiteRT doesn't sample as '{coordinates}' does")


def _nearest(positions: np.ndarray, rounding: str, size: int) -> np.ndarray:
    """The element that ONNX takes at each position."""
    rounded = {
        "floor": np.floor(positions),
        "ceil": np.ceil(positions),
        "round_prefer_floor": np.ceil(positions - 0.5),
        "round_prefer_ceil": np.floor(positions + 0.5),
    }[rounding]
    return np.clip(rounded, 0, size - 1).astype(np.int64)


def _lite_nearest(size: int, out: int, aligned: bool, centred: bool) -> np.ndarray:
    """The element that LiteRT takes (reference_ops GetNearestNeighbor, float32 arithmetic)."""
    index = np.arange(out, dtype=np.float32)
    scale = np.float32((size - 1) / (out - 1)) if aligned and out > 1 else np.float32(size / out)
    position = (index + np.float32(0.5 if centred else 0.0)) * scale
    # TfLiteRound is C's round: halves go away from zero.
    found = np.floor(position + np.float32(0.5)) if aligned else np.floor(position)
    return np.clip(found, 0, size - 1).astype(np.int64)


def _lite_linear(size: int, out: int, aligned: bool, centred: bool) -> np.ndarray:
    """Where LiteRT samples for bilinear interpolation."""
    index = np.arange(out, dtype=np.float64)
    scale = (size - 1) / (out - 1) if aligned and out > 1 else size / out
    return (index + 0.5) * scale - 0.5 if centred else index * scale


def resize(em: Emitter, op: Op) -> None:
    """Images only; any mode that comes to the same samples is written."""
    data, result = op.input(0), op.output
    if data.rank != 4 or data.shape[:2] != result.shape[:2] or any(a > 1 for a in data.dynamic):
        raise UnwritableError("only images are resized, along height and width")
    mode = _text(op, "mode", "nearest")
    if mode not in ("nearest", "linear"):
        raise UnwritableError(f"LiteRT has no '{mode}' interpolation")
    if op.attr("antialias", 0):
        raise UnwritableError("LiteRT doesn't smooth before it shrinks")
    coordinates = _text(op, "coordinate_transformation_mode", "half_pixel")
    scales = op.constant(2)
    pairs: list[tuple[int, int, np.ndarray]] = []
    for axis in (2, 3):
        size, out = data.shape[axis], result.shape[axis]
        given = None if scales is None or scales.size != 4 else float(scales[axis])
        pairs.append((size, out, _positions(op, size, out, given or out / size, coordinates)))
    for aligned, centred in ((False, False), (False, True), (True, False)):
        if mode == "nearest":
            rounding = _text(op, "nearest_mode", "round_prefer_floor")
            same = all(
                np.array_equal(_nearest(p, rounding, size), _lite_nearest(size, out, aligned, centred))
                for size, out, p in pairs
            )
        else:
            same = all(
                np.allclose(np.clip(p, 0, size - 1), np.clip(_lite_linear(size, out, aligned, centred), 0, size - 1))
                for size, out, p in pairs
            )
        if same:
            break
    else:
        raise UnwritableError(f"LiteRT doesn't sample as '{coordinates}' does at these sizes")
    order = channels_last(4)
    kind = "RESIZE_NEAREST_NEIGHBOR" if mode == "nearest" else "RESIZE_BILINEAR"
    source = em.want(data, order)
    target, _ = em.result(op, order, fuses=False)
    sizes = em.ints(result.shape[2:], "size")
    em.add(kind, [source, sizes], [target], alignCorners=aligned, halfPixelCenters=centred)


LOWERINGS: dict[str, Lowering] = {"Resize": resize}
