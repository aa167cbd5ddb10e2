"""Which nodes can't compute in float16 or bfloat16, as samples show: what `convert-float` and sensitivity both ask."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

import numpy as np

from graphopt.analysis.narrowing import activations, narrowed, value_misfit
from graphopt.calibration.collector import collect
from graphopt.calibration.dataset import Dataset
from graphopt.calibration.statistics import MinMax
from graphopt.calibration.weights import detached
from graphopt.ir import Graph, Node
from graphopt.ir.float_parameters import FloatParameters


def misfits(
    graph: Graph,
    nodes: Mapping[Node, FloatParameters] | Collection[Node],
    dtype: np.dtype[Any],
    samples: Dataset | None,
    *,
    threads: int | None = None,
) -> dict[Node, str]:
    """The nodes that can't have the type, each with the reason, as a clause.

    Args:
        graph: types filled in; its values are those of the float model.
        nodes: of the main graph; with what of each would have the type where that is known already.
        dtype: float16 or bfloat16.
        samples: what activations are judged by; without any only operators and constants are.
        threads: for onnxruntime; None takes the cores.

    Raises:
        CalibrationError: a sample fails, or a tensor holds NaN or infinity.
    """
    found: dict[Node, str] = {}
    fitting: dict[Node, FloatParameters] = {}
    known: Mapping[Node, FloatParameters] = {}
    if isinstance(nodes, Mapping):
        known = cast("Mapping[Node, FloatParameters]", nodes)
    for node in nodes:
        parameters = known.get(node) or narrowed(graph, node, dtype)
        if isinstance(parameters, str):
            found[node] = parameters
        else:
            fitting[node] = parameters
    read = {t.name: t for node, parameters in fitting.items() for t in activations(node, parameters)}
    if samples is None or not read:
        return found
    seen = collect(detached(graph), list(read), samples, kind="minmax", threads=threads)
    largest = {name: _largest(statistic) for name, statistic in seen.items()}
    for node, parameters in fitting.items():
        reason = value_misfit(node, parameters, largest, dtype)
        if reason is not None:
            found[node] = reason
    return found


def _largest(found: object) -> float:
    return max(-found.low, found.high) if isinstance(found, MinMax) and not found.is_empty else 0.0
