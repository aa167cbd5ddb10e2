"""Named pipelines, as tuples of pass texts (see `graphopt.pipeline.spec`).

`float` keeps the outputs and simplifies; `int8` is `float`, then quantization for the target. Why this order:

1. Constants first: every later pass asks for constant weights, scales and shapes, which exporters compute in the
   graph. No-ops next: an Identity or a do-nothing Reshape between two layers hides that they are neighbours.
2. Pads go into the layers while those still have their own padding only; BatchNorm before the other scales, since
   one without a linear neighbour becomes the Mul and Add that `fold-channel-scale` then moves.
3. Sharing comes after folding: two layers that share a weight or a result can't take up different scales.
4. Folding leaves arithmetic on constants and reshapes that do nothing: the first two passes run once more. Nothing
   they do then gives the folds new work, so there is no loop to a fixed point.
5. `remove-dead` last: the folds only detach what they replace.
"""

from __future__ import annotations

from graphopt.errors import ConfigError
from graphopt.pipeline.options import nearest
from graphopt.targets import Target

FLOAT = (
    "fold-constants",
    "remove-noops",
    "fold-pad",
    "fold-batch-norm",
    "fold-channel-scale",
    "fuse-matmul-add",
    "fold-constants",
    "remove-noops",
    "merge-duplicates",
    "remove-dead",
)

INT8 = (
    *FLOAT,
    "plan-quantization",
    "calibrate",
    "quantize-weights",
    "insert-qdq",
)

PRESETS: dict[str, tuple[str, ...]] = {"float": FLOAT, "int8": INT8}


def preset(name: str, target: Target | None) -> tuple[str, ...]:
    """The passes of a preset; what they do for the target they ask the target itself.

    Raises:
        ConfigError: no such preset, or it quantizes and there is no target to quantize for.
    """
    if name not in PRESETS:
        raise ConfigError(f"there is no preset '{name}': {nearest(name, PRESETS)}")
    if target is None and "plan-quantization" in PRESETS[name]:
        raise ConfigError(f"preset '{name}' needs a target, which says what is quantized and how: give one")
    return PRESETS[name]
