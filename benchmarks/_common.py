"""What the benchmarks share: the models, running them in an engine and scoring the outcome, and tables.

The models are in the folder that the environment variable GRAPHOPT_ZOO names.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from graphopt.backends import kernel_precision, open_session, openvino
from graphopt.backends.measures import Tally

ENGINES = ("onnxruntime", "openvino")
Feeds = list[dict[str, NDArray[Any]]]

# OpenVINO's names of what Conv, ConvTranspose, Gemm and MatMul become.
_LINEAR_LAYERS = ("Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul")


class Command(Protocol):
    """A module that is a sub-command."""

    def add_options(self, parser: argparse.ArgumentParser) -> None: ...
    def main(self, options: argparse.Namespace) -> None: ...


def run_command(doc: str | None, commands: Mapping[str, Command], arguments: Sequence[str] | None) -> None:
    """Run the sub-command that the arguments name; `doc` is the help."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = parser.add_subparsers(dest="command", required=True)
    for name, command in commands.items():
        command.add_options(known.add_parser(name))
    options = parser.parse_args(arguments)
    commands[options.command].main(options)


def zoo_folder() -> Path:
    """The folder of the models; ends the program with a message when there is none."""
    if "GRAPHOPT_ZOO" not in os.environ:
        sys.exit("GRAPHOPT_ZOO must name the folder of the models (zoo.py, zoo.json, models/, data/)")
    return Path(os.environ["GRAPHOPT_ZOO"])


@functools.cache
def script(name: str) -> ModuleType:
    """A module of the zoo's folder: zoo (real models and data) or light (architectures with seeded weights)."""
    full = f"graphopt_benchmark_{name}"
    spec = importlib.util.spec_from_file_location(full, zoo_folder() / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[full] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def zoo_names() -> list[str]:
    """Names of the real models, those with labels first."""
    zoo = script("zoo")
    return [m.name for labelled in (True, False) for m in zoo.models(labelled=labelled)]


@dataclass(frozen=True)
class Score:
    """A model in an engine against the float model in onnxruntime, on the same samples.

    Attributes:
        right: for each sample, whether its largest output is the label; None without labels.
        differing: samples whose largest output is another one than the float model's; None without labels.
        samples: how many there were.
        sqnr_db: of the first output, over all samples, in dB.
        integer, layers: how many of all Conv, ConvTranspose, Gemm and MatMul that the engine runs are in 8 bits.
    """

    right: tuple[bool, ...] | None
    differing: int | None
    samples: int
    sqnr_db: float
    integer: int
    layers: int

    @property
    def correct(self) -> int | None:
        """Samples whose largest output is the label; None without labels."""
        return None if self.right is None else sum(self.right)


def first_outputs(engine: str, model: onnx.ModelProto | Path, feeds: Feeds) -> Iterator[NDArray[Any]]:
    """The model's first output for each of `feeds`, in an engine on the CPU."""
    yield from (outputs[0] for outputs in all_outputs(engine, model, feeds))


def all_outputs(engine: str, model: onnx.ModelProto | Path, feeds: Feeds) -> Iterator[list[NDArray[Any]]]:
    """The model's outputs for each of `feeds`, in an engine on the CPU."""
    if engine == "openvino":
        yield from openvino.run(model, feeds)
        return
    session = open_session(model)
    yield from (session.run(None, feed) for feed in feeds)


def integer_layers(engine: str, model: onnx.ModelProto | Path) -> tuple[int, int]:
    """(in 8 bits, all) of the Conv, ConvTranspose, Gemm and MatMul that the engine really runs."""
    if engine == "openvino":
        ran = [x.integer for x in openvino.runtime_precision(model) if x.layer_type in _LINEAR_LAYERS]
    else:
        ran = [kernel.integer for kernel in kernel_precision(model)]
    return sum(ran), len(ran)


def score(
    engine: str, model: onnx.ModelProto, feeds: Feeds, reference: Sequence[NDArray[Any]], labels: Iterable[int] | None
) -> Score:
    """Run `model` in `engine` on `feeds`; `reference` is the float model's first output for each."""
    tally = Tally()
    decisions: list[int] = []
    for expected, output in zip(reference, first_outputs(engine, model, feeds), strict=True):
        tally.add(expected, output)
        decisions.append(int(np.argmax(output)))
    integer, layers = integer_layers(engine, model)
    right = differing = None
    if labels is not None:
        right = tuple(d == int(y) for d, y in zip(decisions, labels, strict=True))
        differing = sum(d != int(np.argmax(r)) for d, r in zip(decisions, reference, strict=True))
    return Score(right, differing, len(feeds), tally.sqnr_db, integer, layers)


def worse(ours: Score, theirs: Score) -> list[str]:
    """In what `ours` is behind."""
    found: list[str] = []
    if ours.sqnr_db < theirs.sqnr_db:
        found.append(f"{theirs.sqnr_db - ours.sqnr_db:.1f} dB less")
    if ours.right is not None and theirs.right is not None:
        here = sum(a and not b for a, b in zip(ours.right, theirs.right, strict=True))
        there = sum(b and not a for a, b in zip(ours.right, theirs.right, strict=True))
        if here < there:
            # Equally good models would split these like tosses of a coin.
            split = f"{here} right only here, {there} only there"
            found.append(f"{there - here} of {ours.samples} samples fewer right ({split})")
    return found


@dataclass(frozen=True)
class Table:
    """A table that prints each line as it is known, as plain text or as Markdown.

    Attributes:
        columns: (head, width in characters); the first is aligned left, the others right.
        markdown: whether to print Markdown.
    """

    columns: Sequence[tuple[str, int]]
    markdown: bool = False

    def head(self) -> None:
        """Print the heads."""
        self.row([head for head, _ in self.columns])
        if self.markdown:
            print("|" + "---|" * len(self.columns))

    def row(self, cells: Sequence[str]) -> None:
        """Print a line; cells that are left out at its end stay empty."""
        cells = [*cells, *[""] * (len(self.columns) - len(cells))]
        if self.markdown:
            print("| " + " | ".join(cells) + " |", flush=True)
            return
        aligned = [
            cell.rjust(width) if k else cell.ljust(width)
            for k, (cell, (_, width)) in enumerate(zip(cells, self.columns, strict=True))
        ]
        print("  ".join(aligned).rstrip(), flush=True)
