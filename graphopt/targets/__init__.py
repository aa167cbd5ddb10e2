"""Targets as data: what each backend wants from a quantized model."""

from graphopt.targets.breaches import Breach
from graphopt.targets.catalogue import TARGETS
from graphopt.targets.finding import find_target, planned_target
from graphopt.targets.spec import Bias, BlockRule, FusedPattern, Operands, OpRule, PrecisionRule, Role, Target
from graphopt.targets.toml import read_target, target_from_toml, target_to_toml

__all__ = [
    "TARGETS",
    "Bias",
    "BlockRule",
    "Breach",
    "FusedPattern",
    "OpRule",
    "Operands",
    "PrecisionRule",
    "Role",
    "Target",
    "find_target",
    "planned_target",
    "read_target",
    "target_from_toml",
    "target_to_toml",
]
