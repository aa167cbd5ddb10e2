"""graphopt: compile a trained float ONNX model into the one a backend runs fastest, measured and explained.

    import graphopt

    result = graphopt.optimize("model.onnx", target="onnxruntime", calibration_data="samples.npz")
    print(result.report.measurement)
    result.save("model_int8.onnx")

Names are imported when they are first used: `import graphopt` alone brings neither onnx nor onnxruntime in.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from graphopt._version import __version__

if TYPE_CHECKING:
    from graphopt.analysis.legality import Finding
    from graphopt.api import (
        Calibration,
        Repair,
        Result,
        VerificationError,
        bisect,
        calibrate,
        compare,
        compare_layers,
        diff,
        emit,
        lint,
        optimize,
        passes_from_text,
        preset,
        repair,
        trace,
        verify,
    )
    from graphopt.backends.agreement import Agreement, OutputAgreement
    from graphopt.backends.layer_errors import ErrorReport
    from graphopt.backends.litert_writer.writing import Written
    from graphopt.calibration import Dataset, Preprocess
    from graphopt.errors import (
        AccuracyError,
        CalibrationError,
        Cancelled,
        ConfigError,
        EmitError,
        GraphoptError,
        InternalError,
        LoadError,
        PassError,
        UnsupportedError,
    )
    from graphopt.ir import Constant, Graph, Node, Tensor, Variable, fixed_value, load, save
    from graphopt.passes import find_pass
    from graphopt.pipeline import Context, Instrument, Pass, PassManager, PassRecord, Remark
    from graphopt.pipeline.instruments import Dump, History, Limit, Numerics, PrintIr, Reproducer, Timing, Verify
    from graphopt.pipeline.passes import Progress, Resources
    from graphopt.pipeline.spec import passes_to_text
    from graphopt.quant import Range, Scheme
    from graphopt.report import Inspection, Report, Verification, inspect_model
    from graphopt.report.bisection import Bisection
    from graphopt.report.model_diff import ModelDiff
    from graphopt.report.trace import Life
    from graphopt.targets import (
        TARGETS,
        OpRule,
        PrecisionRule,
        Role,
        Target,
        find_target,
        read_target,
        target_from_toml,
        target_to_toml,
    )

_MODULES = {
    "graphopt.analysis.legality": ("Finding",),
    "graphopt.api": (
        "Calibration",
        "Repair",
        "Result",
        "VerificationError",
        "bisect",
        "calibrate",
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
    ),
    "graphopt.backends.agreement": ("Agreement", "OutputAgreement"),
    "graphopt.backends.layer_errors": ("ErrorReport",),
    "graphopt.backends.litert_writer.writing": ("Written",),
    "graphopt.calibration": ("Dataset", "Preprocess"),
    "graphopt.errors": (
        "AccuracyError",
        "CalibrationError",
        "Cancelled",
        "ConfigError",
        "EmitError",
        "GraphoptError",
        "InternalError",
        "LoadError",
        "PassError",
        "UnsupportedError",
    ),
    "graphopt.ir": ("Constant", "Graph", "Node", "Tensor", "Variable", "fixed_value", "load", "save"),
    "graphopt.passes": ("find_pass",),
    "graphopt.pipeline": ("Context", "Instrument", "Pass", "PassManager", "PassRecord", "Remark"),
    "graphopt.pipeline.instruments": (
        "Dump",
        "History",
        "Limit",
        "Numerics",
        "PrintIr",
        "Reproducer",
        "Timing",
        "Verify",
    ),
    "graphopt.pipeline.passes": ("Progress", "Resources"),
    "graphopt.pipeline.spec": ("passes_to_text",),
    "graphopt.quant": ("Range", "Scheme"),
    "graphopt.report": ("Inspection", "Report", "Verification", "inspect_model"),
    "graphopt.report.bisection": ("Bisection",),
    "graphopt.report.model_diff": ("ModelDiff",),
    "graphopt.report.trace": ("Life",),
    "graphopt.targets": (
        "OpRule",
        "PrecisionRule",
        "Role",
        "TARGETS",
        "Target",
        "find_target",
        "read_target",
        "target_from_toml",
        "target_to_toml",
    ),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "TARGETS",
    "AccuracyError",
    "Agreement",
    "Bisection",
    "Calibration",
    "CalibrationError",
    "Cancelled",
    "ConfigError",
    "Constant",
    "Context",
    "Dataset",
    "Dump",
    "EmitError",
    "ErrorReport",
    "Finding",
    "Graph",
    "GraphoptError",
    "History",
    "Inspection",
    "Instrument",
    "InternalError",
    "Life",
    "Limit",
    "LoadError",
    "ModelDiff",
    "Node",
    "Numerics",
    "OpRule",
    "OutputAgreement",
    "Pass",
    "PassError",
    "PassManager",
    "PassRecord",
    "PrecisionRule",
    "Preprocess",
    "PrintIr",
    "Progress",
    "Range",
    "Remark",
    "Repair",
    "Report",
    "Reproducer",
    "Resources",
    "Result",
    "Role",
    "Scheme",
    "Target",
    "Tensor",
    "Timing",
    "UnsupportedError",
    "Variable",
    "Verification",
    "VerificationError",
    "Verify",
    "Written",
    "__version__",
    "bisect",
    "calibrate",
    "compare",
    "compare_layers",
    "diff",
    "emit",
    "find_pass",
    "find_target",
    "fixed_value",
    "inspect_model",
    "lint",
    "load",
    "optimize",
    "passes_from_text",
    "passes_to_text",
    "preset",
    "read_target",
    "repair",
    "save",
    "target_from_toml",
    "target_to_toml",
    "trace",
    "verify",
]


def __getattr__(name: str) -> object:
    """The public name from its home module (PEP 562); kept, so that this runs once a name."""
    if name not in _HOME:
        raise AttributeError(f"module 'graphopt' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
