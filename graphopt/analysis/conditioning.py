"""Where 8-bit noise can grow: float operators that amplify it, and the quantized reads in front of them.

A relative error ε in x comes out of an operator f as ε · |x f′(x)| / spread(f): Log, Sqrt, Pow with an exponent below 1
and a denominator blow up the error of small values, which a linear grid has no steps for; a difference of nearly equal
tensors (E[x²] − E[x]²) keeps the errors and loses the values; Exp and Softmax turn absolute errors into relative ones.

A depthwise convolution can too: each of its channels comes from one channel alone, and where one grid serves channels
of very different range the small ones have no steps. So does a Mul by a constant per channel, as behind a
normalization. A dense layer mostly hears the large ones; those to look at all the same are given (`quantized_sums`).

`exposure` lists what must be looked at; `amplified` judges the signal-to-noise ratios that were found there.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from graphopt.ir import Constant, Graph, Node, Tensor
from graphopt.ir.linear import linear_view
from graphopt.ir.ops import LINEAR, is_random

AMPLIFIERS = frozenset(
    {
        *("Acos", "Acosh", "Asin", "Atanh", "Cos", "Div", "Exp", "Log", "LogSoftmax", "Mod", "Pow", "Reciprocal"),
        *("ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "Sin", "Softmax", "Sqrt", "Tan"),
        *("Add", "Sub", "Sum"),  # where values cancel
        *("GroupNormalization", "InstanceNormalization", "LayerNormalization", "LpNormalization"),
        *("MeanVarianceNormalization", "RMSNormalization"),
    }
)
"""Operators whose derivative is unbounded, or large against their result's range, and those in which values cancel."""

FLOAT32 = np.dtype(np.float32)

LOWEST_SNR_DB = 20.0
"""Less than this behind one 8-bit rounding is a collapse: a healthy tensor has 35 to 45 dB."""

LOWEST_DEPTHWISE_SNR_DB = 22.0
"""The same for a depthwise convolution, whose result has 25 dB or more where its channels share a grid well."""

LARGEST_AMPLIFICATION_DB = 12.0
"""Two bits. Below that the fault is with the tensor's own grid and not with what happens to it afterwards."""


@dataclass(frozen=True)
class Exposure:
    """Float operators that noise reaches, as far as they lie before an amplifier.

    Attributes:
        nodes: in graph order: amplifiers, and all between them and the quantized reads before them.
        reads: node → its inputs that are read quantized, by position.
        noisy: node → its inputs that carry noise of the nodes before it, by position.
        dense: those of them that are dense layers behind a sum whose grid is too coarse for most of its values.
    """

    nodes: tuple[Node, ...]
    reads: Mapping[Node, tuple[int, ...]]
    noisy: Mapping[Node, tuple[int, ...]]
    dense: frozenset[Node] = frozenset()

    def results(self) -> list[Tensor]:
        """Results of `nodes`: where the noise must be known, besides the planned tensors themselves."""
        return [t for node in self.nodes for t in node.present_outputs() if t.dtype == FLOAT32]


@dataclass(frozen=True)
class Amplified:
    """An operator behind which too little of the signal is left.

    Attributes:
        node: the operator.
        snr_db: of its result.
        source_db: of the quantized tensor, or of the linear operator's result, where the chain begins.
        chain: from there to `node`, in graph order.
        reads: (node, input position) of the quantized reads that the noise comes from.
        is_dense: it is one of `Exposure.dense`.
    """

    node: Node
    snr_db: float
    source_db: float
    chain: tuple[Node, ...]
    reads: tuple[tuple[Node, int], ...]
    is_dense: bool = False

    @property
    def amplification_db(self) -> float:
        """How much worse the result is than where the chain begins."""
        return self.source_db - self.snr_db

    def __str__(self) -> str:
        if self.is_dense:
            return (
                f"{self.node} reads a sum of tensors of so different range that most values have no steps on its grid: "
                f"{self.snr_db:.0f} dB are left behind it"
            )
        if self.node.op in LINEAR:
            return (
                f"channels that {self.node} reads one by one differ so much in range that the small ones have no steps "
                f"on their grid: {self.snr_db:.0f} dB are left behind it"
            )
        return (
            f"{' → '.join(n.op for n in self.chain)} ({self.node}) amplifies the error of an 8-bit step by "
            f"{self.amplification_db:.0f} dB: {self.source_db:.0f} dB before, {self.snr_db:.0f} dB behind"
        )


