"""Pipelines as lists of passes: to look at, to change, and to give to `optimize(passes=...)`.

passes = [MyPass(), *graphopt.preset("int8", "onnxruntime")]
graphopt.optimize("model.onnx", target="onnxruntime", passes=passes, calibration_data="samples.npz")
"""

from __future__ import annotations

from pathlib import Path

from graphopt.api.choice import choose_pipeline
from graphopt.passes import find_pass
from graphopt.pipeline import Pass, spec
from graphopt.targets import Target


def preset(name: str, target: str | Path | Target | None = None) -> list[Pass]:
    """The passes of a preset: "float", "int8", "int8-accurate", "mixed".

    Raises:
        ConfigError: there is no such preset or target, or the preset needs a target.
    """
    return list(choose_pipeline(target, preset=name).passes)


def passes_from_text(text: str) -> list[Pass]:
    """The passes that a pipeline text names: "fold-batch-norm,my_module:MyPass{factor=2}".

    Raises:
        ConfigError: the text isn't a pipeline, or a pass or option is unknown or wrong.
    """
    return spec.passes_from_text(text, find_pass)
