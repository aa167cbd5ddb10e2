"""Accuracy of the int8 presets on real models, in the engine that each is compiled for.

    GRAPHOPT_ZOO=… python -m benchmarks.zoo_int8 [--preset int8-accurate] [--models …] [--targets …] [--samples N]
        [--peer] [--draws N] [--markdown]

Calibrated with 64 samples (24 for models without labels), judged on N others (24) against the float model in
onnxruntime. `differ`: samples whose decision is not the float model's. `dB`: SQNR of the first output. `8 bits`: of
the Conv, ConvTranspose, Gemm and MatMul that the engine really runs. `s`: all passes, calibration included; `whole`:
with loading and with measuring the result on the calibration samples. `--peer` runs onnxruntime's own quantization
(see _peer.py) on the same samples in the same process; columns `md` repeat what peers.md beside the zoo says of it,
and `best dB` is the highest SQNR there of any peer's any setting with layers in 8 bits.

`--draws N` compiles each labelled model N times instead, with other calibration samples each time, and prints the drop
of every draw and their mean: how much of one drop is chance. A drop's standard error follows from `differ`, too: it
is at most √differ / N of the samples, as right and wrong samples that change cancel out.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import graphopt
from benchmarks._common import (
    ENGINES,
    Feeds,
    Score,
    Table,
    first_outputs,
    integer_layers,
    score,
    script,
    worse,
    zoo_names,
)
from benchmarks._peer import Quantized, best_published, published, quantized
from graphopt.passes.presets import PRESETS

CALIBRATION_LABELLED, UNLABELLED = 64, 24
PUBLISHED_SAMPLES = 400  # what peers.md was judged on

OURS = (
    ("model", 27), ("engine", 11), ("fp32 %", 6), ("int8 %", 6), ("differ", 6), ("dB", 6), ("8 bits", 7),
    ("file", 5), ("s", 6), ("whole", 6),
)  # fmt: skip
DRAWS = (("model", 27), ("engine", 11), ("draw", 4), ("drop", 6), ("± se", 5), ("differ", 6), ("dB", 6))
PUBLISHED = (("md %", 6), ("md dB", 6), ("md share", 8), ("best dB", 7))
PEER = (("peer %", 6), ("differ", 6), ("dB", 6), ("8 bits", 7), ("s", 6))


@dataclass
class Notes:
    """What doesn't fit into the table."""

    in_float: list[str] = field(default_factory=list[str])
    failed: list[str] = field(default_factory=list[str])
    below: list[str] = field(default_factory=list[str])

    def show(self) -> None:
        """Print them."""
        for head, lines in (
            ("Left in float by the plan", self.in_float),
            ("Failures", self.failed),
            ("Worse than the peer", self.below),
        ):
            print(f"\n{head}:")
            print("\n".join(f"- {line}" for line in lines) or "- none")


@dataclass(frozen=True)
class Subject:
    """A model with its samples, the float model's first outputs for them, and the peer's model or why it has none."""

    name: str
    path: Path
    calibration: Feeds
    feeds: Feeds
    labels: Sequence[int] | None
    reference: list[NDArray[Any]]
    peer: Quantized | str | None

    @staticmethod
    def of(name: str, samples: int, with_peer: bool) -> Subject:
        """Load a model of the zoo."""
        entry = script("zoo").model(name)
        labelled = entry.spec["task"] == "classification"
        calibration: Feeds = entry.calibration(CALIBRATION_LABELLED if labelled else UNLABELLED)
        feeds, labels = entry.validation(samples if labelled else min(samples, UNLABELLED))
        reference = list(first_outputs("onnxruntime", entry.path, feeds))
        peer = quantized(entry.path, calibration) if with_peer else None
        return Subject(name, entry.path, calibration, feeds, labels, reference, peer)

    def score(self, engine: str, model: onnx.ModelProto) -> Score:
        """A model made from this one, in an engine."""
        return score(engine, model, self.feeds, self.reference, self.labels)


def compare(subject: Subject, engine: str, preset: str, notes: Notes) -> list[str]:
    """Compile a model for an engine and judge it there; the cells of its line."""
    where = f"{subject.name}, {engine}"
    cells = [subject.name, engine, "–" if subject.labels is None else percent(correct(subject), len(subject.feeds))]
    ours = None
    try:
        result = graphopt.optimize(subject.path, target=engine, preset=preset, calibration_data=subject.calibration)
        ours = subject.score(engine, result.model)
        bytes_ratio = result.model.ByteSize() / subject.path.stat().st_size
        seconds = sum(record.seconds for record in result.report.passes)
        cells += [*scored(ours), f"{bytes_ratio:.2f}", f"{seconds:.1f}", f"{result.report.seconds:.1f}"]
        # Names of tensors are left out, so that one reason is one line.
        floats = [(x.op, re.sub("'[^']*'", "…", x.reason)) for x in result.report.layers if not x.integer]
        notes.in_float += [f"{where}: {count} × {op}: {why}" for (op, why), count in Counter(floats).items()]
    except graphopt.GraphoptError as error:
        notes.failed.append(f"{where}: {error}{float_too(engine, subject.path)}")
        cells += ["fails", *["–"] * 6]
    listed = published(subject.name)
    cells += ["–"] * 3 if listed is None else listed.cells(ENGINES.index(engine))
    best = best_published(subject.name, ENGINES.index(engine))
    cells.append("–" if best is None else f"{best:.1f}")
    if best is not None and ours is not None and ours.sqnr_db < best:
        notes.below.append(f"{where}: {ours.sqnr_db:.1f} dB, the best setting of a peer in peers.md has {best:.1f}")
    if listed is not None and ours is not None and ours.correct is not None and ours.samples == PUBLISHED_SAMPLES:
        theirs = round(float(listed.top1[ENGINES.index(engine)]) * ours.samples)
        if ours.correct < theirs:
            notes.below.append(f"{where}: {theirs - ours.correct} of {ours.samples} fewer than in peers.md")
    return [*cells, *peer_cells(subject, engine, ours, notes)]


