"""The trained models of the repository, as exported and simplified, lose channels and attention heads."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import graphopt
from graphopt.analysis.coupling.find import couple
from graphopt.ir import Graph, from_proto, infer, verify
from tests.data.transformers.tokens import tokenize
from tests.support.masking import assert_same_as_masked, random_keep, remove

ROOT = Path(__file__).parents[2]
FILES = {
    "digits_cnn": ROOT / "calibration_data" / "digits_cnn.onnx",
    **{n: ROOT / "tests" / "data" / "transformers" / f"{n}.onnx" for n in ("vit_opset11", "vit_opset17", "encoder")},
}


@functools.cache
def feeds(name: str) -> dict[str, NDArray[np.generic]]:
    images = np.load(ROOT / "calibration_data" / "validation.npz")["image"][:8]
    return dict(tokenize(images)) if name == "encoder" else {"image": images}


def graph_of(name: str, *, simplified: bool) -> Graph:
    model = onnx.load(FILES[name])
    graph = graphopt.optimize(model, preset="float").graph if simplified else from_proto(model)
    infer(graph)
    return graph


@pytest.mark.parametrize("simplified", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_random_channels_go(name: str, simplified: bool) -> None:
    for seed in range(2):
        graph = graph_of(name, simplified=simplified)
        coupling = couple(graph)
        removed = remove(graph, coupling, random_keep(coupling, np.random.default_rng(seed)))
        assert_same_as_masked(removed, feeds(name))
        assert verify(graph) == []


@pytest.mark.parametrize("name", ["vit_opset11", "vit_opset17", "encoder"])
def test_whole_heads_go(name: str) -> None:
    graph = graph_of(name, simplified=True)
    coupling = couple(graph)
    heads = [group for group in coupling.removable if "attention" in group.name]
    assert [group.units for group in heads] == [4] * len(heads)
    keep = {group.name: np.array([True, False, False, True]) for group in heads}
    removed = remove(graph, coupling, keep)
    assert_same_as_masked(removed, feeds(name))
    # Half of the heads: half of what makes queries, keys and values.
    weights = [
        t for g in heads for t in (s.tensor for s in g.members) if t in graph.constants and len(t.shape or ()) == 2
    ]
    assert weights
    assert {t.shape for t in weights} <= {(48, 72), (48, 24), (24, 48)}
