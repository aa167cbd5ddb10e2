"""From what users write to a target: a name of ours, a TOML file, or `module:NAME` in their own code."""

from __future__ import annotations

from pathlib import Path

from graphopt.errors import ConfigError, nearest
from graphopt.ir.user_code import import_named, is_named
from graphopt.quant.plan import QuantPlan
from graphopt.targets.catalogue import TARGETS
from graphopt.targets.soundness import check_target
from graphopt.targets.spec import Target
from graphopt.targets.toml import SUFFIX, read_target


def find_target(given: str | Path | Target) -> Target:
    """The target that is meant.

    Args:
        given: one of `TARGETS` by name; the path of a .toml file, as text or a Path; `module:NAME` or `file.py:NAME`;
            or a target itself.

    Raises:
        ConfigError: there is none, the message names the nearest; the file or module can't be read; or the table
            contradicts itself.
    """
    if isinstance(given, Target):
        check_target(given, f"target '{given.name}'")
        return given
    if isinstance(given, Path):
        return read_target(given)
    if given in TARGETS:
        return TARGETS[given]
    if given.lower().endswith(SUFFIX):
        return read_target(given)
    if is_named(given):
        found = import_named(given, "target")
        if not isinstance(found, Target):
            raise ConfigError(f"{given} is not a graphopt.Target, but {type(found).__name__}")
        check_target(found, given)
        return found
    raise ConfigError(
        f"there is no target '{given}': {nearest(given, TARGETS)}; or give a file of your own, board.toml or "
        "boards.py:BOARD"
    )


def planned_target(plan: QuantPlan) -> Target:
    """The target that the plan was made for.

    Raises:
        ConfigError: nothing is planned.
    """
    if not isinstance(plan.target, Target):
        raise ConfigError("nothing is planned for a target: put 'plan-quantization' in front")
    return plan.target
