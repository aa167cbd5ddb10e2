"""The precisions that a part of a model can run in, as data: what assignment chooses between.

| precision       | weights            | activations | written as                                       |
|-----------------|--------------------|-------------|--------------------------------------------------|
| float32         | float32            | float32     | itself                                           |
| float16         | float16            | float16     | Casts at the borders (`insert-casts`)            |
| bfloat16        | bfloat16           | bfloat16    | likewise                                         |
| int8            | int8, per channel  | 8 bits      | Q/DQ around activations, DQ behind weights       |
| int16x8         | int8, per channel  | int16       | likewise, with 16-bit activations                |
| int4-weights    | int4, in blocks    | float32     | block-wise DQ (opset 21), or MatMulNBits         |
| float16-weights | float16            | float32     | a Cast behind each weight                        |

Which of them a backend runs, and on which operators, is in its table (`graphopt.targets`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graphopt.errors import ConfigError, nearest

PrecisionName = Literal["float32", "float16", "bfloat16", "int8", "int16x8", "int4-weights", "float16-weights"]
Form = Literal["float32", "float16", "bfloat16", "int8", "int16"]
"""How a tensor between two parts is held. "int8" stands for the target's own 8-bit scheme, signed or not."""


@dataclass(frozen=True)
class Precision:
    """One of them.

    Attributes:
        name: as users write it.
        form: of the activations that it reads.
        weight_bits: bits of a weight, without scales.
        activation_bits: bits of an activation.
    """

    name: PrecisionName
    form: Form
    weight_bits: int
    activation_bits: int


PRECISIONS: dict[str, Precision] = {
    p.name: p
    for p in (
        Precision("float32", "float32", 32, 32),
        Precision("float16", "float16", 16, 16),
        Precision("bfloat16", "bfloat16", 16, 16),
        Precision("int8", "int8", 8, 8),
        Precision("int16x8", "int16", 8, 16),
        Precision("int4-weights", "float32", 4, 32),
        Precision("float16-weights", "float32", 16, 32),
    )
}
_ALIASES = {"float": "float32", "fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def find_precision(name: str) -> Precision:
    """The precision of this name; "float", "fp32", "fp16" and "bf16" are understood, too.

    Raises:
        ConfigError: there is none; the message has the nearest name.
    """
    known = _ALIASES.get(name, name)
    if known not in PRECISIONS:
        raise ConfigError(f"there is no precision '{name}': {nearest(name, [*PRECISIONS, *_ALIASES])}")
    return PRECISIONS[known]
