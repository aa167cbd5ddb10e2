"""One scale for tensors of very different range: a detection head that joins boxes and scores."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.analysis.legality.scene import Found, Scene, is_integer_read
from graphopt.ir import Node, Tensor, fixed_value
from graphopt.ir.ops import LINEAR

# With 8 bits a tensor of an eighth of the range keeps 5.
_RATIO = 8.0
_DEPTH = 6
_BOUNDS = {"Sigmoid": 1.0, "Softmax": 1.0, "HardSigmoid": 1.0, "Tanh": 1.0, "Softsign": 1.0}


def check_heads(scene: Scene) -> Iterator[Found]:
    """Every Concat whose result is on one grid, when no layer goes on from there."""
    for node in scene.inner.nodes:
        if not node.is_op("Concat") or _feeds_layer(node):
            continue
        result = node.outputs[0]
        written = scene.skeleton.writes.get(result, [])
        covered = written[0].range() if written else None
        if covered is None:
            continue
        whole = max(abs(float(covered.low)), abs(float(covered.high)))
        for index, tensor in node.present_inputs():
            reach = _reach(scene, node, index, tensor)
            if reach is not None and reach * _RATIO < whole:
                text = f"'{result.name}' reaches to {whole:.4g}, its part '{tensor.name}' only to {reach:.4g}"
                yield Found("mixed-ranges", written[0].node, text, result.name, (node,))
                break


def _reach(scene: Scene, node: Node, index: int, tensor: Tensor) -> float | None:
    """The largest magnitude of one operand, from its operator or from its own grid."""
    source: Tensor | None = tensor
    for _ in range(_DEPTH):
        maker = source.inputs[0] if source is not None and source.inputs else None
        if maker is None:
            break
        if maker.is_op(*_BOUNDS):
            return _BOUNDS[maker.op]
        if maker.is_op("Clip"):
            low, high = (fixed_value(maker.input(i)) for i in (1, 2))
            return None if low is None or high is None else max(abs(float(low)), abs(float(high)))
        if not maker.is_op("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Concat", "Slice"):
            break
        source = maker.input(0)
    grids = scene.skeleton.read(node, index)
    covered = grids[-1].range() if is_integer_read(grids) else None
    return None if covered is None else max(abs(float(covered.low)), abs(float(covered.high)))


def _feeds_layer(node: Node) -> bool:
    """Whether a linear operator computes with the joined values."""
    seen: set[Node] = set()
    pending = [node]
    while pending:
        for reader in (n for t in pending.pop().outputs for n in t.outputs):
            if reader.is_op(*LINEAR):
                return True
            if reader not in seen:
                seen.add(reader)
                pending.append(reader)
    return False
