"""What our pictures have in common: matplotlib, which is optional, colours, and files with the same bytes each time."""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from graphopt.errors import ConfigError
from graphopt.ir.files import replacing
from graphopt.ir.process_wide import ProcessWide

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Told apart by people who see colours differently (Okabe and Ito)."""


def new_figure(width: float, height: float) -> Any:
    """An empty figure, of a size in inches.

    Raises:
        ConfigError: matplotlib isn't installed.
    """
    try:
        figures = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise ConfigError("pictures need matplotlib: pip install 'graphopt[plot]'") from error
    return figures.Figure(figsize=(width, height), layout="constrained", facecolor="white")


def soften(axes: Any, grid: str = "both") -> None:
    """A pale grid behind the lines, on "x", "y" or "both", and no frame at the top and on the right."""
    axes.grid(axis=grid, color="#EEEEEE")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Any, path: Path) -> None:
    """Write a figure, whole or not at all, in the format that the file's ending says: .png or .svg.

    Raises:
        EmitError: it can't be written.
    """
    kind = path.suffix.lower().removeprefix(".")
    # Without versions, dates and random names in the file, the same values give the same bytes.
    unsaid = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    with replacing(path) as file, _SAME_NAMES:
        figure.savefig(file, format=kind, dpi=110, metadata=unsaid)


def _same_names() -> AbstractContextManager[object]:
    return importlib.import_module("matplotlib").rc_context({"svg.hashsalt": "graphopt"})


_SAME_NAMES = ProcessWide(_same_names)
