"""Weights in blocks of 4 bits: whether the target's engine has a kernel for them in the form that they have."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graphopt.analysis.legality.grid import constant_value
from graphopt.analysis.legality.scene import Found, Scene
from graphopt.ir import Graph, Node
from graphopt.ir.block_weights import INT4_WEIGHTS, is_block_weight
from graphopt.ir.conditions import unmet
from graphopt.targets.spec import BlockRule

# What decides whether blocks are worth it, and which: here they are given.
_OF_PLANNING = frozenset({"even-blocks", "many-inputs"})


def check_blocks(scene: Scene) -> Iterator[Found]:
    """Each block-wise DequantizeLinear of a stored 4-bit weight, in nested graphs too."""
    rule, wanted = scene.target.block_weights, scene.target.precisions.get(INT4_WEIGHTS)
    for scope in scene.graph.walk():
        for node in scope.nodes:
            if not is_block_weight(node):
                continue
            readers = tuple(scope.consumers(node.outputs[0]))
            scale = constant_value(node.input(1))
            if scale is None:
                yield Found("scale-constant", node, f"'{node.inputs[1].name}' isn't a constant", affects=readers)
            elif not (np.isfinite(scale) & (scale != 0)).all():
                yield Found("scale-value", node, f"'{node.inputs[1].name}' has zeros or isn't finite", affects=readers)
            if rule is None or wanted is None:
                text = f"4-bit weights in blocks of {node.attr('block_size')}"
                yield Found("block-scale", node, text, node.inputs[0].name, readers)
                continue
            for text in dict.fromkeys(_problems(scene, scope, node, readers, rule, wanted.conditions)):
                yield Found("block-form", node, text, node.inputs[0].name, readers)


def _problems(
    scene: Scene, scope: Graph, node: Node, readers: tuple[Node, ...], rule: BlockRule, conditions: tuple[str, ...]
) -> Iterator[str]:
    stored = node.inputs[0]
    if not rule.shared and (len(readers) > 1 or len(stored.outputs) > 1):
        yield f"'{stored.name}' is read by {max(len(readers), len(stored.outputs))} nodes"
    zero_point = constant_value(node.input(2))
    if not rule.zero_points and (str(stored.dtype) == "uint4" or (zero_point is not None and zero_point.any())):
        yield f"'{stored.name}' is {stored.dtype} with zero points"
    scale = constant_value(node.input(1))
    if not rule.signed and scale is not None and (scale < 0).any():
        yield f"'{node.inputs[1].name}' has negative scales"
    size, axis = int(node.attr("block_size", 0)), int(node.attr("axis", 1))
    inputs = stored.shape[axis] if stored.shape is not None and -len(stored.shape) <= axis < len(stored.shape) else None
    if rule.sizes and size not in rule.sizes:
        yield f"blocks of {size}; it takes {', '.join(map(str, rule.sizes))}"
    if not rule.sizes and isinstance(inputs, int) and inputs % size:
        yield f"blocks of {size} don't divide {inputs} inputs"
    # The conditions are asked of the float model, where the weight is a constant.
    inner = {n.name: n for n in scene.inner.nodes}
    for reader, turned in _behind_transposes(scope, readers):
        alone, transposed = inner.get(reader.name), reader.op == "Gemm" and bool(reader.attr("transB", 0))
        if not reader.is_op("Gemm", "MatMul") or alone is None:
            yield f"{reader} reads it"
        elif (reason := unmet(scene.inner, alone, tuple(c for c in conditions if c not in _OF_PLANNING))) is not None:
            yield f"{reader}: {reason}"
        elif not rule.transposed and (turned or transposed):
            yield f"it is turned over for {reader}"
        elif axis % 2 != turned ^ transposed:
            yield f"blocks along axis {axis}, which {reader} doesn't sum over"


def _behind_transposes(graph: Graph, readers: tuple[Node, ...]) -> Iterator[tuple[Node, bool]]:
    """Who reads the weight, and whether it has been turned over by then."""
    for reader in readers:
        if reader.is_op("Transpose") and list(reader.attr("perm") or (1, 0)) == [1, 0]:
            yield from (
                (behind, not turned)
                for behind, turned in _behind_transposes(graph, tuple(graph.consumers(reader.outputs[0])))
            )
        else:
            yield reader, False
