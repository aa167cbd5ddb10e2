"""Generated kernels that multiply matrices: small convolutions that the compiler writes out between their neighbours.

Their name spells what they do, step by step, in words cut to four letters; it is all that tells in what they multiply:

    __myl_MulReluMulMinMaxRounCastConcCorrMulAddMin     Q (Mul Min Max Roun Cast), joined with its padding: Corr in int8
    __myl_MulReluMulMinMaxRounCastCastMulCorrMulAddMin  Q, then DQ (Cast Mul): Corr in float
    __myl_CastMulCastMulReluCorrMulAdd                  a weight dequantized first: Corr in float

Measured with 1.7.1.116 on pairs of models that differ in their Q/DQ nodes only.
"""

from __future__ import annotations

import re

from graphopt.backends.tensorrt.kernels import Kernel

_PREFIX = "__myl_"
_WORD = re.compile(r"[A-Z][a-z0-9]*")
_MATRIX_STEPS = frozenset({"Corr", "Fc"})
# What moves values between a Cast to integers and the product.
_MOVES = frozenset({"Conc", "Move", "Repl", "Resh", "Slic", "Tran"})
_QUANTIZE_END = ["Roun", "Cast"]


def multiplies(kernel: Kernel) -> bool:
    """Whether it is a generated kernel with a matrix product in it."""
    return kernel.kind == "function" and not _MATRIX_STEPS.isdisjoint(_steps(kernel))


def multiplies_integers(kernel: Kernel, weight_elements: int) -> bool:
    """Whether the one product of a generated kernel reads an int8 activation and the int8 weight of that size."""
    steps = _steps(kernel)
    products = [i for i, step in enumerate(steps) if step in _MATRIX_STEPS]
    if len(products) != 1 or not _stores_integers(kernel, weight_elements):
        return False
    before = steps[: products[0]]
    while before and before[-1] in _MOVES:
        before.pop()
    if before:
        return before[-2:] == _QUANTIZE_END
    computed = [tensor.type for tensor in kernel.inputs if not tensor.constant]
    return bool(computed) and set(computed) == {"int8"}


def casts(kernel: Kernel) -> bool:
    """Whether generated code changes types inside."""
    return "Cast" in _steps(kernel)


def _stores_integers(kernel: Kernel, elements: int) -> bool:
    """Whether an int8 constant is large enough to be a weight; channels may be padded."""
    return elements > 0 and any(t.type == "int8" and t.stored_bytes >= elements for t in kernel.inputs)


def _steps(kernel: Kernel) -> list[str]:
    return _WORD.findall(kernel.name.removeprefix(_PREFIX))
