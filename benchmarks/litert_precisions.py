"""LiteRT's precisions side by side: what each loses, how large the .tflite is, and how long a call takes.

    GRAPHOPT_ZOO=… python -m benchmarks.litert_precisions [--models NAME …] [--samples N] [--markdown]

`int8`, `int16x8`, `float16`: SQNR in dB of the output that has the least, in LiteRT against the float model in
onnxruntime, with the usual 8 bits, with 16-bit activations, and with float16 weights. `weights`: of the int16x8 model
without its activations' Q/DQ, as written: what its 8-bit weights alone leave. `MB`: of the files, float32 first, then
int8, int16x8 and float16. `time`: of a call on one thread, by float32's, measured in turns.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

import graphopt
from benchmarks._common import Feeds, Table, script, zoo_names
from graphopt.backends import litert_engine, onnxruntime
from graphopt.backends.latency import measure_latency
from graphopt.backends.measures import sqnr_db
from graphopt.passes.presets import FLOAT

QUANTIZE = "plan-quantization{{activation-bits={bits}}},calibrate,protect-small-values,quantize-weights,insert-qdq"
COLUMNS = (
    ("model", 27), ("int8", 6), ("int16x8", 7), ("weights", 7), ("float16", 7), ("MB", 21), ("time int8", 9),
    ("int16x8", 7), ("float16", 7),
)  # fmt: skip


def without_activations(model: ModelProto) -> ModelProto:
    """The model with its weights in integers alone: DQ(Q(x)) is x."""
    copy = ModelProto()
    copy.CopyFrom(model)
    makers = {name: node for node in copy.graph.node for name in node.output}
    for node in copy.graph.node:
        if node.op_type == "DequantizeLinear" and (quantize := makers.get(node.input[0])) is not None:
            node.op_type = "Identity"
            node.input[:] = quantize.input[:1]
            del node.attribute[:]
    return copy


def least_sqnr(expected: Sequence[Sequence[NDArray[Any]]], runs: Iterable[Sequence[NDArray[Any]]]) -> float:
    """SQNR over all samples of the output that has the least."""
    found = list(runs)
    outputs = range(len(expected[0]))
    return min(sqnr_db(np.stack([e[k] for e in expected]), np.stack([f[k] for f in found])) for k in outputs)


def measured(name: str, samples: int, seconds: float) -> list[str]:
    """The line of one model."""
    entry = script("zoo").model(name)
    calibration, feeds = entry.calibration(16), entry.validation(samples)[0]
    whole = ",".join(FLOAT)
    models = {"float32": graphopt.optimize(entry.path, target="tflite", passes=whole).model}
    for form, bits in (("int8", 8), ("int16x8", 16)):
        passes = f"{whole},{QUANTIZE.format(bits=bits)}"
        models[form] = graphopt.optimize(entry.path, target="tflite", passes=passes, calibration_data=calibration).model
    models["float16"] = graphopt.optimize(models["float32"], target="tflite", passes="store-float16-weights").model
    expected = list(onnxruntime.run(models["float32"], feeds))
    lite = {form: least_sqnr(expected, litert_engine.run(model, feeds)) for form, model in models.items()}
    alone = onnxruntime.run(without_activations(models["int16x8"]), feeds, optimize=False)
    decibels = [lite["int8"], lite["int16x8"], least_sqnr(expected, alone), lite["float16"]]
    shapes = {key: value.shape for key, value in feeds[0].items()}
    sizes = [len(litert_engine.write_for(model, shapes).content) / 1e6 for model in models.values()]
    cells = [name, *(f"{value:.1f}" for value in decibels), " ".join(f"{size:.2f}" for size in sizes)]
    return [*cells, *_times(models, feeds, seconds)]


def _times(models: dict[str, ModelProto], feeds: Feeds, seconds: float) -> list[str]:
    """How long a call takes, by that of float32."""
    found: list[str] = []
    for form in ("int8", "int16x8", "float16"):
        runs = [litert_engine.run(models[m], itertools.repeat(feeds[0]), threads=1) for m in ("float32", form)]
        timed = measure_latency(runs[0], runs[1], engine="LiteRT", threads=1, budget=seconds)
        found.append(f"{1 / timed.speedup:.2f}")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", metavar="NAME", help="models of the zoo (default: all)")
    parser.add_argument("--samples", type=int, default=16, metavar="N", help="samples to compare on")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="to time each pair of files for")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    table = Table(COLUMNS, options.markdown)
    table.head()
    for name in options.models or zoo_names():
        try:
            table.row(measured(name, options.samples, options.seconds))
        except graphopt.GraphoptError as error:
            table.row([name, str(error).splitlines()[0]])


if __name__ == "__main__":
    main()
