"""Pruning one model many times over: a criterion ranks its units once, and each budget is a choice, a cut and a repair.

What the pass `eliminate-channels` does, from the same parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

import graphopt
from benchmarks._common import Feeds, first_outputs, script
from graphopt.analysis.coupling.find import couple
from graphopt.analysis.coupling.groups import Kept
from graphopt.analysis.pruning.kept_counts import kept_counts
from graphopt.ir import Graph, fill_types, from_proto, to_proto
from graphopt.passes._channel_removal import remove_channels
from graphopt.passes._elimination_sizes import Sizing
from graphopt.passes._refit import refit_layers
from graphopt.passes._simulation import affordable_samples
from graphopt.passes.eliminate_channels import EliminateChannels
from graphopt.pipeline import Context
from graphopt.pipeline.passes import Resources
from graphopt.report.samples import open_samples

# Folded, a BatchNormalization has no scale left for importance=bn-scale to go by.
_FOLDS = ("fold-batch-norm", "fold-channel-scale")


@dataclass(frozen=True)
class Judged:
    """A classifier with samples that it is judged on.

    Attributes:
        model: what the preset float leaves.
        unfolded: the same, its BatchNormalizations still there.
        calibration: samples to prune by.
        feeds, labels: samples to judge by.
        right: for each of them, whether `model` is right.
    """

    model: onnx.ModelProto
    unfolded: onnx.ModelProto
    calibration: Feeds
    feeds: Feeds
    labels: Sequence[int]
    right: tuple[bool, ...]

    @staticmethod
    def of(name: str, samples: int, validation: int) -> Judged:
        """A labelled model of the zoo."""
        entry = script("zoo").model(name)
        model, unfolded = (graphopt.optimize(entry.path, preset="float", skip=skip).model for skip in ((), _FOLDS))
        feeds, labels = entry.validation(validation)
        right = _right(model, feeds, labels)
        return Judged(model, unfolded, entry.calibration(samples), feeds, labels, right)

    def drop(self, model: onnx.ModelProto) -> tuple[float, float]:
        """Points of top-1 that a model made from this one is behind, and the standard error of that."""
        now = _right(model, self.feeds, self.labels)
        changed = np.subtract(self.right, now, dtype=float)
        return 100 * float(changed.mean()), 100 * float(changed.std()) / len(changed) ** 0.5


class Pruner:
    """A model to be pruned by one criterion.

    Attributes:
        whole: MACs of the model.
    """

    def __init__(self, judged: Judged, options: EliminateChannels, memory: int) -> None:
        """Find out what can be removed.

        Args:
            judged: the model.
            options: everything but the budget counts.
            memory: bytes that the samples' tensors may take at a time.
        """
        self.options = options
        self.model = judged.unfolded if options.importance == "bn-scale" else judged.model
        self.graph = _filled(self.model)
        dataset = open_samples(judged.calibration, self.graph, "calibration data")
        self.ctx = Context(calibration=dataset, resources=Resources(memory_budget=memory))
        self.feeds = affordable_samples(dataset, self.model, self.ctx, copies=2)
        coupling = couple(self.graph)
        counts = kept_counts(coupling, align=options.align, min_channels=options.min_channels)
        self._sizing = Sizing(self.graph, coupling, counts, self.feeds, self.ctx)
        self.whole = self._sizing.cost({}).macs
        self._kept: dict[float, Mapping[str, Kept]] = {}

    def keep(self, macs: float) -> Mapping[str, Kept]:
        """Which units stay within a part of the MACs.

        Raises:
            ConfigError: the budget can't be met, or the criterion doesn't fit the model.
        """
        if macs not in self._kept:
            self._kept[macs] = self._sizing.choose(replace(self.options, macs=macs))
        return self._kept[macs]

    def share(self, macs: float) -> float:
        """The part of the MACs that is really left."""
        return self._sizing.cost({name: int(stays.sum()) for name, stays in self.keep(macs).items()}).macs / self.whole

    def pruned(self, macs: float, *, repair: bool) -> onnx.ModelProto:
        """The model within a part of its MACs."""
        graph = _filled(self.model)
        coupling = couple(graph)
        kept = coupling.kept(self.keep(macs))
        remove_channels(graph, coupling, self.keep(macs))
        if repair:
            refit_layers(graph, self.ctx, self.model, kept, self.feeds)
        return to_proto(graph)


def _filled(model: onnx.ModelProto) -> Graph:
    graph = from_proto(model)
    graph.sort()
    fill_types(graph)
    return graph


def _right(model: onnx.ModelProto, feeds: Feeds, labels: Sequence[int]) -> tuple[bool, ...]:
    outputs = first_outputs("onnxruntime", model, feeds)
    return tuple(int(np.argmax(output)) == int(label) for output, label in zip(outputs, labels, strict=True))