def exposure(graph: Graph, dense: Collection[Node] = ()) -> Exposure:
    """What lies between the quantized reads of `graph.plan` and amplifiers, in the main graph. Linear in its size.

    `dense` names dense layers to judge like the depthwise ones, which are judged anyway.
    """
    planned = {(edge.node, edge.index) for entry in graph.plan for edge in entry.edges}
    carries: set[Tensor] = set()
    reads: dict[Node, tuple[int, ...]] = {}
    noisy: dict[Node, tuple[int, ...]] = {}
    for node in graph.nodes:
        if any(True for _ in node.bodies()) or is_random(node, graph.opset):
            continue
        reads[node] = tuple(i for i, _ in node.present_inputs() if (node.name, i) in planned)
        noisy[node] = tuple(i for i, t in node.present_inputs() if i not in reads[node] and t in carries)
        if reads[node] or noisy[node]:
            carries.update(t for t in node.present_outputs() if t.dtype == FLOAT32)
    needed: set[Tensor] = set()
    nodes: list[Node] = []
    for node in reversed(list(reads)):
        exposed = bool(reads[node] or noisy[node])
        judged = _amplifies(node) or _is_depthwise(graph, node) or node in dense
        if exposed and (judged or any(t in needed for t in node.present_outputs())):
            nodes.append(node)
            needed.update(node.inputs[i] for i in noisy[node])
    kept = tuple(reversed(nodes))
    return Exposure(
        kept, {n: reads[n] for n in kept}, {n: noisy[n] for n in kept}, frozenset(n for n in kept if n in dense)
    )


def amplified(
    graph: Graph, exposed: Exposure, snr_db: Mapping[Tensor, float], grid_db: Mapping[Tensor, float]
) -> list[Amplified]:
    """The first operator of each chain behind which the signal is lost, in graph order.

    Args:
        graph: the graph.
        exposed: what was looked at.
        snr_db: of the results of `exposed.nodes`; NaN where it isn't known.
        grid_db: of what they read quantized, on its own grid.
    """
    source: dict[Tensor, float] = {}  # SNR at the beginning of the chain that a tensor ends
    blown: dict[Tensor, float] = {}  # dB lost in amplifiers alone since then
    lost: set[Tensor] = set()
    found: list[Amplified] = []
    for node in exposed.nodes:
        on_grid = [grid_db.get(node.inputs[i], math.inf) for i in exposed.reads[node]]
        before = [*on_grid, *(snr_db.get(node.inputs[i], math.nan) for i in exposed.noisy[node])]
        worst = min((v for v in before if not math.isnan(v)), default=math.inf)
        starts = [*on_grid, *(source[node.inputs[i]] for i in exposed.noisy[node])]
        since = max((blown[node.inputs[i]] for i in exposed.noisy[node]), default=0.0)
        is_lost = any(node.inputs[i] in lost for i in exposed.noisy[node])
        for result in node.present_outputs():
            after = snr_db.get(result, math.nan)
            if node.op in LINEAR:
                if (_is_depthwise(graph, node) and after < LOWEST_DEPTHWISE_SNR_DB) or (
                    node in exposed.dense and after < LOWEST_SNR_DB
                ):
                    found.append(_finding(exposed, node, after, worst))
                # What a sum of products does to its operands' noise is not judged here: it is where the chain begins.
                source[result], blown[result] = after if not math.isnan(after) else math.inf, 0.0
                continue
            begin = min((s for s in starts if not math.isnan(s)), default=math.inf)
            here = max(0.0, worst - after) if _amplifies(node) and not math.isnan(after) else 0.0
            source[result], blown[result] = begin, since + here
            if is_lost:
                lost.add(result)
            elif after < LOWEST_SNR_DB and min(begin - after, since + here) > LARGEST_AMPLIFICATION_DB:
                lost.add(result)
                found.append(_finding(exposed, node, after, begin))
    return found


def _amplifies(node: Node) -> bool:
    """Whether it is one of `AMPLIFIERS`, or scales the channels of a float tensor each by its own constant."""
    scales = node.is_op("Mul") and any(isinstance(t, Constant) and t.values.size > 1 for t in node.inputs)
    return scales or node.is_op(*AMPLIFIERS)


def _is_depthwise(graph: Graph, node: Node) -> bool:
    linear = linear_view(graph, node) if node.is_op("Conv", "ConvTranspose") else None
    return linear is not None and linear.is_depthwise


def _finding(exposed: Exposure, node: Node, snr_db: float, source_db: float) -> Amplified:
    chain: dict[Node, None] = {}
    reads: dict[tuple[Node, int], None] = {}
    producers: dict[Tensor, Node] = {t: n for n in exposed.nodes for t in n.present_outputs()}
    pending = [node]
    while pending:
        current = pending.pop()
        if current in chain:
            continue
        chain[current] = None
        reads.update(((current, i), None) for i in exposed.reads[current])
        pending += [producers[current.inputs[i]] for i in exposed.noisy[current]]
    ordered = tuple(n for n in exposed.nodes if n in chain)
    return Amplified(node, snr_db, source_db, ordered, tuple(reads), node in exposed.dense)
