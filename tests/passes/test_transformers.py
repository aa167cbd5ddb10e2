"""Small trained transformers in 8 bits: as accurate as in float, and nearly all products with weights in integers."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import graphopt
from graphopt.ir import Graph, from_proto
from graphopt.ir.linear import linear_view
from graphopt.passes.presets import FLOAT
from graphopt.targets import TARGETS
from tests.data.transformers.tokens import tokenize
from tests.support.rewrite import run

ROOT = Path(__file__).parents[2]
# One worker compiles them all, once.
pytestmark = pytest.mark.xdist_group("transformers")
MODELS = ("vit_opset17", "vit_opset11", "encoder")
PIPELINE = ",".join(
    [*FLOAT, "plan-quantization", "calibrate", "protect-small-values", "quantize-weights", "insert-qdq"]
)


def inputs_of(name: str, images: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
    return dict(tokenize(images)) if name == "encoder" else {"image": images}


@functools.cache
def validation() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The 360 validation images and four copies of each, shifted by a pixel: half a point is nine of 1,800."""
    stored = np.load(ROOT / "calibration_data" / "validation.npz")
    images, labels = stored["image"], stored["labels"]
    shifts = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-1)
    moved = [padded[:, :, 1 + dy : 9 + dy, 1 + dx : 9 + dx] for dy, dx in shifts]
    return np.concatenate(moved), np.tile(labels, len(shifts))


def source(name: str) -> onnx.ModelProto:
    return onnx.load(ROOT / "tests" / "data" / "transformers" / f"{name}.onnx")


@functools.cache
def compiled(name: str, target: str) -> graphopt.Result:
    images = np.load(ROOT / "calibration_data" / "calibration.npz")["image"][:64]
    return graphopt.optimize(source(name), target=target, passes=PIPELINE, calibration_data=inputs_of(name, images))


def top1(name: str, model: onnx.ModelProto) -> float:
    images, labels = validation()
    (logits,) = run(model, inputs_of(name, images))
    return float((logits.argmax(1) == labels).mean())


def weight_products(graph: Graph) -> dict[str, int]:
    """Multiplications for each token of the MatMul and Gemm nodes with constant weights, by the node's name."""
    views = [linear_view(graph, node) for node in graph.nodes if node.is_op("MatMul", "Gemm")]
    return {view.node.name: view.in_channels * view.out_channels for view in views if view is not None}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", MODELS)
def test_accuracy_drops_by_half_a_point_at_most(name: str, target: str) -> None:
    assert top1(name, compiled(name, target).model) >= top1(name, source(name)) - 0.005


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", MODELS)
def test_nearly_all_products_with_weights_are_in_8_bits(name: str, target: str) -> None:
    result = compiled(name, target)
    sizes = weight_products(from_proto(graphopt.optimize(source(name), preset="float").model))
    integer = {layer.name for layer in result.report.layers if layer.integer}
    # MatMul + Add becomes Gemm in places, under the same name.
    assert sum(size for node, size in sizes.items() if node in integer) >= 0.9 * sum(sizes.values())
    assert sum(sizes.values()) > 10_000


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", MODELS)
def test_the_logits_are_close(name: str, target: str) -> None:
    images, _ = validation()
    feeds = inputs_of(name, images[:360])
    (reference,), (other,) = run(source(name), feeds), run(compiled(name, target).model, feeds)
    noise = np.mean((other - reference).astype(np.float64) ** 2)
    assert 10 * np.log10(np.mean(reference.astype(np.float64) ** 2) / noise) > 28


def test_the_ids_and_the_mask_are_never_quantized() -> None:
    for target in TARGETS:
        result = compiled("encoder", target)
        readers = [n for n in result.model.graph.node if {"input_ids", "attention_mask"} & set(n.input)]
        assert not any(n.op_type == "QuantizeLinear" for n in readers)
        assert not any("Where" in n.name for n in result.model.graph.node if n.op_type == "QuantizeLinear")
