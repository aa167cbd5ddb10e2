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
from graphopt.backends.onnxruntime import LINEAR_KERNELS
from graphopt.calibration.session import open_session, run_session
from graphopt.errors import CalibrationError
from graphopt.ir.ops import LINEAR

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
    nodes = _named_nodes(model.graph, optimized)
    return [
        KernelTime(
            node.name,
            node.op_type,
            nodes[node.output[0]],
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


def _named_nodes(graph: GraphProto, optimized: GraphProto) -> dict[str, tuple[str, ...]]:
    """First result of a kernel → the nodes of the model that it came from, as far as names tell.

    A convolution in blocks of channels has the name of what it was fused with: the linear node in front is put first.
    """
    names = _Names(graph)
    found = {kernel.output[0]: names.of(kernel) for kernel in optimized.node}
    named = {name for own in found.values() for name in own}
    for kernel in optimized.node:
        own = found[kernel.output[0]]
        if kernel.op_type in LINEAR_KERNELS and own and not any(names.nodes[n].op_type in LINEAR for n in own):
            linear = names.linear_before(own[0], named)
            found[kernel.output[0]] = own if linear is None else (linear, *own)
    return found


class _Names:
    """The nodes of a model by what onnxruntime's names say."""

    def __init__(self, graph: GraphProto) -> None:
        self.nodes = {node.name: node for node in graph.node}
        self.makers = {tensor: node.name for node in graph.node for tensor in node.output if tensor}

    def of(self, kernel: NodeProto) -> tuple[str, ...]:
        """The node that a kernel is named after, and those whose results it makes; none for a change of layout."""
        names = (self.find(kernel.name, layout=kernel.op_type in _LAYOUTS), *map(self.makers.get, kernel.output))
        if kernel.op_type in ("ReorderInput", "ReorderOutput") or (kernel.op_type in _LAYOUTS and names[0] is None):
            return ()
        return tuple(dict.fromkeys(name for name in names if name is not None))

    def linear_before(self, name: str, named: set[str]) -> str | None:
        """The linear node that feeds a node through others that have no kernel of their own."""
        pending = [name]
        while pending:
            makers = [self.makers[tensor] for tensor in self.nodes[pending.pop()].input if tensor in self.makers]
            for maker in makers:
                if maker not in named and self.nodes[maker].op_type in LINEAR:
                    return maker
            pending.extend(maker for maker in makers if maker not in named)
        return None

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
