"""onnx's own backend suite as (name, model, inputs): models of every operator, and models exported by PyTorch."""

from __future__ import annotations

import functools
import glob
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.loader import load_model_tests

# Tests of it run in one worker, so that the cases are made once.
in_one_worker = pytest.mark.xdist_group("backend suite")
FOLDERS = ("pytorch-converted", "pytorch-operator", "simple")


@dataclass(frozen=True)
class Case:
    """One model of the suite; `read` gives it with the values of its inputs in order, [] when the suite has none."""

    name: str
    read: Callable[[], tuple[onnx.ModelProto, list[Any]]]


@functools.cache
def cases() -> tuple[Case, ...]:
    """Every case, in the suite's order. Made once per process: it takes some seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite overflows on purpose while it makes its expected values
        nodes = collect_testcases(None)
    made = [Case(c.name, functools.partial(_node_case, c.model, c.data_sets)) for c in nodes if c.model is not None]
    made += [
        Case(f"{kind}/{c.name}", functools.partial(_folder_case, str(c.model_dir)))
        for kind in FOLDERS
        for c in load_model_tests(kind=kind)
    ]
    return tuple(made)


def _node_case(model: onnx.ModelProto, data_sets: Any) -> tuple[onnx.ModelProto, list[Any]]:
    return onnx.ModelProto.FromString(model.SerializeToString()), list(data_sets[0][0]) if data_sets else []


def _folder_case(folder: str) -> tuple[onnx.ModelProto, list[Any]]:
    model = onnx.load(os.path.join(folder, "model.onnx"))
    data = os.path.join(folder, "test_data_set_0")
    count = len(glob.glob(os.path.join(data, "input_*.pb")))
    stored = {i.name for i in model.graph.initializer}
    infos = [i for i in model.graph.input if i.name not in stored]
    return model, [_value(os.path.join(data, f"input_{i}.pb"), infos[i].type) for i in range(count)]


def _value(path: str, type_: onnx.TypeProto) -> Any:
    with open(path, "rb") as file:
        content = file.read()
    if type_.WhichOneof("value") == "sequence_type":
        return numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    return numpy_helper.to_array(onnx.TensorProto.FromString(content))
