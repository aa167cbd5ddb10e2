"""Real models. They are read from the folder that GRAPHOPT_ZOO names; without it these tests skip."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest

import graphopt
from graphopt.targets import TARGETS

ROOT = os.environ.get("GRAPHOPT_ZOO", "")


@pytest.hookimpl(tryfirst=True)  # before the hook in which xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one model run in one worker, so that it is compiled once."""
    for item in items:
        call = getattr(item, "callspec", None)
        if call is not None and "name" in call.params and item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.xdist_group(call.params["name"]))


def script(name: str) -> ModuleType:
    """A module of the zoo folder (zoo.py, light.py), imported without touching sys.path."""
    full = f"graphopt_zoo_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, Path(ROOT) / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        spec.loader.exec_module(module)
    return sys.modules[full]


def names(labelled: bool | None = None) -> list[str]:
    """The zoo's models, or none when there is no zoo."""
    return [m.name for m in script("zoo").models(labelled=labelled)] if ROOT else []


@functools.cache
def entry(name: str) -> Any:
    """The zoo's entry of a model."""
    return script("zoo").model(name)


@functools.cache
def samples(name: str) -> list[dict[str, Any]]:
    """Calibration samples: 64 for classifiers, as the peers' figures were made; for the others what is quick to run."""
    if entry(name).spec["task"] == "classification":
        return entry(name).calibration(64)
    found = entry(name).calibration(4)
    return found[:1] if sum(a.nbytes for a in found[0].values()) > 2**21 else found


@functools.lru_cache(maxsize=len(TARGETS))  # of one model: a worker takes all its tests in turn
def compiled(name: str, target: str) -> graphopt.Result:
    """The model compiled with the int8 preset, with the verifier on.

    With one thread: two workers on two cores take half as much processor time so.
    """
    return graphopt.optimize(str(entry(name).path), target=target, calibration_data=samples(name), threads=1)


@functools.cache
def original(name: str) -> onnx.ModelProto:
    """The file as it is."""
    return onnx.load(entry(name).path)
