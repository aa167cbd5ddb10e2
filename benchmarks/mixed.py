"""Mixed precision on real models: the exact solver against the greedy baseline, and MobileNetV1-0.25.

    GRAPHOPT_ZOO=… python -m benchmarks.mixed curve [--models …] [--target openvino] [--costs bits latency] [--out DIR]
    GRAPHOPT_ZOO=… python -m benchmarks.mixed mobilenet [--targets …]
    GRAPHOPT_ZOO=… python -m benchmarks.mixed shipped [--models …] [--targets …] [--budget …] [--max-drop D]

`curve` and `mobilenet` start from preset int8's plan with plain calibration, without recovery passes, and choose
between int8 and float32. Greedy is what is done without a solver: everything in 8 bits, then layers back to float by
descending local error.

`curve`: at costs of points of the greedy curve (budget: as a part of the float model's), the least error that the
solver finds for no more cost, both compiled and measured on held-out samples in the target's engine. `dB`: of the mean
over outputs of noise / signal. `± se`: standard error of the decibels ahead, over samples. A point is on the curve
within 0.1 dB or two standard errors.

`mobilenet`: the least error with 85 % of the multiply-accumulates in 8 bits.

`shipped`: what preset `mixed` ships of each model in each engine, with its whole pipeline. `float`, `int8`, `ours`:
times as fast as the original, as the preset measured it; `again`: the result, timed once more.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import _mixed_curve, _mixed_mobilenet, _mixed_shipped
from benchmarks._common import Command, run_command

COMMANDS: dict[str, Command] = {"curve": _mixed_curve, "mobilenet": _mixed_mobilenet, "shipped": _mixed_shipped}


def main(arguments: Sequence[str] | None = None) -> None:
    run_command(__doc__, COMMANDS, arguments)


if __name__ == "__main__":
    main()
