"""`python -m benchmarks.pruning targets`."""

from __future__ import annotations

import argparse

import numpy as np
import onnx

import graphopt
from benchmarks._common import Feeds, Table, script, zoo_names
from graphopt.backends.engines import find_engine
from graphopt.backends.planned import planned_nodes
from graphopt.ir import load
from graphopt.targets import TARGETS, find_target

COLUMNS = (("model", 27), ("MACs", 6), ("groups", 7), ("target", 11), ("float", 6), ("int8", 6), ("8 bits", 9))


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--models", nargs="+", metavar="NAME", help="models of the zoo (default: all)")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--macs", type=float, default=0.5, metavar="PART", help="the part of the MACs left")
    parser.add_argument("--align", type=int, default=8)
    parser.add_argument("--importance", default="auto", metavar="NAME")
    parser.add_argument("--samples", type=int, default=8, metavar="N", help="calibration samples")
    parser.add_argument("--markdown", action="store_true")


def main(options: argparse.Namespace) -> None:
    """Print the table, then what went wrong."""
    table, notes = Table(COLUMNS, options.markdown), list[str]()
    table.head()
    chosen = {"macs": options.macs, "align": options.align, "importance": options.importance}
    for name in options.models or zoo_names():
        entry = script("zoo").model(name)
        feeds: Feeds = entry.calibration(options.samples)
        try:
            pruned = graphopt.optimize(entry.path, preset="float", prune=chosen, calibration_data=feeds)
        except graphopt.GraphoptError as error:
            notes.append(f"{name}: {error}")
            table.row([name, "–"])
            continue
        found = pruned.report.elimination
        if found is None:
            notes.append(f"{name}: no channels can be removed")
            table.row([name, "–"])
            continue
        left = f"{found.after.macs / found.before.macs:.1%}"
        groups = f"{sum(bool(group.removed) for group in found.groups)}/{len(found.groups)}"
        for target in options.targets:
            cells = taken(f"{name}, {target}", pruned.model, target, feeds, notes)
            table.row([name, left, groups, target, *cells])
    print("\nFailures, and nodes that were planned in 8 bits and aren't:")
    print("\n".join(f"- {note}" for note in notes) or "- none")


def taken(where: str, pruned: onnx.ModelProto, target: str, feeds: Feeds, notes: list[str]) -> list[str]:
    """Whether an engine takes the pruned model, in float and in 8 bits: cells of the line."""
    cells: list[str] = []
    integer = "–"
    for preset in ("float", "int8"):
        try:
            model = graphopt.optimize(pruned, target=target, preset=preset, calibration_data=feeds).model
            if preset == "int8":
                integer = in_engine(model, target, feeds, f"{where}, {preset}", notes)
            else:
                in_engine(model, target, feeds, f"{where}, {preset}", notes)
            cells.append("runs" if find_engine(find_target(target)).run is not None else "builds")
        except Exception as error:  # a bug is a finding, too, and other models wait
            notes.append(f"{where}, {preset}: {type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}")
            cells.append("fails")
    return [*cells, integer]


def in_engine(model: onnx.ModelProto, target: str, feeds: Feeds, where: str, notes: list[str]) -> str:
    """Load the model in the target's engine, and run it there where it runs; its nodes in 8 bits / planned.

    Raises:
        GraphoptError: the engine doesn't take it.
    """
    aim = find_target(target)
    engine = find_engine(aim)
    planned = planned_nodes(load(model, min_opset=1), aim)
    shapes = {name: value.shape for name, value in feeds[0].items()}
    found = engine.precision(model, planned, engine.device(None), shapes)
    notes += [f"{where}: {n.planned.name}: {n.precision}: {n.reason}" for n in found.missed]
    if engine.run is not None:
        for outputs in engine.run(model, feeds[:1], None):
            if not all(np.isfinite(o).all() for o in outputs if o.dtype.kind == "f"):
                notes.append(f"{where}: a result isn't finite")
    return f"{len(planned) - len(found.missed)}/{len(planned)}"
