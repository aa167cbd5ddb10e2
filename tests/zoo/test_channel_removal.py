"""Real models and full-size architectures lose random channels: the pruned model equals the masked one."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import graphopt
from graphopt.analysis.coupling.find import couple
from graphopt.ir import Graph, from_proto, infer
from tests.support.masking import assert_same_as_masked, random_keep, remove
from tests.support.rewrite import random_feeds
from tests.zoo.conftest import ROOT, names, original, samples, script

pytestmark = pytest.mark.skipif(not ROOT, reason="needs the models that GRAPHOPT_ZOO points at")

# Without vgg19: its operators are those of zfnet512 and bvlc_alexnet, in half a gigabyte.
LIGHT = [name for name in script("light").NAMES if name != "vgg19"] if ROOT else []


def unsquashed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, changed: its outputs are what the last Sigmoid or Softmax reads.

    Both hide differences where they saturate, and near 0 their own rounding (1e-7 of 1) is all that is left.
    """
    last = {n.output[0]: n for n in model.graph.node if n.op_type in ("Sigmoid", "Softmax")}
    for output in model.graph.output:
        if output.name in last:
            kind = output.type.tensor_type.elem_type
            output.CopyFrom(onnx.helper.make_tensor_value_info(last[output.name].input[0], kind, None))
    return model


def check(graph: Graph, feeds: dict[str, NDArray[Any]]) -> int:
    """How many units were removed."""
    infer(graph)
    coupling = couple(graph)
    keep = random_keep(coupling, np.random.default_rng(0), share=0.6)
    assert_same_as_masked(remove(graph, coupling, keep), feeds)
    return sum(int((~units).sum()) for units in keep.values())


def loaded(name: str) -> onnx.ModelProto:
    """The zoo's model, to be changed."""
    return unsquashed(onnx.ModelProto.FromString(original(name).SerializeToString()))


@pytest.mark.parametrize("name", names())
def test_zoo(name: str) -> None:
    check(from_proto(loaded(name)), samples(name)[0])


@pytest.mark.parametrize("name", names())
def test_zoo_simplified(name: str) -> None:
    check(graphopt.optimize(loaded(name), preset="float").graph, samples(name)[-1])


class _Pool:
    """Numbers as np.random's generators give them, a hundred times as fast: half of a gigabyte of them is needed."""

    def __init__(self, seed: int) -> None:
        # A prime number of them, so that no two rows of a weight are the same.
        generator = np.random.Generator(np.random.PCG64(seed))
        self._normal = generator.standard_normal(1_000_003, dtype=np.float32)
        self._uniform = generator.random(1_000_003, dtype=np.float32)

    def normal(self, mean: float, deviation: float, shape: list[int]) -> NDArray[np.float32]:
        return mean + np.float32(deviation) * np.resize(self._normal[: prod(shape)], shape)

    def uniform(self, low: float, high: float, shape: list[int]) -> NDArray[np.float32]:
        return low + np.float32(high - low) * np.resize(self._uniform[: prod(shape)], shape)


@pytest.mark.parametrize("name", LIGHT)
def test_architectures(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(np.random, "default_rng", _Pool)
        model: onnx.ModelProto = script("light").build(name)
    feeds = random_feeds(model)
    assert check(from_proto(unsquashed(model)), feeds) > 50
