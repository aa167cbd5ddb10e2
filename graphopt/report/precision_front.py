"""The front of error and cost as a table for spreadsheets (.csv) and as a picture (.png or .svg, with matplotlib)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from graphopt.analysis.precision.budget import float_cost
from graphopt.analysis.precision.front import undominated
from graphopt.analysis.precision.record import PrecisionChoice
from graphopt.analysis.precision.types import Costs, Solution
from graphopt.calibration.figures import COLORS, new_figure, save, soften
from graphopt.errors import ConfigError, EmitError
from graphopt.ir.files import replacing
from graphopt.quant.precision import PRECISIONS
from graphopt.report.units import decibel_text

_CSV, _PICTURES = ".csv", (".png", ".svg")
_UNITS = {"latency": "seconds", "size": "bytes", "bits": "multiply-accumulates x bits"}
AXES = {
    "latency": ("latency, ms", 1e-3),
    "size": ("weights, kB", 1e3),
    "bits": ("multiply-accumulates x bits, 10⁶", 1e6),
}
"""Kind of cost → (what the axis says, that in the costs' units)."""


def save_front(path: Path, choice: PrecisionChoice, macs: Mapping[str, int | None] | None = None) -> tuple[Path, ...]:
    """Write the front: a table for `.csv`, a picture for `.png` or `.svg`, both for a folder, which is made.

    Args:
        path: of the file, or of the folder, which then holds front.csv and front.png.
        choice: what was assigned, and the front that it was chosen from.
        macs: name of a layer → its multiply-accumulates, for their shares; None leaves those out.

    Returns:
        What was written.

    Raises:
        ConfigError: the ending is another one, or matplotlib isn't installed.
        EmitError: a file can't be written.
    """
    kind = path.suffix.lower()
    if path.is_dir() or not kind:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EmitError(f"the folder '{path}' can't be made ({error.strerror})") from error
        return *save_front(path / "front.csv", choice, macs), *save_front(path / "front.png", choice, macs)
    if kind == _CSV:
        with replacing(path) as file:
            file.write(front_csv(choice, macs).encode())
    elif kind in _PICTURES:
        draw_front(path, choice)
    else:
        raise ConfigError(f"{path}: the front is written as {_CSV}, {', '.join(_PICTURES)} or into a folder")
    return (path,)


def check_front(path: Path) -> None:
    """Refuse, before any work is done, a form that the front can't be written in.

    Raises:
        ConfigError: the ending is another one, or matplotlib isn't installed.
    """
    kind = path.suffix.lower()
    if kind in _PICTURES or not kind or path.is_dir():
        new_figure(1, 1)
    elif kind != _CSV:
        raise ConfigError(f"{path}: the front is written as {_CSV}, {', '.join(_PICTURES)} or into a folder")


def front_csv(choice: PrecisionChoice, macs: Mapping[str, int | None] | None = None) -> str:
    """A line for each point, the cheapest first: cost, error, the decibels that it predicts, each region's precision.

    Shares of the multiply-accumulates are those of the regions' layers; they are left out where some aren't known.
    """
    regions = choice.problem.regions.regions
    whole = float_cost(choice.problem.regions, choice.problem.costs)
    used = [name for name in PRECISIONS if any(name in point.precisions.values() for point in choice.points)]
    counts = None if macs is None else {r.name: [macs[node] for node in r.nodes if node in macs] for r in regions}
    known = counts is not None and all(count is not None for found in counts.values() for count in found)
    heads = ["chosen", f"cost ({_UNITS[choice.problem.costs.kind]})", "cost share", "error", "predicted dB", "proven"]
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([*heads, *(f"MACs {name}" for name in used if known), *(region.name for region in regions)])
    for point in choice.points:
        shares = _shares(point, counts) if counts is not None and known else {}
        lines.writerow([
            "yes" if point is choice.chosen else "",
            f"{point.cost:.9g}",
            f"{point.cost / whole:.6f}" if whole > 0 else "",
            f"{point.error:.9g}",
            f"{predicted_db(point):.2f}",
            "yes" if point.proven else "no",
            *(f"{shares.get(name, 0.0):.6f}" for name in used if known),
            *(point.precisions[region.name] for region in regions),
        ])  # fmt: skip
    return text.getvalue()


def draw_front(path: Path, choice: PrecisionChoice, others: Mapping[str, tuple[Solution, ...]] | None = None) -> None:
    """Draw cost against the decibels that the error predicts: in steps, since between two points is none.

    Points without an error are at the upper edge.

    Args:
        path: ends in .png or .svg.
        choice: what was assigned.
        others: other curves of the same problem, by name (the greedy baseline); dominated points are left out.

    Raises:
        ConfigError: matplotlib isn't installed.
        EmitError: the file can't be written.
    """
    costs, points = choice.problem.costs, choice.points
    curves = {"exact": points, **{name: undominated(curve) for name, curve in (others or {}).items()}}
    finite = [db for curve in curves.values() for db in map(predicted_db, curve) if math.isfinite(db)]
    top = max(finite, default=0.0) + 0.08 * (max(finite, default=1.0) - min(finite, default=0.0) or 1.0)
    label, unit = AXES[costs.kind]
    figure = new_figure(9, 5.2)
    axes = figure.add_subplot()
    for (name, curve), color, marker in zip(curves.items(), COLORS, "os^Dv<", strict=False):
        x = [point.cost / unit for point in curve]
        style: dict[str, Any] = {"color": color, "marker": marker, "markersize": 4, "linewidth": 1.4}
        axes.plot(x, list(_shown(curve, top)), label=name, drawstyle="steps-post", **style)
    chosen = choice.chosen
    said = f"chosen: {decibel_text(predicted_db(chosen))}"
    axes.plot(
        [chosen.cost / unit], list(_shown((chosen,), top)), label=said, color="black", marker="o", markersize=11,
        fillstyle="none", linestyle="none",
    )  # fmt: skip
    whole = float_cost(choice.problem.regions, costs)
    if whole > 0:
        above = axes.secondary_xaxis("top", functions=(_times(unit / whole), _times(whole / unit)))
        above.set_xlabel("part of what all float32 takes")
    if any(point.error == 0 for curve in curves.values() for point in curve):
        axes.axhline(top, color="#BFC9D1", linestyle=":", linewidth=1)
        axes.annotate("no error", (1, top), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=9)
    axes.set_xlabel(label + (" (an estimate)" if costs.estimated else ""))
    axes.set_ylabel("predicted SQNR, dB")
    axes.set_title(f"{choice.demand}; {_source(costs)}", loc="left", fontsize=10, parse_math=False)
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    soften(axes)
    if whole > 0:
        axes.spines["top"].set_visible(True)
    save(figure, path)


def predicted_db(point: Solution) -> float:
    """The SQNR that an error predicts, in dB; infinity without an error."""
    return -10 * math.log10(point.error) if point.error > 0 else math.inf


def _shown(curve: tuple[Solution, ...], top: float) -> Iterator[float]:
    return (min(predicted_db(point), top) for point in curve)


def _shares(point: Solution, counts: Mapping[str, list[int | None]]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for region, found in counts.items():
        sums[point.precisions[region]] = sums.get(point.precisions[region], 0.0) + sum(c or 0 for c in found)
    total = sum(sums.values()) or 1.0
    return {name: count / total for name, count in sums.items()}


def _times(factor: float) -> Callable[[Any], Any]:
    return lambda values: values * factor


def _source(costs: Costs) -> str:
    return f"costs: {costs.source or costs.kind}"
