"""Fold per-channel Mul, Div, Add, Sub and Neg by a constant into a linear operation before or after.

    y = Conv(x, W, b) · s + t              →   y = Conv(x, s·W, s·b + t)
    y = Conv(x · s + t, W, b)              →   y = Conv(x, W·s, b + W·t)
    y = Relu(Conv(x, W, b)) · s            →   y = Relu(Conv(x, s·W, s·b))               s > 0
    y = Gemm(Flatten(MaxPool(x · s)), W)   →   y = Gemm(Flatten(MaxPool(x)), W·s')       s' repeats s per position
    y = Conv((x − m) / s, W, pads=1)       →   y = Conv(x − m, W/s, pads=1)
    y = Conv(x · s + t, W, pads=1)         →   y = Conv(x + t/s, W·s, pads=1)            s the same for all channels

A constant is per-channel when it has one element, or varies along one axis only: [C, 1, 1], or [C] on the last axis.
A run of such operations is folded as one. The way to the linear operation may lead through what
`graphopt.analysis.channels.passage` lists: Relu, pools, Concat, Transpose, Reshape, a residual Add and more. What can't
be folded whole is folded in part where that drops an operation: the scale upstream; downstream the scales that end the
run, or one that is the same for all channels (others may blow up t/s, and channels of different ranges quantize badly).
A run of more than a Mul and an Add becomes these two.

Declines: a tensor on the way that is read elsewhere or is a graph output, a scale that isn't positive before Relu or
MaxPool, a shift before zero padding, a constant divided by the activation, unknown shapes, results that aren't finite;
the γ and β of a normalization and the ½ of a Gelu that the target runs as one operator with them, or that some target
does when none is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from graphopt.analysis.channels.affine import AFFINE_OPS, ChannelAffine, affine_op, composed
from graphopt.analysis.fused_scales import fused_patterns
from graphopt.analysis.scale_flow import Edit, absorb_downstream, absorb_upstream
from graphopt.ir import Graph, Node, Tensor, Variable
from graphopt.ir.linear import linear_producer, linear_result, sole_reader
from graphopt.ir.linear_edit import Declined
from graphopt.passes._affine_nodes import replace_with_affine
from graphopt.pipeline import Context, Pass
from graphopt.targets import TARGETS


@dataclass(frozen=True)
class FoldChannelScale(Pass):
    """Fold per-channel Mul, Div, Add and Sub by a constant into linear operations."""

    name: ClassVar[str] = "fold-channel-scale"
    summary: ClassVar[str] = "fold per-channel Mul, Div, Add, Sub by a constant into Conv, Gemm or MatMul"
    lossless: ClassVar[bool] = True

    def run(self, graph: Graph, ctx: Context) -> None:
        """Upstream in graph order, then downstream from the end, so that each fold meets folded neighbours."""
        for scope in graph.walk():
            left: list[tuple[_Run, str]] = []
            for run in _runs(scope, ctx):
                edits = absorb_upstream(scope, run.x, run.nodes[0], run.affine)
                if isinstance(edits, Declined):
                    left.append((run, edits.reason))
                else:
                    _replace(scope, run, edits, None, ctx)
            for run, reason in reversed(left):
                edits = absorb_downstream(scope, run.y, run.affine)
                if isinstance(edits, Declined):
                    _fold_in_part(scope, run, f"before it, {reason}; after it, {edits.reason}", ctx)
                else:
                    _replace(scope, run, edits, None, ctx)


@dataclass(frozen=True)
class _Run:
    """Consecutive operations, each read only by the next; `steps` is what each computes, `affine` all together."""

    nodes: tuple[Node, ...]
    x: Tensor
    steps: tuple[ChannelAffine, ...]
    affine: ChannelAffine

    @property
    def y(self) -> Variable:
        return self.nodes[-1].outputs[0]

    def split(self, at: int) -> tuple[_Run, _Run]:
        """The first `at` operations, and the rest."""
        head, tail = self.steps[:at], self.steps[at:]
        middle = self.nodes[at - 1].outputs[0]
        return (
            _Run(self.nodes[:at], self.x, head, composed(head)),
            _Run(self.nodes[at:], middle, tail, composed(tail)),
        )

    def __str__(self) -> str:
        return " and ".join(str(n) for n in self.nodes)


def _runs(graph: Graph, ctx: Context) -> Iterator[_Run]:
    """Maximal runs, each looked for when the one before it is done with."""
    taken: set[Node] = set()
    for node in graph.live_nodes():
        if node in taken or not node.is_op(*AFFINE_OPS) or _is_bias(graph, node):
            continue
        if fused := _fused(graph, node, ctx):
            ctx.remarks.declined(node, f"{fused} with it, which would be many without")
            continue
        found = affine_op(node)
        if isinstance(found, Declined):
            ctx.remarks.declined(node, found.reason)
        if found is None or isinstance(found, Declined):
            continue
        index, affine = found
        run = _Run((node,), node.inputs[index], (affine,), affine)
        while (longer := _extended(graph, run, ctx)) is not None:
            run = longer
        taken.update(run.nodes)
        yield run


def _extended(graph: Graph, run: _Run, ctx: Context) -> _Run | None:
    """The run with the operation that continues it."""
    node = sole_reader(graph, run.y)
    if node is not None and _fused(graph, node, ctx):
        return None
    found = None if node is None or node.scope is not run.nodes[0].scope else affine_op(node)
    if node is None or found is None or isinstance(found, Declined):
        return None
    both = run.affine.then(found[1])
    if both is None or not both.is_finite:
        return None
    return _Run((*run.nodes, node), run.x, (*run.steps, found[1]), both)


def _fused(graph: Graph, node: Node, ctx: Context) -> str | None:
    """What engine runs which pattern as one operator together with `node`, or None."""
    patterns = fused_patterns(graph, node)
    targets = TARGETS.values() if ctx.target is None else (ctx.target,)
    found = [(t.title, p) for t in targets for p in sorted(patterns & t.fused_patterns)]
    return f"{found[0][0]} runs a {found[0][1]} as one operator" if found else None


def _is_bias(graph: Graph, node: Node) -> bool:
    """The Add that holds a MatMul's bias is where it belongs already."""
    linear = linear_producer(graph, node.outputs[0]) if node.is_op("Add") else None
    return linear is not None and linear_result(graph, linear) is node.outputs[0]


