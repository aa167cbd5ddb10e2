"""Accuracy of every calibration method on real models, in the engine that each is compiled for.

    GRAPHOPT_ZOO=… python -m benchmarks.calibration_methods [--models …] [--targets …] [--methods …] [--samples N]

Calibrated with 64 samples (24 for models without labels), judged on N others (24) against the float model in
onnxruntime. A cell is `top-1 % / dB` (SQNR of the first output), without labels only dB. `peer`: the best of each in
peers.md beside the zoo, of any tool, on 400 samples. The last lines judge a method over all models: `dB` is the
mean SQNR, `worst` the largest gap to the best method of a model in dB, `wrong` the labelled samples that are no longer
right, against the float model.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import graphopt
from benchmarks._common import ENGINES, Score, Table, zoo_folder, zoo_names
from benchmarks.zoo_int8 import Subject, correct, percent
from graphopt.calibration import SOLVERS


def scores(subject: Subject, engine: str, methods: Sequence[str]) -> dict[str, Score | None]:
    """Each method's model in the engine; None where it can't be made or run."""
    found: dict[str, Score | None] = {}
    for method in methods:
        try:
            made = graphopt.optimize(subject.path, target=engine, calibration_data=subject.calibration, method=method)
            found[method] = subject.score(engine, made.model)
        except graphopt.GraphoptError:
            found[method] = None
    return found


def cell(score: Score | None) -> str:
    """`top-1 % / dB`."""
    if score is None:
        return "fails"
    top1 = "" if score.correct is None else f"{percent(score.correct, score.samples)} / "
    return f"{top1}{score.sqnr_db:.1f}"


def peers_best(name: str, engine: int) -> str:
    """The best top-1 and the best SQNR of the peers in peers.md, each on its own; "–" without."""
    file: Path = zoo_folder().parent / "peers.md"
    text = file.read_text() if file.exists() else ""
    best: list[str] = []
    rows = re.findall(rf"^\| {re.escape(name)} \| \S+ \|(.*)$", text, re.MULTILINE)
    for column, factor, digits in ((1, 100, 2), (2, 1, 1)):
        cells = [row.split("|")[column].split(" / ")[engine] for row in rows if row.count(" / ") >= 3]
        values = [float(c) for c in cells if re.fullmatch(r"\s*-?[\d.]+\s*", c)]
        best += [f"{factor * max(values):.{digits}f}"] if values else []
    return " / ".join(best) or "–"


def judged(rows: Sequence[tuple[Subject, dict[str, Score | None]]], method: str) -> list[str]:
    """The cells dB, worst and wrong of a method over all models."""
    decibels: list[float] = []
    gaps: list[float] = []
    wrong = 0
    for subject, found in rows:
        mine = found[method]
        if mine is None or not np.isfinite(mine.sqnr_db):
            continue
        decibels.append(mine.sqnr_db)
        gaps.append(max(s.sqnr_db for s in found.values() if s is not None) - mine.sqnr_db)
        wrong += 0 if mine.correct is None else correct(subject) - mine.correct
    return [f"{np.mean(decibels):.1f}", f"{max(gaps):.1f}", str(wrong)] if decibels else ["–"] * 3


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", metavar="NAME", help="models of the zoo (default: all)")
    parser.add_argument("--targets", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--methods", nargs="+", choices=tuple(SOLVERS), default=tuple(SOLVERS))
    parser.add_argument("--samples", type=int, default=400, metavar="N", help="labelled validation samples")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    columns = [("model", 27), ("engine", 11), ("fp32 %", 6), *((method, 12) for method in options.methods)]
    table = Table((*columns, ("peer", 12)), options.markdown)
    table.head()
    rows: list[tuple[Subject, dict[str, Score | None]]] = []
    for name in options.models or zoo_names():
        subject = Subject.of(name, options.samples, with_peer=False)
        top1 = "–" if subject.labels is None else percent(correct(subject), len(subject.feeds))
        for engine in options.targets:
            found = scores(subject, engine, options.methods)
            rows.append((subject, found))
            table.row([name, engine, top1, *(cell(s) for s in found.values()), peers_best(name, ENGINES.index(engine))])
    print()
    summary = Table((("method", 12), ("dB", 6), ("worst", 6), ("wrong", 6)), options.markdown)
    summary.head()
    for method in options.methods:
        summary.row([method, *judged(rows, method)])


if __name__ == "__main__":
    main()
