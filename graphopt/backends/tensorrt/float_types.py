"""In which float type a kernel of a plan computes a node that was planned in one.

A matrix kernel's operands say it. Generated code doesn't state what it computes in: strongly typed, that is the type of
what it reads and writes, or another one between two Casts inside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphopt.backends.precision import Planned
from graphopt.backends.tensorrt.generated import casts
from graphopt.backends.tensorrt.kernels import Kernel, PlanTensor

# The engine's words.
FLOAT_TYPES = {"float": "float32", "half": "float16", "bf16": "bfloat16"}
_BYTES = {"float": 4, "half": 2, "bf16": 2}
OTHER_TYPE = {
    "float32": "TensorRT-RTX computes a layer alone between two Casts in their type: put a Clip without bounds before "
    "the second one"
}
UNEXPECTED = "the engine chose another type for it, for no reason that graphopt knows"


def float_type(planned: Planned, weights: int, kernels: Sequence[Kernel]) -> tuple[Kernel, str] | None:
    """The kernel that computes a node, and in which float type; None where no kernel does, or tells.

    Args:
        planned: the node.
        weights: elements of its stored second operand; 0 without.
        kernels: those that name it.
    """
    found = [(k, FLOAT_TYPES.get(t, t)) for k in kernels if k.is_matrix and planned.linear for t in k.operands]
    if found:
        # One operand in another type is the answer.
        return next((pair for pair in found if pair[1] != planned.precision), found[0])
    # Of a fusion and the statements inside it, those that name the fewest nodes know best.
    for kernel in sorted(kernels, key=lambda k: len(k.nodes)):
        types = list(_types(kernel, weights))
        if planned.precision in types or (types and casts(kernel) and not weights):
            return kernel, planned.precision
        # A fused kernel (attention) doesn't tell what it computes its pointwise parts in.
        if types and (planned.linear or len(kernel.nodes) == 1):
            return kernel, types[0]
    return None


def _types(kernel: Kernel, weights: int) -> Iterator[str]:
    """Float types that a kernel reads and writes; where it reads a stored operand, that one's."""
    tensors = [t for t in (*kernel.inputs, *kernel.outputs) if t.type in FLOAT_TYPES]
    stored = [t for t in tensors if weights and _holds(t, weights)]
    return (FLOAT_TYPES[t.type] for t in stored or [t for t in tensors if not t.constant] or tensors)


def _holds(tensor: PlanTensor, elements: int) -> bool:
    """Whether a constant is large enough to be an operand; channels may be padded."""
    return tensor.stored_bytes >= elements * _BYTES[tensor.type]
