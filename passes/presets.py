"""Named pipelines, as tuples of pass texts (see `graphopt.pipeline.spec`).

`float` keeps the outputs and simplifies; `int8` is `float`, then quantization for the target; `int8-accurate` also
recovers what 8 bits lose, with more walks over the samples; `mixed` is that with a precision for each part (what comes
out of it is chosen by measuring, see `graphopt.api.mixing`). Why this order:

1. `remove-dead` first: a result that a dead node reads too looks shared, and most rewrites decline then.
2. Constants next: every later pass asks for constant weights, scales and shapes, which exporters compute in the
   graph. Then no-ops: an Identity or a do-nothing Reshape between two layers hides that they are neighbours.
3. Pads go into the layers, BatchNorm before the other scales: one without a linear neighbour becomes the Mul and Add
   that `fold-channel-scale` then moves.
4. Sharing comes after folding: two layers that share a result can't take up different scales.
5. Folding leaves arithmetic on constants and reshapes that do nothing: constants and no-ops run once more. Nothing
   they do then gives the folds new work, so there is no loop to a fixed point; a test holds that a second run of
   `float` changes nothing. Channels that nothing needs go when scales and biases are where they stay, and
   before Gemms are made: a bias that a constant has moved into may be what was missing there.
6. Channels are scaled while the model is all float, since that changes what calibration sees. Weights get their
   integers next, each layer reading what those before it make of the samples, and biases take what is left. Scales of
   weights stay those that cover all values: clipping them gained nothing once roundings are fitted
   (`optimize-weight-scales` is there for use without `round-adaptively`).
7. Precisions are assigned when the ranges are known, and before weights are fitted: what is in float needs no fitting.
   Casts to 16 bits come behind Q/DQ, between which and the layers in 16 bits they stand.
"""

from __future__ import annotations

from graphopt.errors import ConfigError, nearest
from graphopt.targets import Target

FLOAT = (
    "remove-dead",
    "fold-constants",
    "remove-noops",
    "split-sequences",
    "split-sums",
    "fold-pad",
    "fold-batch-norm",
    "fold-channel-scale",
    "fold-gemm-factors",
    "eliminate-dead-channels",
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
    "protect-small-values",
    "quantize-weights",
    "insert-qdq",
)

INT8_ACCURATE = (
    *FLOAT,
    "equalize-channels{trial=32}",
    "smooth-activations",
    "plan-quantization",
    "calibrate",
    "protect-small-values",
    "round-adaptively",
    "correct-bias",
    "quantize-weights",
    "insert-qdq",
)

MIXED = (
    *FLOAT,
    "equalize-channels{trial=32}",
    "smooth-activations",
    "plan-quantization",
    "calibrate",
    "protect-small-values",
    "assign-precision",
    "round-adaptively",
    "correct-bias",
    "quantize-weights{method=gptq}",
    "insert-qdq",
    "insert-casts",
    "store-float16-weights",
)

# What `lint --fix` does: the plan that another tool's Q/DQ stands for, materialised for the target.
REPAIR = (
    "lower-integer-operators",
    "recover-plan",
    "quantize-weights{rounding=nearest}",
    "insert-qdq",
    "remove-dead",
)

PRESETS: dict[str, tuple[str, ...]] = {"float": FLOAT, "int8": INT8, "int8-accurate": INT8_ACCURATE, "mixed": MIXED}


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
