"""Whether a node can compute in float16 or bfloat16: what its operator, its constants and its values say.

- the operator must be defined for the type in this opset; a Cast's type is its meaning;
- a constant must not become 0 or infinite (an epsilon of 1e-12 in front of a Sqrt: 0/0);
- no value that it reads or writes may reach what the type can't hold with room to spare, nor may all be too small;
- a sum must not overflow on the way, where engines may add up in the node's own type;
- an operand whose small values matter (of a Log, below a Div) must not become 0, nor be left with few bits.

The last three need what was observed of the node's tensors; `graphopt.calibration.float_fit` observes it, and asks
`float_sums` and `small_operands` for the last two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import ml_dtypes
import numpy as np

from graphopt.ir import Constant, Graph, Node, Tensor
from graphopt.ir.float_parameters import FloatParameters, float_parameters

# Inputs that the samples don't show may be larger.
_HEADROOM = 2.0


def narrowed(graph: Graph, node: Node, dtype: np.dtype[Any]) -> FloatParameters | str:
    """What of the node would have the type, or why it can't compute in it, as a clause; values aside.

    Args:
        graph: types filled in.
        node: of the main graph.
        dtype: float16 or bfloat16.
    """
    if node.is_op("Cast", "CastLike"):
        return "a Cast's type is what it is for"
    if any(graph.is_output(t) and all(t is not o for o in graph.outputs) for t in node.outputs):
        return "a nested graph hands its result on"
    found = float_parameters(node, graph.facts.opset_imports.get(node.domain, 1), dtype)
    if isinstance(found, str):
        return found
    for position in sorted(found.inputs):
        constant = _stored(node.inputs[position])
        reason = constant_misfit(constant, dtype) if constant is not None else None
        if reason is not None:
            return reason
    return found


def constant_misfit(constant: Constant, dtype: np.dtype[Any]) -> str | None:
    """Why a constant can't be converted."""
    values = constant.values
    with np.errstate(over="ignore", under="ignore"):
        converted = values.astype(dtype).astype(np.float32)
    lost = np.isinf(converted) & np.isfinite(values)
    if lost.any():
        return f"'{constant.name}' holds {float(values[lost].flat[0]):.3g}, which is infinite in {dtype}"
    # Of many weights some may vanish; a value that stands alone means something.
    if values.size and not converted.any() and values.any():
        return f"'{constant.name}' is {float(np.abs(values).max()):.3g} at most, which is 0 in {dtype}"
    return None


def activations(node: Node, parameters: FloatParameters) -> Iterator[Tensor]:
    """The tensors that would change their type, and aren't constants."""
    tensors = [node.inputs[i] for i in sorted(parameters.inputs)]
    tensors += [node.outputs[i] for i in sorted(parameters.outputs)]
    return (t for t in tensors if not (isinstance(t, Constant) or t.is_empty() or _is_constant(t)))


def _stored(tensor: Tensor) -> Constant | None:
    """The constant that a tensor is, as an initializer or as the value of a Constant node."""
    if isinstance(tensor, Constant):
        return tensor
    value = tensor.inputs[0].attrs.get("value") if _is_constant(tensor) else None
    return value if isinstance(value, Constant) else None


def _is_constant(tensor: Tensor) -> bool:
    return bool(tensor.inputs) and tensor.inputs[0].is_op("Constant")


def value_misfit(
    node: Node, parameters: FloatParameters, largest: Mapping[str, float], dtype: np.dtype[Any]
) -> str | None:
    """Why the values of a node don't fit.

    Args:
        node: the node.
        parameters: what of it would have the type.
        largest: name of a tensor → its largest magnitude.
        dtype: the type.
    """
    limits = cast("Any", ml_dtypes.finfo(dtype))
    most, least = float(limits.max), float(limits.smallest_normal)
    for tensor in activations(node, parameters):
        top = largest.get(tensor.name)
        if top is None:
            continue
        if top * _HEADROOM > most:
            return f"'{tensor.name}' reaches {top:.3g}, and the largest value is {most:.3g}"
        if 0 < top < least:
            return f"'{tensor.name}' is {top:.3g} at most, below the smallest normal value, {least:.3g}"
    return None
