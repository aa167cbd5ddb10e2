"""Build a model with TensorRT-RTX on the CPU, for a GPU that needn't be there; say what precision each layer got."""

from graphopt.backends.tensorrt.build import CAPABILITIES, Refusal, refusals
from graphopt.backends.tensorrt.precision import precision

__all__ = ["CAPABILITIES", "Refusal", "precision", "refusals"]
