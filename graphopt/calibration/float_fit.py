"""Which nodes can't compute in float16 or bfloat16, as samples show: what `convert-float` and sensitivity both ask."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

import ml_dtypes
import numpy as np

from graphopt.analysis.precision.float_sums import summed
from graphopt.analysis.precision.narrowing import activations, narrowed, value_misfit
from graphopt.analysis.precision.small_operands import Smallness, small_operand, smallness_misfit
from graphopt.calibration.collector import collect
from graphopt.calibration.dataset import Dataset
from graphopt.calibration.float_probes import Probes
from graphopt.calibration.statistics import MinMax
from graphopt.calibration.weights import detached
from graphopt.errors import CalibrationError
from graphopt.ir import Graph, Node
from graphopt.ir.float_parameters import FloatParameters

# The opset that brought IsInf.
_IS_INF = 10


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
    largest = _largest_of(graph, list(read), samples, threads)
    for node, parameters in fitting.items():
        reason = value_misfit(node, parameters, largest, dtype)
        if reason is not None:
            found[node] = reason
    left = {node: parameters for node, parameters in fitting.items() if node not in found}
    return found | _probed(graph, left, largest, dtype, samples, threads)


def _largest_of(graph: Graph, tensors: list[str], samples: Dataset, threads: int | None) -> dict[str, float]:
    """The largest magnitude of each tensor; infinite values, which all these types have, don't count."""
    try:
        seen = collect(detached(graph), tensors, samples, kind="minmax", threads=threads)
    except CalibrationError as error:
        # A mask of −∞, most likely: then it is all that isn't finite.
        if graph.opset < _IS_INF:
            raise
        probes = Probes(detached(graph), graph.fresh_name("probe"))
        finite = {name: probes.finite(name) for name in tensors}
        try:
            found = collect(probes.model, list(finite.values()), samples, kind="minmax", threads=threads)
        except CalibrationError:
            raise error from None
        seen = {name: found[probe] for name, probe in finite.items()}
    return {name: _largest(statistic) for name, statistic in seen.items()}


def _probed(
    graph: Graph,
    nodes: Mapping[Node, FloatParameters],
    largest: Mapping[str, float],
    dtype: np.dtype[Any],
    samples: Dataset,
    threads: int | None,
) -> dict[Node, str]:
    """The nodes whose sums may overflow, or whose small values get lost: what takes another walk over the samples.

    Only sums that might are looked at.
    """
    limits = cast("Any", ml_dtypes.finfo(dtype))
    most = float(limits.max)
    sums = {node: s for node in nodes if (s := summed(graph, node, largest)) is not None and s.bound > most}
    found = {node: f"{s.text}, which may pass {most:.3g} on the way" for node, s in sums.items() if not s.measurable}
    probes = Probes(detached(graph), graph.fresh_name("probe"))
    totals = {node: probes.sums(node) for node, s in sums.items() if s.measurable}
    small = {
        node: probes.smallness(node.inputs[index].name, float(limits.smallest_normal))
        for node, parameters in nodes.items()
        if (index := small_operand(node)) is not None
        and index in parameters.inputs
        and node.inputs[index].name in largest
    }
    wanted = [*totals.values(), *(name for pair in small.values() for name in pair)]
    if not wanted:
        return found
    seen = collect(probes.model, wanted, samples, kind="minmax", threads=threads)
    for node, name in totals.items():
        total = sums[node].factor * _largest(seen[name])
        if total > most:
            found[node] = (
                f"{sums[node].text}, whose magnitudes come to {total:.3g}: a sum in {dtype} ends at {most:.3g}"
            )
    for node, (least, share) in small.items():
        if not seen[least].is_empty:
            reason = smallness_misfit(node, Smallness(seen[least].low, _largest(seen[share])), dtype)
            if reason is not None:
                found.setdefault(node, reason)
    return found


def _largest(found: object) -> float:
    return max(-found.low, found.high) if isinstance(found, MinMax) and not found.is_empty else 0.0
