"""What the engines make of the int8 preset on real models, and whether they compute the same.

    GRAPHOPT_ZOO=… python -m benchmarks.verify_zoo [--models …] [--targets …] [--samples N] [--devices …] [--markdown]

Each model is compiled for each target and verified in the target's engine: `planned` nodes, `8 bits` of them that the
engine computes so. `engine dB` is the SQNR of the first output against the float model, run in the target's engine;
`written dB` that of the Q/DQ model as it is written, run in onnxruntime without its rewrites. `apart` is the
difference: the engines agree when it is below 1. TensorRT-RTX builds for GPUs that needn't be here, and runs nothing.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

import graphopt
from benchmarks._common import Feeds, Table, script, zoo_names
from graphopt.backends.engines import find_engine
from graphopt.targets import TARGETS, find_target

CALIBRATION_LABELLED, UNLABELLED = 64, 24
COLUMNS = (
    ("model", 27), ("target", 11), ("device", 6), ("planned", 7), ("8 bits", 6), ("engine dB", 9), ("written dB", 10),
    ("apart", 5),
)  # fmt: skip


def verified(name: str, target: str, devices: Sequence[str], samples: int, notes: list[str]) -> list[list[str]]:
    """The lines of one model and target; what went wrong goes to `notes`."""
    entry = script("zoo").model(name)
    labelled = entry.spec["task"] == "classification"
    calibration: Feeds = entry.calibration(CALIBRATION_LABELLED if labelled else UNLABELLED)
    feeds, _ = entry.validation(samples if labelled else min(samples, UNLABELLED))
    model = graphopt.optimize(entry.path, target=target, calibration_data=calibration).model
    return [_line(name, target, device, entry.path, model, feeds, notes) for device in devices]


def _line(
    name: str, target: str, device: str, original: object, model: object, feeds: Feeds, notes: list[str]
) -> list[str]:
    where = f"{name}, {target} {device}"
    try:
        found = graphopt.verify(model, target, reference=original, data=feeds, device=device, latency=False)
    except graphopt.GraphoptError as error:
        notes.append(f"{where}: {str(error).splitlines()[0]}")
        return [name, target, device, "fails"]
    nodes = found.precision.nodes
    notes += [f"{where}: {n.planned.name}: {n.precision}: {n.reason}" for n in found.precision.missed]
    decibels = [a.agreement.outputs[0].sqnr_db for a in found.agreement]
    apart = abs(decibels[0] - decibels[-1]) if len(decibels) == 2 else math.nan
    if apart > 1:
        notes.append(f"{where}: {decibels[0]:.2f} dB in the engine, {decibels[1]:.2f} dB as written")
    in_engine = f"{decibels[0]:.1f}" if find_engine(find_target(target)).run is not None else "–"
    written = f"{decibels[-1]:.1f}" if len(decibels) == 2 or in_engine == "–" else "–"
    integers = sum(n.integer for n in nodes)
    cells = [name, target, device, str(len(nodes)), str(integers), in_engine, written]
    return [*cells, "–" if math.isnan(apart) else f"{apart:.1f}"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", metavar="NAME", help="models of the zoo (default: all)")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--samples", type=int, default=100, metavar="N", help="samples of classifiers")
    parser.add_argument("--devices", nargs="+", default=["SM86", "SM89"], help="for engines that build for others")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    table, notes = Table(COLUMNS, options.markdown), list[str]()
    table.head()
    for name in options.models or zoo_names():
        for target in options.targets:
            engine = find_engine(find_target(target))
            devices = options.devices if len(engine.devices) > 1 else engine.devices
            try:
                for cells in verified(name, target, devices, options.samples, notes):
                    table.row(cells)
            except graphopt.GraphoptError as error:
                notes.append(f"{name}, {target}: {str(error).splitlines()[0]}")
                table.row([name, target, "", "fails"])
    print("\nNot as planned, more than 1 dB apart, or failed:")
    print("\n".join(f"- {note}" for note in notes) or "- none")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
