"""The picture of `python -m benchmarks.pruning curve`: for each model, points lost against MACs left.

Needs matplotlib (`pip install 'graphopt[plot]'`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.calibration.figures import COLORS, new_figure, save, soften
from graphopt.errors import ConfigError

_MARKERS = "os^Dv<>PX*p"
_DASHES = ("-", "--")


@dataclass(frozen=True)
class Curve:
    """A line of the picture.

    Attributes:
        importance: the criterion.
        how: what sizes are chosen by.
        repair: whether the rest was refitted.
        points: (part of the MACs left, points of top-1 lost).
    """

    importance: str
    how: str
    repair: bool
    points: Sequence[tuple[float, float]]


def draw(path: Path, curves: Mapping[str, Sequence[Curve]]) -> None:
    """Write the picture, as PNG: a row for each model, on the left without repair, on the right with it.

    The first curve of each model is the baseline, in both columns.
    """
    try:
        figure = new_figure(11, 1.6 + 3.6 * len(curves))
    except ConfigError as error:
        sys.exit(str(error))
    grid = figure.subplots(len(curves), 2, squeeze=False, sharex=True, sharey="row")
    names = list(dict.fromkeys((c.importance, c.how) for found in curves.values() for c in found[1:]))
    for row, (model, (baseline, *others)) in zip(grid, curves.items(), strict=True):
        for axes, repair in zip(row, (False, True), strict=True):
            _line(axes, baseline, "baseline: l1, same part everywhere, no repair", "black", "", ":", 2)
            for curve in others:
                if curve.repair == repair:
                    k = names.index((curve.importance, curve.how))
                    label = curve.importance if len({how for _, how in names}) == 1 else " by ".join(names[k])
                    marker, dash = _MARKERS[k % len(_MARKERS)], _DASHES[k // len(COLORS) % len(_DASHES)]
                    _line(axes, curve, label, COLORS[k % len(COLORS)], marker, dash, 1.4)
            axes.set_title(f"{model}, {'repaired' if repair else 'not repaired'}", loc="left", fontsize=10)
            soften(axes)
        row[0].set_ylabel("points of top-1 lost")
        row[0].invert_yaxis()
    for axes in grid[-1]:
        axes.set_xlabel("MACs left, %")
    grid[0][0].invert_xaxis()
    handles = {label: h for axes in grid.flat for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    save(figure, path)


def _line(axes: Any, curve: Curve, label: str, color: str, marker: str, dash: str, width: float) -> None:
    points = sorted(curve.points)
    x, y = [100 * share for share, _ in points], [drop for _, drop in points]
    axes.plot(x, y, label=label, color=color, marker=marker, linestyle=dash, linewidth=width, markersize=4)
