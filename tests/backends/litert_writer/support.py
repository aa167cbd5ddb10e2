"""Write a model, run it in LiteRT, and hold it against onnxruntime without optimizations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from graphopt.backends import litert
from graphopt.backends.litert_writer import Written, write_tflite
from tests.support.rewrite import random_feeds, run

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


@dataclass(frozen=True)
class Outcome:
    """Both engines' outputs in ONNX's axis order, by name."""

    written: Written
    lite: dict[str, np.ndarray]
    onnx: dict[str, np.ndarray]

    def worst(self, name: str | None = None) -> float:
        """The largest difference of an output (the first)."""
        name = name or next(iter(self.onnx))
        assert self.lite[name].shape == self.onnx[name].shape
        return float(np.abs(self.lite[name].astype(np.float64) - self.onnx[name].astype(np.float64)).max())


def outcome(model: onnx.ModelProto, feeds: dict[str, np.ndarray] | None = None, **options: object) -> Outcome:
    """Both engines on one feed (noise)."""
    feeds = feeds or random_feeds(model)
    written = write_tflite(model, **options)
    (lite,) = litert.run(written.content, [{n: stored(feeds[n], o) for n, o in written.inputs.items()}])
    expected = run(model, feeds)
    return Outcome(
        written,
        {name: lite[name].transpose(np.argsort(order)) for name, order in written.outputs.items()},
        dict(zip([o.name for o in model.graph.output], expected, strict=True)),
    )


def stored(array: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """An array of the ONNX model as the .tflite takes it."""
    return np.ascontiguousarray(array.transpose(order))


def parse(body: str, opset: int = 17, **constants: object) -> onnx.ModelProto:
    """A model of ONNX text with initializers."""
    model = onnx.parser.parse_model(HEADER.replace("17", str(opset)) + body)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    onnx.checker.check_model(model)
    return model


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal values, float32."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def output_scale(model: onnx.ModelProto, name: str | None = None) -> float:
    """The scale of the DequantizeLinear that makes a graph output (the first)."""
    name = name or model.graph.output[0].name
    (node,) = [n for n in model.graph.node if name in n.output]
    assert node.op_type == "DequantizeLinear"
    (scale,) = [i for i in model.graph.initializer if i.name == node.input[1]]
    return float(numpy_helper.to_array(scale))


@dataclass(frozen=True)
class Quantized:
    """A tensor's grid in a Q/DQ model of ONNX text."""

    scale: float
    zero_point: int = 0
    dtype: str = "int8"


def pair(source: str, target: str, grid: Quantized) -> tuple[str, dict[str, np.ndarray]]:
    """Q and DQ from `source` to `target`, as text, and their constants."""
    text = f"{target}_q = QuantizeLinear({source}, {target}_s, {target}_z) "
    text += f"{target} = DequantizeLinear({target}_q, {target}_s, {target}_z) "
    constants = {f"{target}_s": np.float32(grid.scale), f"{target}_z": np.array(grid.zero_point, grid.dtype)}
    return text, constants


def between_pairs(
    body: str, inputs: dict[str, tuple[int, ...]], grids: dict[str, Quantized], **constants: object
) -> onnx.ModelProto:
    """`body` reads d<input> and makes r; a pair is before it for each input and one behind it, which makes y."""
    text, found = "", dict(constants)
    for name in inputs:
        more, extra = pair(name, f"d{name}", grids[name])
        text, found = text + more, {**found, **extra}
    more, extra = pair("r", "y", grids["y"])
    declared = ", ".join(f"float[{','.join(map(str, shape))}] {name}" for name, shape in inputs.items())
    return parse(f"g ({declared}) => (float y) {{ {text} {body} {more} }}", **found, **extra)


def weight(name: str, *shape: int, axis: int | None = None, seed: int = 3) -> tuple[str, dict[str, np.ndarray]]:
    """An int8 weight with one scale, or one for each index of `axis`, and its DQ."""
    rng = np.random.default_rng(seed)
    size = () if axis is None else (shape[axis],)
    text = f"{name} = DequantizeLinear<axis={axis or 0}>({name}_q, {name}_s, {name}_z) "
    return text, {
        f"{name}_q": rng.integers(-127, 128, shape).astype(np.int8),
        f"{name}_s": (rng.uniform(0.5, 1.5, size) * 0.01).astype(np.float32),
        f"{name}_z": np.zeros(size, np.int8),
    }
