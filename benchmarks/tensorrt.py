"""What TensorRT-RTX makes of models compiled for it: how many of the planned nodes its plan has in 8 bits.

    GRAPHOPT_ZOO=… python -m benchmarks.tensorrt [--models …] [--light …] [--capabilities SM86 …] [--samples N]

No GPU is needed: the engine is built ahead of time, and its plan read. `planned`: nodes whose inputs the compiled model
quantizes; `matrix`: those among them that are Conv, ConvTranspose, Gemm or MatMul; each as in 8 bits / planned.
`refused`: nodes that the parser doesn't take; then there is no engine. `s`: the build, with starting its process.
Whatever isn't in 8 bits is listed below with its reason. `--light` adds full-size architectures with seeded weights.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx

import graphopt
from benchmarks._common import Feeds, Table, script, zoo_names
from graphopt.backends import tensorrt
from graphopt.backends.planned import planned_nodes
from graphopt.backends.precision import EnginePrecision, NodePrecision
from graphopt.targets import find_target

COLUMNS = (("model", 27), ("for", 5), ("planned", 9), ("matrix", 9), ("refused", 7), ("s", 6))
TARGET = find_target("tensorrt")


def real(name: str, samples: int) -> graphopt.Result:
    """A model of the zoo, compiled."""
    entry = script("zoo").model(name)
    return graphopt.optimize(entry.path, target=TARGET.name, calibration_data=entry.calibration(samples))


def light(name: str, samples: int) -> graphopt.Result:
    """An architecture with seeded weights, compiled on noise."""
    model: onnx.ModelProto = script("light").build(name)
    stored = {i.name for i in model.graph.initializer}
    value = next(i for i in model.graph.input if i.name not in stored)
    shape = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
    rng = np.random.default_rng(0)
    feeds: Feeds = [{value.name: rng.normal(size=shape).astype(np.float32)} for _ in range(samples)]
    return graphopt.optimize(model, target=TARGET.name, calibration_data=feeds)


def cells(name: str, found: EnginePrecision, refused: int, seconds: float) -> list[str]:
    """A line of the table."""
    matrix = [n for n in found.nodes if n.planned.linear]
    return [name, found.device, share(found.nodes), share(matrix), str(refused), f"{seconds:.1f}"]


def share(nodes: Sequence[NodePrecision]) -> str:
    return f"{sum(n.integer for n in nodes)}/{len(nodes)}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", metavar="NAME", help="models of the zoo (default: all)")
    parser.add_argument("--light", nargs="*", default=[], metavar="NAME", help="architectures, such as resnet50")
    parser.add_argument("--capabilities", nargs="+", choices=tensorrt.CAPABILITIES, default=["SM86", "SM89"])
    parser.add_argument("--samples", type=int, default=4, metavar="N", help="calibration samples")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    table = Table(COLUMNS, options.markdown)
    table.head()
    missed: list[str] = []
    names = zoo_names() if options.models is None else options.models
    for name in [*names, *options.light]:
        result = (light if name in options.light else real)(name, options.samples)
        planned = planned_nodes(result.graph, TARGET)
        refused = len(tensorrt.refusals(result.model))
        for capability in options.capabilities:
            started = time.perf_counter()
            try:
                found = tensorrt.precision(result.model, planned, capability=capability)
            except graphopt.GraphoptError as error:
                table.row([name, capability, "fails"])
                missed.append(f"{name}, {capability}: {error}")
                continue
            table.row(cells(name, found, refused, time.perf_counter() - started))
            counted = Counter((n.planned.op_type, n.precision, n.reason) for n in found.missed)
            missed += [f"{name}, {capability}: {k} × {op}: {type_}: {why}" for (op, type_, why), k in counted.items()]
    print("\nNot in 8 bits:")
    print("\n".join(f"- {line}" for line in missed) or "- none")


if __name__ == "__main__":
    main()
