"""How much of a tensor's relative error reaches the outputs: a first-order estimate from signal powers alone.

    y = Conv(x), Relu(x), a · x …       relative noise power of y = that of x
    y = a + b, Concat(a, b)             relative noise power of y = Σ that of each operand · its power / power of y

So a branch that adds little to a residual sum matters little, and the difference of two nearly equal tensors amplifies
what both have lost. Where a tensor has several readers their contributions add up (the shares of the two ways through a
residual block make 1), but not beyond what the largest of their results has: a gate that reads its own operand
(x · Sigmoid(FC(mean x))) doesn't double the error. One run of the float model gives all powers, where measuring a
layer's effect on the output takes a run for each layer.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from graphopt.ir import FLOAT_TYPES, Constant, Graph, Node, Tensor, Variable

JOINS = frozenset({"Add", "Concat", "Sub", "Sum"})


def joined(graph: Graph) -> list[str]:
    """The tensors whose power `gains` needs: operands and results of sums and Concats of the main graph."""
    nodes = [n for n in graph.nodes if n.is_op(*JOINS) and n.outputs[0].dtype in FLOAT_TYPES]
    return list(dict.fromkeys(name for n in nodes for name in (*operands(n), n.outputs[0].name)))


def gains(graph: Graph, powers: Mapping[str, float], *, outputs: Collection[Tensor] | None = None) -> dict[str, float]:
    """For each tensor of the main graph, relative noise power at the outputs over its own.

    Args:
        graph: the float model, sorted.
        powers: sum of squares of each tensor that `joined` names, over the same samples.
        outputs: those to look at; None: all of them, where the one that hears most counts.
    """
    heard = graph.outputs if outputs is None else outputs
    readers: dict[str, list[_Reader]] = {t.name: [_Reader(1.0, 1.0)] for t in heard}
    for node in reversed(graph.nodes):
        gain = max((_total(readers.get(t.name, [])) for t in node.present_outputs()), default=0.0)
        for name in operands(node):
            readers.setdefault(name, []).append(_Reader(gain, share(node, name, powers)))
        for tensor in graph.captured(node):
            readers.setdefault(tensor.name, []).append(_Reader(gain, 1.0))
    return {name: _total(found) for name, found in readers.items()}


def mean_gains(graph: Graph, powers: Mapping[str, float]) -> dict[str, float]:
    """The same for the mean over `float_ends`; a tensor that reaches none has 0."""
    found = [gains(graph, powers, outputs=[tensor]) for tensor in float_ends(graph)]
    names = dict.fromkeys(name for each in found for name in each)
    return {name: sum(each.get(name, 0.0) for each in found) / len(found) for name in names}


def float_ends(graph: Graph) -> list[Variable]:
    """The floating point outputs; of a model that has none, the floats nearest in front of its outputs."""
    found: dict[Variable, None] = {}
    todo: list[Tensor] = list(graph.outputs)
    seen: set[Tensor] = set()
    while todo:
        tensor = todo.pop(0)
        if tensor in seen or not isinstance(tensor, Variable):
            continue
        seen.add(tensor)
        if tensor.dtype is not None and tensor.dtype.kind == "f":
            found[tensor] = None
            continue
        node = graph.producer(tensor)
        if node is not None and not any(t.dtype is not None and t.dtype.kind == "f" for t in graph.outputs):
            todo += [t for _, t in node.present_inputs()]
    return list(found)


@dataclass(frozen=True)
class _Reader:
    """The gain of what a reader makes of a tensor, and what a relative noise power of the tensor is in that."""

    gain: float
    share: float


def operands(node: Node) -> list[str]:
    """Names of the floating point activations that a node reads."""
    present = [t for _, t in node.present_inputs()]
    return [t.name for t in present if not isinstance(t, Constant) and t.dtype in FLOAT_TYPES]


def share(node: Node, name: str, powers: Mapping[str, float]) -> float:
    """What a relative noise power of one operand is in the result."""
    if not node.is_op(*JOINS):
        return 1.0
    part, whole = powers.get(name, math.nan), powers.get(node.outputs[0].name, math.nan)
    found = part / whole if whole > 0 else 1.0
    return found if math.isfinite(found) else 1.0


def _total(readers: list[_Reader]) -> float:
    parts = [reader.gain * reader.share for reader in readers]
    return min(sum(parts), max([*parts, *(reader.gain for reader in readers)], default=0.0))
