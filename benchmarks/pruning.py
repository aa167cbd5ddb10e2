"""Channel elimination on real models: accuracy, speed, and whether every engine takes the result.

    GRAPHOPT_ZOO=… python -m benchmarks.pruning curve [--models …] [--macs …] [--importance …] [--out FILE.png]
    GRAPHOPT_ZOO=… python -m benchmarks.pruning speed [--macs 0.5] [--engines …]
    GRAPHOPT_ZOO=… python -m benchmarks.pruning targets [--macs 0.5] [--models …] [--targets …]

`curve`: points of top-1 lost at each part of the MACs left, judged on validation images, for each importance, with the
remaining weights refitted and without. No labels are used to prune. The first line is the literature's baseline: l1,
the same part of every group, no repair. `s`: ranking, sensitivity and sizes for all budgets; `point s`: cut and repair.

`speed`: one call of the pruned model beside the whole one's, in turns in one run (`backends.latency`), both behind the
same preset. `faster`: the median over rounds, and its quartiles.

`targets`: pruned, with and without 8 bits afterwards, loaded and run in each target's engine; TensorRT-RTX builds only.
`8 bits`: planned nodes that the engine computes so / planned.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import _pruning_curve, _pruning_speed, _pruning_targets
from benchmarks._common import Command, run_command

COMMANDS: dict[str, Command] = {"curve": _pruning_curve, "speed": _pruning_speed, "targets": _pruning_targets}


def main(arguments: Sequence[str] | None = None) -> None:
    run_command(__doc__, COMMANDS, arguments)


if __name__ == "__main__":
    main()
