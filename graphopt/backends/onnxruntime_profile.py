"""The time of each kernel that onnxruntime runs, from its own profile.

The profile (a JSON of events, in whole microseconds) names kernels as the rewritten graph does, which is saved beside
it. Rewritten nodes keep names that lead back to the model (measured with 1.31):

    Conv_3_token_7                         QLinearConv and others between Q/DQ, and what layouts renamed: Conv_3
    t5_nchwc                               a Conv, with what it was fused with, in blocks of channels: makes tensor t5
    Mul_4/QuickGeluFusion/                 a fusion, named after its last node
    ReorderOutput_token_9, Transpose       changes of layout: no node of the model

A kernel with a nested graph (If, Loop) takes the time of what runs inside.
"""

from __future__ import annotations

import itertools
import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto

from graphopt.backends.kernel_times import FEWEST_RUNS, MOST_RUNS, WARM_UP, KernelTime, undisturbed
from graphopt.calibration.session import open_session, run_session
from graphopt.errors import CalibrationError

_SUFFIX = re.compile(r"(_token_\d+|_nchwc|/duplicated|/\w*Fusion\w*/?)$")
_KERNEL = "_kernel_time"
# Layouts: names such as Transpose_token_3 must not be taken for a node called Transpose.
_LAYOUTS = frozenset({"ReorderInput", "ReorderOutput", "Transpose"})


def profile(
    model: ModelProto, feeds: Sequence[Mapping[str, NDArray[Any]]], *, threads: int | None = None, seconds: float = 1.0
) -> list[KernelTime]:
    """Time every kernel of the main graph, in the order in which they depend on each other.

    Args:
        model: with its weights inside.
        feeds: samples, run over and over.
        threads: of onnxruntime; None lets it take the cores.
        seconds: to spend, about; a few runs are always made.

    Raises:
        UnsupportedError: onnxruntime can't load the model.
        CalibrationError: there is no sample, or one can't be run.
    """
    if not feeds:
        raise CalibrationError("timing kernels needs at least one sample")
    with tempfile.TemporaryDirectory(prefix="graphopt-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "optimized.onnx"
        session = open_session(model, threads=threads, optimized_path=path, profile=Path(folder) / "profile")
        for feed in itertools.islice(itertools.cycle(feeds), WARM_UP):
            run_session(session, feed, "profiling")
        end = time.perf_counter() + seconds
        for run, feed in enumerate(itertools.islice(itertools.cycle(feeds), MOST_RUNS)):
            if run >= FEWEST_RUNS and time.perf_counter() > end:
                break
            run_session(session, feed, "profiling")
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
        optimized = ModelProto.FromString(path.read_bytes()).graph
    times = _by_kernel(events, {node.name for node in optimized.node})
    # Kernels without a name share one in the profile; none was seen, but the time isn't lost then.
    shared = Counter(node.name for node in optimized.node)
    names = _Names(model.graph)
    return [
        KernelTime(
            node.name,
            node.op_type,
            names.of(node),
            tuple(dict.fromkeys(filter(None, (*node.input, *_captured(node))))),
            tuple(filter(None, node.output)),
            undisturbed(times.get(node.name, ())) / shared[node.name],
        )
        for node in optimized.node
    ]


def _by_kernel(events: Iterable[Mapping[str, Any]], kernels: set[str]) -> dict[str, list[float]]:
    """Seconds of each kernel in each run behind the warming up."""
    runs = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e["name"] == "model_run")[WARM_UP:]
    nodes = sorted(
        (e["ts"], e["name"].removesuffix(_KERNEL), e["dur"])
        for e in events
        if e["cat"] == "Node" and e["name"].endswith(_KERNEL) and e["name"].removesuffix(_KERNEL) in kernels
    )
    found: dict[str, list[float]] = {}
    position = 0
    for start, end in runs:
        own: dict[str, float] = {}
        while position < len(nodes) and nodes[position][0] < end:
            at, name, taken = nodes[position]
            position += 1
            if at >= start:
                own[name] = own.get(name, 0.0) + taken * 1e-6
        for name, taken in own.items():
            found.setdefault(name, []).append(taken)
    return found


class _Names:
    """The nodes of a model by what onnxruntime's names say."""

    def __init__(self, graph: GraphProto) -> None:
        self.nodes = {node.name for node in graph.node}
        self.makers = {tensor: node.name for node in graph.node for tensor in node.output if tensor}

    def of(self, kernel: NodeProto) -> tuple[str, ...]:
        """The node that a kernel is named after, and those whose results it makes; none for a change of layout."""
        names = (self.find(kernel.name, layout=kernel.op_type in _LAYOUTS), *map(self.makers.get, kernel.output))
        if kernel.op_type in ("ReorderInput", "ReorderOutput") or (kernel.op_type in _LAYOUTS and names[0] is None):
            return ()
        return tuple(dict.fromkeys(name for name in names if name is not None))

    def find(self, name: str, *, layout: bool) -> str | None:
        """The node, by its own name or that of what it makes, once what rewrites append is gone."""
        while True:
            if name in self.nodes:
                return name
            if name in self.makers:
                return self.makers[name]
            shorter = _SUFFIX.sub("", name)
            if layout or shorter == name:
                return None
            name = shorter


def _captured(node: NodeProto) -> Iterator[str]:
    """What the bodies of a node read; inner tensors are among them, and do no harm."""
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            for inner in body.node:
                yield from inner.input
                yield from _captured(inner)
