"""The HTML report: how large it is, how soon it opens in Chromium, and what it adds to the compile.

    GRAPHOPT_ZOO=… python -m benchmarks.report [--models NAME …] [--target T] [--samples N] [--turns N] [--keep FOLDER]
    python -m benchmarks.report --picture docs/report.png

`opens`: from the start of the navigation until the graph is drawn, by the page's own clock; median of N openings in
fresh windows [least, largest]. `with/without`: wall time of `graphopt.optimize` with and without a report, in turns;
`adds` is the difference of the medians, in seconds. Most of it is what is measured for the page alone: errors of the
layers, and latencies in the engine.

`--picture`: the report of the bundled model, as README shows it.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import graphopt
from benchmarks._browser import chromium
from benchmarks._common import Table, script

COLUMNS = (("model", 27), ("nodes", 6), ("MB", 5), ("opens", 20), ("compile", 8), ("adds", 7), ("with/without", 13))
MODELS = ("mobilenetv1_025_imagenet_bn", "yolox_nano")
BUNDLED = Path(__file__).parent.parent / "calibration_data"
READY = "html[data-graph=ready]"


def opening_seconds(report: Path, turns: int) -> list[float]:
    """How long the report takes to open, sorted; the first opening, in which Chromium starts, isn't counted."""
    seconds: list[float] = []
    with chromium() as browser:
        for _ in range(turns + 1):
            page = browser.new_page(viewport={"width": 1400, "height": 1000})
            page.goto(report.as_uri())
            page.locator(READY).wait_for()
            seconds.append(float(page.evaluate("performance.getEntriesByName('graph-ready')[0].startTime")) / 1000)
            page.close()
    return sorted(seconds[1:])


def compile_seconds(model: Path, samples: Sequence[Any], target: str, report: Path, turns: int) -> list[list[float]]:
    """Wall times of compiling without and with a report, in turns."""
    found: list[list[float]] = [[], []]
    for _ in range(turns):
        for place, wanted in enumerate((None, report)):
            began = time.perf_counter()
            graphopt.optimize(model, target=target, calibration_data=samples, report=wanted)
            found[place].append(time.perf_counter() - began)
    return found


def draw_picture(path: Path) -> None:
    """The head of the bundled model's report, at a step that folds, as PNG with 256 colours."""
    with tempfile.TemporaryDirectory(prefix="graphopt-report-") as folder:
        report = Path(folder) / "report.html"
        data = os.path.relpath(BUNDLED / "calibration.npz")  # the page names it
        output = Path(folder) / "digits_int8.onnx"
        model = BUNDLED / "digits_cnn.onnx"
        graphopt.optimize(model, target="onnxruntime", calibration_data=data, output=output, report=report)
        with chromium() as browser:
            page = browser.new_page(viewport={"width": 1280, "height": 1400}, color_scheme="light")
            page.goto(report.as_uri())
            page.locator(READY).wait_for()
            step = page.get_by_label("Step", exact=True)
            step.select_option(label=step.locator("option", has_text="fold-batch-norm").inner_text())
            page.get_by_label("Details").get_by_role("heading", name="fold-batch-norm").wait_for()
            page.wait_for_timeout(500)  # Cytoscape draws in the next frames
            shot = page.screenshot()
    Image.open(io.BytesIO(shot)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="NAME")
    parser.add_argument("--target", default="onnxruntime")
    parser.add_argument("--samples", type=int, default=8, metavar="N")
    parser.add_argument("--turns", type=int, default=5, metavar="N")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the reports here")
    parser.add_argument("--picture", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    if options.picture is not None:
        draw_picture(options.picture)
        return
    table = Table(COLUMNS)
    table.head()
    for name in options.models:
        with tempfile.TemporaryDirectory(prefix="graphopt-report-") as folder:
            report = (options.keep or Path(folder)) / f"{name}.html"
            entry = script("zoo").model(name)
            samples = entry.calibration(options.samples)
            without, with_report = compile_seconds(entry.path, samples, options.target, report, options.turns)
            opens = opening_seconds(report, options.turns)
            size = report.stat().st_size
        nodes = str(len(graphopt.load(entry.path).nodes))
        plain, whole = float(np.median(without)), float(np.median(with_report))
        shown = f"{np.median(opens):.2f} [{opens[0]:.2f}, {opens[-1]:.2f}]"
        costs = [f"{plain:.2f}", f"{whole - plain:.2f}", f"{whole / plain:.2f}"]
        table.row([name, nodes, f"{size / 1e6:.2f}", shown, *costs])


if __name__ == "__main__":
    main()