def float_too(engine: str, path: Path) -> str:
    """What to add to a failure when the engine can't run the original either."""
    try:
        integer_layers(engine, path)
    except graphopt.UnsupportedError:
        return " [the float model fails there too]"
    return ""


def peer_cells(subject: Subject, engine: str, ours: Score | None, notes: Notes) -> list[str]:
    """The peer's model in the same engine."""
    if subject.peer is None:
        return []
    where = f"{subject.name}, {engine}"
    if isinstance(subject.peer, str):
        notes.failed.append(f"{where}: the peer: {subject.peer}")
        return ["fails", *["–"] * 4]
    if subject.peer.note:
        notes.failed.append(f"{where}: the peer {subject.peer.note}")
    try:
        theirs = subject.score(engine, subject.peer.model)
    except graphopt.GraphoptError as error:
        notes.failed.append(f"{where}: the peer's model: {error}")
        return ["fails", *["–"] * 4]
    if ours is not None:
        notes.below += [f"{where}: {what} than the peer in the same run" for what in worse(ours, theirs)]
    return [*scored(theirs), f"{subject.peer.seconds:.1f}"]


def scored(found: Score) -> list[str]:
    """The cells int8 %, differ, dB, 8 bits."""
    top1 = "–" if found.correct is None else percent(found.correct, found.samples)
    differ = "–" if found.differing is None else str(found.differing)
    return [top1, differ, f"{found.sqnr_db:.1f}", f"{found.integer}/{found.layers}"]


def draw(subject: Subject, engine: str, preset: str, draws: int, table: Table) -> None:
    """Compile a labelled model with other calibration samples each time; a line for each, and one for their mean."""
    pool = script("zoo").model(subject.name).calibration(10**6)
    drops: list[float] = []
    errors: list[float] = []
    for seed in range(draws):
        chosen = np.sort(np.random.default_rng(seed).permutation(len(pool))[: len(subject.calibration)])
        samples = [pool[i] for i in chosen]
        model = graphopt.optimize(subject.path, target=engine, preset=preset, calibration_data=samples).model
        found = subject.score(engine, model)
        assert found.correct is not None
        assert found.differing is not None
        drops.append(100 * (correct(subject) - found.correct) / found.samples)
        errors.append(100 * found.differing**0.5 / found.samples)
        cells = (f"{drops[-1]:.2f}", f"{errors[-1]:.2f}", str(found.differing), f"{found.sqnr_db:.1f}")
        table.row([subject.name, engine, str(seed), *cells])
    mean = (f"{np.mean(drops):.2f}", f"{np.mean(errors):.2f}", "", "")
    table.row([subject.name, engine, "mean", *mean])


def correct(subject: Subject) -> int:
    """Samples that the float model gets right."""
    assert subject.labels is not None
    return sum(int(np.argmax(o)) == int(y) for o, y in zip(subject.reference, subject.labels, strict=True))


def percent(count: int, samples: int) -> str:
    """A share in percent; hundredths, since one of 400 samples is a quarter of a percent."""
    return f"{100 * count / samples:.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=[p for p in PRESETS if p != "float"], default="int8")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="models of the zoo (default: all)")
    parser.add_argument("--targets", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument(
        "--samples", type=int, default=PUBLISHED_SAMPLES, metavar="N", help="labelled validation samples"
    )
    parser.add_argument("--draws", type=int, default=0, metavar="N", help="calibration draws of each labelled model")
    parser.add_argument("--peer", action="store_true", help="run onnxruntime.quantization side by side")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    logging.getLogger().setLevel(logging.ERROR)  # the peer warns about what it was told to do
    if options.draws:
        table = Table(DRAWS, options.markdown)
        table.head()
        for name in options.models or zoo_names():
            subject = Subject.of(name, options.samples, with_peer=False)
            for engine in options.targets if subject.labels is not None else ():
                draw(subject, engine, options.preset, options.draws, table)
        return
    table = Table((*OURS, *PUBLISHED, *(PEER if options.peer else ())), options.markdown)
    notes = Notes()
    table.head()
    for name in options.models or zoo_names():
        subject = Subject.of(name, options.samples, options.peer)
        for engine in options.targets:
            table.row(compare(subject, engine, options.preset, notes))
    notes.show()


if __name__ == "__main__":
    main()
