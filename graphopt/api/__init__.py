"""The Python API: load → passes → emit, and how far the result is from the model that came in.

A model is whatever `graphopt.load` takes: a path, bytes, an onnx.ModelProto, or what torch.onnx.export(dynamo=True)
returns; it is never changed. Samples are whatever `graphopt.calibration.load_dataset` takes: the path of an .npz file
or of a folder of them, "module:function", a dict of stacked arrays, or an iterable of `{input: array}`.
Nothing here keeps state: calls from several threads don't disturb each other.
"""

from graphopt.api.bisecting import bisect
from graphopt.api.calibrating import calibrate
from graphopt.api.comparing import compare, compare_layers
from graphopt.api.diffing import diff
from graphopt.api.emitting import check_output, emit
from graphopt.api.linting import lint
from graphopt.api.optimizing import optimize
from graphopt.api.pipelines import passes_from_text, preset
from graphopt.api.ranges import Calibration
from graphopt.api.repairing import Repair, repair
from graphopt.api.result import Result
from graphopt.api.tracing import trace
from graphopt.api.verifying import VerificationError, verify

__all__ = [
    "Calibration",
    "Repair",
    "Result",
    "VerificationError",
    "bisect",
    "calibrate",
    "check_output",
    "compare",
    "compare_layers",
    "diff",
    "emit",
    "lint",
    "optimize",
    "passes_from_text",
    "preset",
    "repair",
    "trace",
    "verify",
]