def _fold_in_part(graph: Graph, run: _Run, reason: str, ctx: Context) -> None:
    """The scale alone, leaving an Add; else a long run becomes Mul + Add."""
    affine = run.affine
    scales = next(i for i, step in enumerate((*reversed(run.steps), None)) if step is None or step.has_shift)
    if 0 < scales < len(run.nodes):
        head, tail = run.split(len(run.nodes) - scales)
        edits = absorb_downstream(graph, tail.y, tail.affine)
        if not isinstance(edits, Declined):
            _replace(graph, tail, edits, None, ctx)
            _fold_in_part(graph, head, reason, ctx)
            return
    if affine.has_scale and affine.has_shift:
        edits = absorb_upstream(graph, run.x, run.nodes[0], affine.only_scale())
        if not isinstance(edits, Declined):
            _replace(graph, run, edits, affine.only_shift(), ctx)
            return
        unscaled = affine.shift_before_scale() if affine.axis is None else None
        edits = absorb_downstream(graph, run.y, affine.only_scale())
        if unscaled is not None and not isinstance(edits, Declined):
            _replace(graph, run, edits, unscaled, ctx)
            return
    if len(run.nodes) > affine.has_scale + affine.has_shift:
        _replace(graph, run, [], affine, ctx)
        return
    for node in run.nodes:
        ctx.remarks.declined(node, reason)


def _replace(graph: Graph, run: _Run, edits: list[Edit], rest: ChannelAffine | None, ctx: Context) -> None:
    """Put `rest` (None: nothing) in the run's place and apply the edits; no change where the place can't be taken."""
    y = run.y
    if rest is not None:
        declined = replace_with_affine(graph, run.x, y, rest)
    else:
        replaced = graph.replace_uses(y, run.x)
        declined = None if replaced else Declined(f"nothing can take the place of '{y.name}', a graph output")
    if declined is not None:
        ctx.remarks.declined(run.nodes[-1], declined.reason)
        return
    for edit in edits:
        edit.apply(graph)
    into = ", ".join(dict.fromkeys(str(edit.node) for edit in edits))
    for node in run.nodes:
        ctx.remarks.applied(node, f"folded into {into}" if into else f"joined: {run}")
    graph.remove_unused([run.nodes[-1]])
