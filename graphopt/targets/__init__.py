"""Targets as data: what each backend wants from a quantized model."""

from difflib import get_close_matches

from graphopt.errors import ConfigError
from graphopt.targets.onnxruntime import ONNXRUNTIME
from graphopt.targets.openvino import OPENVINO
from graphopt.targets.spec import Bias, Operands, OpRule, Role, Target
from graphopt.targets.tensorrt import TENSORRT
from graphopt.targets.tflite import TFLITE

TARGETS: dict[str, Target] = {t.name: t for t in (ONNXRUNTIME, OPENVINO, TENSORRT, TFLITE)}


def find_target(name: str) -> Target:
    """The target of that name.

    Raises:
        ConfigError: there is none; the message names those that exist and the nearest.
    """
    if name in TARGETS:
        return TARGETS[name]
    near = get_close_matches(name, TARGETS, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    raise ConfigError(f"unknown target '{name}'{hint} Targets: {', '.join(TARGETS)}")


__all__ = ["TARGETS", "Bias", "OpRule", "Operands", "Role", "Target", "find_target"]
