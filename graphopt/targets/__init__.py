"""Targets as data: what each backend wants from a quantized model."""

from graphopt.errors import ConfigError, nearest
from graphopt.targets.onnxruntime import ONNXRUNTIME
from graphopt.targets.openvino import OPENVINO
from graphopt.targets.spec import Bias, FusedPattern, Operands, OpRule, PrecisionRule, Role, Target
from graphopt.targets.tensorrt import TENSORRT
from graphopt.targets.tflite import TFLITE

TARGETS: dict[str, Target] = {t.name: t for t in (ONNXRUNTIME, OPENVINO, TENSORRT, TFLITE)}


def find_target(name: str) -> Target:
    """The target of that name.

    Raises:
        ConfigError: there is none; the message names the nearest, or those that exist.
    """
    if name in TARGETS:
        return TARGETS[name]
    raise ConfigError(f"there is no target '{name}': {nearest(name, TARGETS)}")


__all__ = ["TARGETS", "Bias", "FusedPattern", "OpRule", "Operands", "PrecisionRule", "Role", "Target", "find_target"]
