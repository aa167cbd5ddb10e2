"""Pictures of calibration: a tensor's histogram, and where each method would cut it.

One PNG a tensor and an index.html that shows them all. Needs matplotlib (`pip install 'graphopt[plot]'`).
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.calibration.figures import COLORS, new_figure, save, soften
from graphopt.calibration.histogram import Histogram
from graphopt.errors import EmitError
from graphopt.ir.files import replacing
from graphopt.quant import Range, Scheme

# Told apart by their dashes, too.
_STYLES = tuple(
    zip((*COLORS[:5], "#000000"), ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3))), strict=True)
)
_BARS = 240  # at most; a bar is at least one bin
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Calibration</title><style>
body {{ font: 15px sans-serif; max-width: 1000px; margin: 2em auto; color: #222; background: #fff }}
img {{ max-width: 100% }} li {{ overflow-wrap: anywhere }}
</style></head><body>
<h1>Calibration of {count} tensors</h1>
<ul>
{links}
</ul>
{pictures}
</body></html>
"""


@dataclass(frozen=True)
class Picture:
    """What is drawn of one tensor.

    Attributes:
        tensor: its name.
        histogram: its values.
        scheme: how it is quantized.
        ranges: what each method chooses, by the method's name.
        chosen: the name of the one that is used.
    """

    tensor: str
    histogram: Histogram
    scheme: Scheme
    ranges: Mapping[str, Range]
    chosen: str


def draw(folder: Path, pictures: Sequence[Picture]) -> None:
    """Write a PNG for each tensor and an index.html into `folder`, which is made if it isn't there.

    Raises:
        ConfigError: matplotlib isn't installed.
        EmitError: a file can't be written.
    """
    new_figure(1, 1)  # before a folder is made in vain
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EmitError(f"the folder '{folder}' can't be made ({error.strerror})") from error
    names = [file_name(index, picture.tensor) for index, picture in enumerate(pictures)]
    for name, picture in zip(names, pictures, strict=True):
        save(_figure(picture), folder / name)
    with replacing(folder / "index.html") as file:
        file.write(_page(pictures, names).encode())


def file_name(index: int, tensor: str) -> str:
    """A name that any file system takes, different for each index: 003_block1_Relu_output_0.png."""
    readable = re.sub(r"[^A-Za-z0-9]+", "_", tensor).strip("_")[:80]
    return f"{index:03d}_{readable or 'tensor'}.png"


def bars(histogram: Histogram, most: int = _BARS) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The histogram over the values it has seen, in at most `most` bars of whole bins.

    Returns:
        Edges [n + 1], in the tensor's units, and counts [n]; exact zeros are left out. Empty without other values.
    """
    if histogram.exponent is None:
        return np.zeros(1), np.zeros(0, np.int64)
    signed = np.concatenate([histogram.negative[::-1], histogram.positive])
    filled = np.flatnonzero(signed)
    middle = len(histogram.negative)
    group = 1
    # Anchored at zero, as the bins are: no bar holds values of both signs.
    while (filled[-1] - middle) // group - (filled[0] - middle) // group >= most:
        group *= 2
    first, last = (int(k - middle) // group for k in (filled[0], filled[-1]))
    index = (filled - middle) // group - first
    counts = np.zeros(last - first + 1, np.int64)
    np.add.at(counts, index, signed[filled])
    return np.arange(first, last + 2).astype(np.float64) * (group * histogram.width), counts


def _figure(picture: Picture) -> Any:
    histogram = picture.histogram
    figure = new_figure(9, 4.2)
    axes = figure.add_subplot()
    edges, counts = bars(histogram)
    axes.stairs(counts, edges, fill=True, color="#BFC9D1")
    if len(counts):
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.8)
    axes.set_xlabel("value of the tensor")
    axes.set_ylabel(f"values per bar of {edges[1] - edges[0]:.3g}" if len(counts) else "values")
    soften(axes, "y")
    axes.margins(x=0.03)
    for k, (method, found) in enumerate(picture.ranges.items()):
        color, dashes = _STYLES[k % len(_STYLES)]
        width = 2.4 if method == picture.chosen else 1.4
        low, high = float(found.low), float(found.high)
        label = f"{method}{' (used)' if method == picture.chosen else ''}\n[{low:.4g}, {high:.4g}]"
        axes.axvline(high, color=color, linestyle=dashes, linewidth=width, label=label)
        axes.axvline(low, color=color, linestyle=dashes, linewidth=width)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9, handlelength=3, labelspacing=0.8)
    count = histogram.count
    zeros = f"{histogram.zeros / count:.1%} exact zeros, not drawn" if count else "none seen"
    axes.set_title(
        f"{_shortened(picture.tensor)}\n{count:,} values, {zeros}; {picture.scheme}", loc="left", fontsize=10,
        parse_math=False,
    )  # fmt: skip
    return figure


def _page(pictures: Sequence[Picture], names: Sequence[str]) -> str:
    entries = [(html.escape(picture.tensor), name) for picture, name in zip(pictures, names, strict=True)]
    return _PAGE.format(
        count=len(pictures),
        links="\n".join(f'<li><a href="#{name}">{tensor}</a></li>' for tensor, name in entries),
        pictures="\n".join(f'<p id="{name}"><img src="{name}" alt="{tensor}"></p>' for tensor, name in entries),
    )


def _shortened(tensor: str) -> str:
    return tensor if len(tensor) <= 90 else f"{tensor[:40]} … {tensor[-45:]}"
