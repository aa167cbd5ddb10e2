"""When a pass goes wrong, leave behind what is needed to see it again.

    graphopt-reproducer-x1y2z3/
        before.onnx         the model before the failing pass
        pipeline.toml       the failing pass, and what of the run it needs
        calibration.npz     a few samples, when the run had any
        ranges.json         the saved ranges, when the run had any
        target.toml         the target, when it is none of graphopt's own
        error.txt           the message and the traceback

    graphopt optimize before.onnx -o after.onnx --config pipeline.toml

A plan is no part of an ONNX file. So when a pass fails while there is one, before.onnx is the model before the plan
was begun, and pipeline.toml begins there.
"""

from __future__ import annotations

import itertools
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from graphopt.calibration import Dataset, model_hash, save_ranges
from graphopt.calibration.npz import save_feeds
from graphopt.errors import GraphoptError
from graphopt.ir import Graph, to_proto
from graphopt.ir.write import save
from graphopt.pipeline.instrument import Failure, Instrument
from graphopt.pipeline.instruments.snapshot import Snapshot
from graphopt.pipeline.passes import Context, Pass
from graphopt.pipeline.toml import Pipeline, Settings, pipeline_to_toml
from graphopt.quant import Range
from graphopt.targets.toml import save_target

_SAMPLES = 8  # enough for a calibration that resembles the real one; files stay small


class Reproducer(Instrument):
    """Writes a reproducer when anything but a GraphoptError is raised, and puts its folder into the error.

    `parent` is the folder that `graphopt-reproducer-*` is made in; None means the system's folder for temporary files.
    """

    def __init__(self, parent: Path | None = None) -> None:
        self.parent = parent
        self._passes: tuple[Pass, ...] = ()
        self._snapshot: Snapshot | None = None
        self._revision = -1
        self._first = 1  # index of the first pass after the snapshot

    def start(self, passes: Sequence[Pass], graph: Graph, ctx: Context) -> None:
        """Forget the last run."""
        self._passes = tuple(passes)
        self._snapshot = None

    def before_pass(self, pass_: Pass, index: int, graph: Graph, ctx: Context) -> None:
        """Take a snapshot, unless a plan is being made or the last one is still right."""
        if self._snapshot is not None and graph.plan:
            return
        if self._snapshot is None or graph.revision != self._revision:
            self._snapshot = Snapshot(graph)
            self._revision = graph.revision
        self._first = index

    def on_failure(self, pass_: Pass, index: int, graph: Graph, ctx: Context, error: Failure) -> None:
        """Write the folder, and name it in the error."""
        if isinstance(error, GraphoptError) or self._snapshot is None:
            return
        if self.parent is not None:
            self.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="graphopt-reproducer-", dir=self.parent))
        error.reproducer = str(folder)
        (folder / "error.txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        before = self._snapshot.restore()
        settings = Settings(
            target=None if ctx.target is None else save_target(ctx.target, folder),
            calibration_data=None if ctx.calibration is None else _save_samples(ctx.calibration, folder),
            ranges=None if ctx.ranges is None else _save_ranges(ctx.ranges, before, folder),
        )
        pipeline = Pipeline(self._passes[self._first - 1 : index], settings)
        (folder / "pipeline.toml").write_text(pipeline_to_toml(pipeline), encoding="utf-8")
        save(before, folder / "before.onnx")


def _save_samples(dataset: Dataset, folder: Path) -> str:
    """Save the first samples; returns the file's name."""
    save_feeds(list(itertools.islice(dataset, _SAMPLES)), folder / "calibration.npz")
    return "calibration.npz"


def _save_ranges(ranges: Mapping[str, Range], before: Graph, folder: Path) -> str:
    """Save the ranges as those of the model before the failing pass; returns the file's name."""
    found_in = model_hash(to_proto(before))
    save_ranges(folder / "ranges.json", ranges, model_hash=found_in, data_hash="", method="saved")
    return "ranges.json"
