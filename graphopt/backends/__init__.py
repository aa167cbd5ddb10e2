"""Real engines: run a model in them, and say what precision each layer got.

Import the engine you want, such as `graphopt.backends.openvino`; an engine that is not installed costs nothing
until then.
"""

from graphopt.backends.agreement import Agreement, OutputAgreement, compare_models
from graphopt.backends.onnxruntime import Kernel, kernel_precision, open_session, run_dataset

__all__ = [
    "Agreement",
    "Kernel",
    "OutputAgreement",
    "compare_models",
    "kernel_precision",
    "open_session",
    "run_dataset",
]
