"""What belongs to a whole model: versions, names, notes, the plan, and the count of changes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from graphopt.quant.plan import QuantPlan

if TYPE_CHECKING:
    from graphopt.ir.shapes import Inferred


@dataclass
class ModelFacts:
    """What belongs to the model and not to one of its graphs; shared by the main graph and all nested ones."""

    ir_version: int = 10
    opset_imports: dict[str, int] = field(default_factory=dict[str, int])
    producer_name: str = ""
    producer_version: str = ""
    domain: str = ""
    model_version: int = 0
    doc_string: str = ""
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    functions: list[onnx.FunctionProto] = field(default_factory=list[onnx.FunctionProto])
    training_info: list[onnx.TrainingInfoProto] = field(default_factory=list[onnx.TrainingInfoProto])
    device_configurations: list[onnx.DeviceConfigurationProto] = field(
        default_factory=list[onnx.DeviceConfigurationProto]
    )
    # What loading changed, dropped or assumed, for the user to read.
    notes: list[str] = field(default_factory=list[str])
    # Files that the model came from, external data included; none of them may be written to.
    source_files: tuple[Path, ...] = ()
    has_external_data: bool = False
    # Names of all tensors and of all nodes, removed ones included, so that a name never means two things. Apart
    # from each other, because exporters often give a node the name of its output.
    names: set[str] = field(default_factory=set[str])
    node_names: set[str] = field(default_factory=set[str])
    name_counters: Counter[str] = field(default_factory=Counter[str])
    output_uses: Counter[int] = field(default_factory=Counter[int])
    plan: QuantPlan = field(default_factory=QuantPlan)
    revision: int = 0
    # What inference found in the model as it stands; None when it has changed since. See `shapes.fill_types`.
    inference: Inferred | None = None
