"""Options that several subcommands have, declared once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, TypeAlias

import numpy as np
import typer
from numpy.typing import NDArray

from graphopt.calibration.preprocess import PRESETS as PREPROCESS_PRESETS
from graphopt.errors import CalibrationError, ConfigError
from graphopt.passes.presets import PRESETS
from graphopt.pipeline.passes import Resources
from graphopt.targets import TARGETS

Model: TypeAlias = Annotated[Path, typer.Argument(metavar="MODEL", help="The model: .onnx, or .onnxtxt for ONNX text.")]
_OWN_TARGET = "or a file of your own: board.toml"
TargetName: TypeAlias = Annotated[
    str | None,
    typer.Option("--target", "-t", metavar="TARGET", help=f"What runs it: {', '.join(TARGETS)}, {_OWN_TARGET}."),
]
RequiredTarget: TypeAlias = Annotated[
    str, typer.Option("--target", "-t", metavar="TARGET", help=f"What runs it: {', '.join(TARGETS)}, {_OWN_TARGET}.")
]
Preset: TypeAlias = Annotated[
    str | None, typer.Option(metavar="NAME", help=f"What to do: {', '.join(PRESETS)}. [default: int8]")
]
Config: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="FILE.toml", help="A pipeline file, instead of a preset.")
]
Passes: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="PASSES", help="A pipeline, instead of a preset: fold-batch-norm,my_module:MyPass{a=1},… See `passes`."
    ),
]
CalibrationData: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="Samples to calibrate with: an .npz file (arrays stacked on axis 0, named as the inputs), a folder of "
        "them, a folder of images (with --preprocess), or module:function that yields {input: array}.",
    ),
]
Ranges: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Ranges from `graphopt calibrate`, instead of samples.")
]
Preprocess: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE.toml",
        help=f"For folders of images, how they become the model's input: {', '.join(PREPROCESS_PRESETS)}, or a file.",
    ),
]
Method: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--calibration-method", metavar="NAME", help="How ranges are chosen: minmax, ema, percentile, kl, mse, auto."
    ),
]
Percentile: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="P", help="Method percentile: the share of values that is covered, in percent. [default: 99.99]"
    ),
]
Prune: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="BUDGET",
        help="Remove channels first: macs=0.5 keeps half of the MACs; ratio=, params=, bytes=, latency= and the other "
        "options of eliminate-channels, see `passes`.",
    ),
]
Skip: TypeAlias = Annotated[
    list[str] | None, typer.Option(metavar="PASS", help="Leave this pass out. Repeatable, or a,b,c.")
]
KeepFloat: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN", help="Leave these nodes in float: a name, a pattern ('head/*') or an operator. Repeatable."
    ),
]
MIXED = "Mixed precision (--preset mixed, or passes with assign-precision)"
Budget: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="BUDGET",
        rich_help_panel=MIXED,
        help="What the result may take: latency=0.6x or size=0.3x of the float model's, or bits=6 a weight.",
    ),
]
Precision: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN=NAME",
        rich_help_panel=MIXED,
        help="Give these nodes this precision: 'Softmax=float', 'head/*=float16'. Repeatable; the last one counts.",
    ),
]
Labels: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FILE.npy", help="Class indices of the samples, if not in the .npz as `labels`."),
]
Threads: TypeAlias = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Threads of onnxruntime. [default: all cores]")
]
_RESOURCES = "Calibration's resources"
Workers: TypeAlias = Annotated[
    int, typer.Option(min=1, metavar="N", rich_help_panel=_RESOURCES, help="Processes that share the samples.")
]
BatchSize: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        rich_help_panel=_RESOURCES,
        help="Samples in a model call, where the model gives the same bits for them. [default: up to 8]",
    ),
]
Provider: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", rich_help_panel=_RESOURCES, help="Execution provider of onnxruntime. Repeatable."),
]
MemoryBudget: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        rich_help_panel=_RESOURCES,
        help="What observed tensors may take at a time: 800M, 2G. [default: a quarter of the memory that is available]",
    ),
]
Checkpoint: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", rich_help_panel=_RESOURCES, help="Go on from here when a calibration was interrupted."
    ),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def split(values: list[str] | None) -> tuple[str, ...]:
    """The values of a repeatable option, each of which may hold several, with commas."""
    return tuple(part.strip() for value in values or () for part in value.split(",") if part.strip())


def resources(
    workers: int,
    batch_size: int | None,
    provider: list[str] | None,
    memory_budget: str | None,
    checkpoint: Path | None,
) -> Resources:
    """The resources that the options name.

    Raises:
        ConfigError: the budget is no size.
    """
    budget = None if memory_budget is None else _bytes(memory_budget)
    return Resources(workers, batch_size, split(provider), budget, checkpoint)


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKMGT]?)(?:i?B)?", text.strip())
    if found is None:
        raise ConfigError(f"the memory budget is '{text}'; expected a size such as 800M or 2G")
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "))


def read_labels(path: Path | None) -> NDArray[np.generic] | None:
    """The array in an .npy file.

    Raises:
        CalibrationError: it can't be read.
    """
    if path is None:
        return None
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CalibrationError(
            f"can't read the labels '{path}' ({reason}): save them with numpy.save, one integer per row"
        ) from error
