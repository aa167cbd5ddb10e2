"""Time of all lossless passes with the verifier on, at 5,000, 10,000 and 20,000 nodes: it should grow linearly.

    python benchmarks/scaling.py

The graph repeats what exporters write: Conv → BatchNormalization → Relu → Identity → residual Add, with a constant
scale, a shape computation and a duplicate branch every few blocks.
"""

from __future__ import annotations

import time

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphopt.ir.io import load
from graphopt.passes import find_pass
from graphopt.passes.presets import FLOAT
from graphopt.pipeline import Context, PassManager
from graphopt.pipeline.instruments import Verify

CHANNELS = 4
NODES_PER_BLOCK = 10


def synthetic(nodes: int) -> onnx.ModelProto:
    """A chain of residual blocks with about `nodes` nodes and small weights of their own."""
    rng = np.random.default_rng(0)
    made: list[onnx.NodeProto] = []
    stored: list[onnx.TensorProto] = []

    def constant(name: str, array: np.ndarray) -> str:
        stored.append(numpy_helper.from_array(array, name))
        return name

    x = "x"
    for k in range(nodes // NODES_PER_BLOCK):
        weight = constant(f"w{k}", rng.normal(0, 0.3, (CHANNELS, CHANNELS, 1, 1)).astype(np.float32))
        norm = [constant(f"{p}{k}", rng.uniform(0.5, 1.5, CHANNELS).astype(np.float32)) for p in ("g", "b", "m", "v")]
        scale = constant(f"s{k}", rng.uniform(0.5, 1.5, (CHANNELS, 1, 1)).astype(np.float32))
        made += [
            helper.make_node("Conv", [x, weight], [f"c{k}"], name=f"conv{k}"),
            helper.make_node("BatchNormalization", [f"c{k}", *norm], [f"n{k}"], name=f"bn{k}"),
            helper.make_node("Mul", [f"n{k}", scale], [f"u{k}"], name=f"mul{k}"),
            helper.make_node("Relu", [f"u{k}"], [f"r{k}"], name=f"relu{k}"),
            helper.make_node("Relu", [f"u{k}"], [f"again{k}"], name=f"relu_again{k}"),
            helper.make_node("Identity", [f"r{k}"], [f"i{k}"], name=f"identity{k}"),
            helper.make_node("Shape", [x], [f"h{k}"], name=f"shape{k}"),
            helper.make_node("Reshape", [f"i{k}", f"h{k}"], [f"p{k}"], name=f"reshape{k}"),
            helper.make_node("Max", [f"p{k}", f"again{k}"], [f"q{k}"], name=f"max{k}"),
            helper.make_node("Add", [f"q{k}", x], [f"y{k}"], name=f"add{k}"),
        ]
        x = f"y{k}"
    shape = [1, CHANNELS, 2, 2]
    graph = helper.make_graph(
        made,
        "synthetic",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, shape)],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    print(f"{'nodes':>7} {'load s':>7} {'passes s':>9} {'µs/node':>8}  slowest")
    for nodes in (5_000, 10_000, 20_000):
        model = synthetic(nodes)
        began = time.perf_counter()
        graph = load(model)
        loaded = time.perf_counter()
        passes = [find_pass(name)() for name in FLOAT]
        records = PassManager(passes, [Verify()]).run(graph, Context())
        seconds = time.perf_counter() - loaded
        slowest = max(records, key=lambda r: r.seconds)
        print(
            f"{nodes:7d} {loaded - began:7.2f} {seconds:9.2f} {seconds / nodes * 1e6:8.1f}"
            f"  {slowest.name} {slowest.seconds:.2f} s; {len(graph.nodes)} nodes left"
        )


if __name__ == "__main__":
    main()
