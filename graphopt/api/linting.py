"""`lint`: whether a Q/DQ model obeys a target's contract."""

from __future__ import annotations

from pathlib import Path

from graphopt.analysis.legality import Finding, check_graph
from graphopt.ir import load
from graphopt.targets import Target, find_target


def lint(model: object, target: str | Path | Target, *, base_dir: str | Path | None = None) -> list[Finding]:
    """Every place where a Q/DQ model of any tool breaks the target's contract, in graph order.

    Args:
        model: a path, bytes, an onnx.ModelProto, or what torch.onnx.export(dynamo=True) returns. It is checked as it
            is, in the opset that it has.
        target: onnxruntime, openvino, tensorrt, tflite, or one of your own, as in `optimize`.
        base_dir: folder of the external data of a model that isn't given as a path.

    Raises:
        ConfigError: there is no such target.
        LoadError: the model can't be read, or is no valid ONNX model.
    """
    aim = find_target(target)
    return check_graph(load(model, base_dir=base_dir, min_opset=1), aim)
