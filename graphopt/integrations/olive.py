"""GraphoptCompile: graphopt as a pass of an Olive workflow (extra `olive`, Olive 0.13).

Olive looks passes up in its package configuration; a workflow with this one runs with a configuration that names it:

    python -m graphopt.integrations.olive > olive_package.json
    olive run --config olive.json --package-config olive_package.json

or in Python `olive.workflows.run(config, package_config=package_config())`. In the workflow:

    "passes": {"compile": {"type": "GraphoptCompile", "target": "onnxruntime", "calibration_data": "samples.npz"}}
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, cast

from olive.data.config import DataConfig
from olive.hardware.accelerator import AcceleratorSpec
from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.package_config import OlivePackageConfig
from olive.passes import Pass
from olive.passes.pass_config import BasePassConfig, PassConfigParam
from olive.search.search_parameter import Categorical

import graphopt

_log = logging.getLogger(__name__)


class GraphoptCompile(Pass):
    """Compile an ONNX model for a target; each option is the argument of `graphopt.optimize` of that name.

    `data_config` is Olive's form of `calibration_data`: its data loader is walked, labels are left out.
    """

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        presets = Categorical(["float", "int8", "int8-accurate"])  # what Olive's search tries
        options = {
            "target": (str, None, "onnxruntime, openvino, tensorrt, tflite, or a file with one."),
            "preset": (str, "int8", "float, int8, int8-accurate or mixed."),
            "data_config": (DataConfig | dict[str, Any] | None, None, "Calibration samples, as Olive has them."),
            "calibration_data": (str | None, None, "Calibration samples: a path or module:function."),
            "validation_data": (str | None, None, "Samples that the result is measured on, likewise."),
            "preprocess": (str | None, None, "How images become the input: a preset's name or a TOML file."),
            "ranges": (str | None, None, "Ranges that `graphopt calibrate` wrote, instead of samples."),
            "keep_float": (list[str] | None, None, "Nodes to leave in float: patterns of names, or operators."),
            "prune": (str | None, None, "Remove channels first: macs=0.7."),
            "max_drop": (float | None, None, "The points of top-1 that the result may lose."),
            "min_sqnr": (float | None, None, "The least SQNR of each output, in dB."),
            "verify": (bool, False, "Demand that the engine runs the planned nodes in 8 bits."),
        }
        return {
            name: PassConfigParam(
                type_=type_,
                required=name == "target",
                default_value=default,
                description=description,
                search_defaults=presets if name == "preset" else None,
            )
            for name, (type_, default, description) in options.items()
        }

    def _run_for_config(
        self, model: ONNXModelHandler, config: BasePassConfig, output_model_path: str
    ) -> ONNXModelHandler:
        given = {name: getattr(config, name) for name in self.default_config(self.accelerator_spec)}
        options = {name: value for name, value in given.items() if value is not None}
        data = options.pop("data_config", None)
        if data is not None:
            data = data if isinstance(data, DataConfig) else DataConfig(**data)
            options["calibration_data"] = data.to_data_container().create_dataloader()
        result = graphopt.optimize(model.model_path, **options)
        path = Path(resolve_onnx_path(output_model_path, "model.onnx"))
        result.save(path)
        measured = result.report.measurement
        if measured is not None:
            _log.info("%s: %s", path, ", ".join(f"{o.name} {o.sqnr_db:.1f} dB" for o in measured.agreement.outputs))
        # With its weights in a file beside it the model is a folder to Olive, which moves it.
        is_folder = len(list(path.parent.iterdir())) > 1
        return ONNXModelHandler(
            path.parent if is_folder else path,
            onnx_file_name=path.name if is_folder else None,
            inference_settings=model.inference_settings,
        )


def package_config() -> dict[str, Any]:
    """Olive's own package configuration and GraphoptCompile, for `olive.workflows.run(config, package_config=…)`."""
    text = Path(OlivePackageConfig.get_default_config_path()).read_text(encoding="utf-8")
    package = cast("dict[str, Any]", json.loads(text))
    package["passes"]["GraphoptCompile"] = {
        "module_path": "graphopt.integrations.olive.GraphoptCompile",
        "supported_providers": ["*"],
        "supported_accelerators": ["*"],
        "supported_precisions": ["*"],
        "supported_quantization_encodings": ["qdq"],
        "dataset": "dataset_optional",
    }
    return package


if __name__ == "__main__":
    print(json.dumps(package_config(), indent=2))
