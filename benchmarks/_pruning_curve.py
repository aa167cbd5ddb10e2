"""`python -m benchmarks.pruning curve`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import graphopt
from benchmarks._common import Table
from benchmarks._pruning import Judged, Pruner
from benchmarks._pruning_picture import Curve, draw
from graphopt.analysis.pruning.importance import IMPORTANCE
from graphopt.passes.eliminate_channels import EliminateChannels

MODELS = ("resnet20_cifar10_bn", "squeezenet_imagenet")
MACS = (0.9, 0.8, 0.7, 0.6, 0.5)
# What the bar is about: the part of the MACs, and the part of the baseline's drop that may be left.
JUDGED, BAR = 0.7, 1 / 3


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        options: of the pass; `repair` says whether this line is with it.
        drops: part of the MACs asked for → (part left, points of top-1 lost, standard error).
        choosing: seconds for ranking, sensitivity and the sizes of all budgets.
        pruning: seconds for a cut and its repair.
        failed: why there are no figures, or not all.
    """

    options: EliminateChannels
    drops: dict[float, tuple[float, float, float]]
    choosing: float
    pruning: float
    failed: str = ""

    @property
    def how(self) -> str:
        """What sizes are chosen by."""
        if self.options.scope == "local":
            return "ratio"
        by_layers = IMPORTANCE[self.options.importance].costs_errors
        auto = "layers" if by_layers else "outputs"
        return auto if self.options.sensitivity == "auto" else self.options.sensitivity

    def cells(self, budgets: list[float]) -> list[str]:
        """Its cells, behind the model's."""
        found = [self.drops.get(macs) for macs in budgets]
        drops = ["–" if drop is None else f"{drop[1]:.1f}" for drop in found]
        repair = "yes" if self.options.repair else "no"
        return [self.options.importance, self.how, repair, *drops, f"{self.choosing:.0f}", f"{self.pruning:.1f}"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="NAME", help="labelled models of the zoo")
    parser.add_argument("--macs", nargs="+", type=float, default=list(MACS), metavar="PART", help="parts left")
    parser.add_argument("--importance", nargs="+", default=list(IMPORTANCE), metavar="NAME")
    parser.add_argument("--sensitivity", nargs="+", default=["auto"], choices=["auto", "layers", "outputs"])
    parser.add_argument("--repair", nargs="+", default=["yes", "no"], choices=["yes", "no"])
    parser.add_argument("--samples", type=int, default=128, metavar="N", help="calibration samples")
    parser.add_argument("--memory", type=int, default=4096, metavar="MIB", help="for the samples' tensors")
    parser.add_argument("--validation", type=int, default=400, metavar="N", help="images to judge by")
    parser.add_argument("--align", type=int, default=8)
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="a picture of the curves")
    parser.add_argument("--markdown", action="store_true")


def main(options: argparse.Namespace) -> None:
    """Print the table, say whether the bar is held, and draw the picture."""
    curves: dict[str, list[Curve]] = {}
    notes: list[str] = []
    heads = (("importance", 14), ("sizes by", 8), ("repair", 6), *((f"{m:.0%}", 5) for m in options.macs))
    for name in options.models:
        judged = Judged.of(name, options.samples, options.validation)
        top1 = sum(judged.right) / len(judged.right)
        print(
            f"\n{name}: {top1:.1%} of {len(judged.right)} right; points lost at each part of the MACs left", flush=True
        )
        table = Table((*heads, ("s", 5), ("point s", 7)), options.markdown)
        table.head()
        baseline: Line | None = None
        for line in lines(judged, options):
            table.row(line.cells(options.macs))
            baseline = baseline or line
            curves.setdefault(name, []).append(_curve(line))
            if line.failed:
                notes.append(f"{name}, {line.options.importance}: {line.failed}")
            elif line.options.repair and JUDGED in options.macs:
                notes.append(f"{name}, {line.options.importance}, {line.how}: {verdict(line, baseline)}")
            if options.out is not None:
                draw(options.out, curves)  # as far as it is known: a full run takes half an hour
    print("\n" + "\n".join(f"- {note}" for note in dict.fromkeys(notes)))


def lines(judged: Judged, options: argparse.Namespace) -> Iterator[Line]:
    """The baseline of the literature, then every importance, with and without repair."""
    memory: int = options.memory << 20
    common = EliminateChannels(macs=JUDGED, align=options.align)
    plain = replace(common, importance="l1", scope="local", repair=False)
    yield from measured(judged, plain, options.macs, ["no"], memory)
    for importance in options.importance:
        for sensitivity in options.sensitivity:
            chosen = replace(common, importance=importance, sensitivity=sensitivity)
            yield from measured(judged, chosen, options.macs, options.repair, memory)


def measured(
    judged: Judged, options: EliminateChannels, budgets: list[float], repairs: list[str], memory: int
) -> Iterator[Line]:
    """A line for each of `repairs`, from the same choices."""
    began = time.perf_counter()
    failed = ""
    pruner = Pruner(judged, options, memory)
    reached: list[float] = []
    for macs in budgets:
        try:
            pruner.keep(macs)
            reached.append(macs)
        except graphopt.ConfigError as error:
            failed = str(error)
    choosing = time.perf_counter() - began
    for repair in repairs:
        began, drops = time.perf_counter(), dict[float, tuple[float, float, float]]()
        models = {macs: pruner.pruned(macs, repair=repair == "yes") for macs in reached}
        pruning = (time.perf_counter() - began) / max(len(models), 1)
        for macs, model in models.items():
            drops[macs] = (pruner.share(macs), *judged.drop(model))
        yield Line(replace(options, repair=repair == "yes"), drops, choosing, pruning, failed)


def verdict(line: Line, baseline: Line) -> str:
    """Where a line stands to the bar."""
    (_, drop, error), (_, most, _) = line.drops[JUDGED], baseline.drops[JUDGED]
    said = "held" if drop <= BAR * most else "not held"
    return f"{drop:.1f} ± {error:.1f} points at {JUDGED:.0%}; a third of the baseline's is {BAR * most:.1f}: {said}"


def _curve(line: Line) -> Curve:
    points = [(1.0, 0.0), *((share, drop) for share, drop, _ in line.drops.values())]
    return Curve(line.options.importance, line.how, line.options.repair, tuple(points))
