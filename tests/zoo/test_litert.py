"""Real models as .tflite: each kernel gives the integers of the Q/DQ model, and few are lost on the way to outputs."""

from __future__ import annotations

import pytest

from benchmarks import litert
from graphopt.backends.litert_writer import write_tflite
from tests.zoo.conftest import ROOT, compiled, entry

pytestmark = pytest.mark.skipif(not ROOT, reason="needs the models that GRAPHOPT_ZOO points at")

# Quick ones of different kinds: depthwise, residual, LeakyRelu, channels last. benchmarks/litert.py has them all.
NAMES = ("kws_dscnn", "resnet8_cifar10", "resnet20_cifar10_bn", "mobilenetv1_025_imagenet_bn")


@pytest.mark.parametrize("name", NAMES)
def test_each_tensor_is_made_as_the_model_says(name: str) -> None:
    found = litert.kernels(compiled(name, "tflite").model, entry(name).validation(1)[0])
    assert found.most <= 1
    assert found.same >= (1 - 2e-5) * found.elements


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_those_of_the_model_within_a_step_of_their_scale(name: str) -> None:
    feeds, labels = entry(name).validation(20)
    model = compiled(name, "tflite").model
    found = litert.compared(model, litert.Subject(name, entry(name).path, [], feeds, labels), 20)
    assert max(found.literal.near, found.fused.near) >= 0.99 * found.literal.elements
    lite, onnx = (sum(right) for right in zip(*found.right, strict=True))
    assert abs(lite - onnx) <= 1
    assert "TRANSPOSE" not in write_tflite(model).operators
