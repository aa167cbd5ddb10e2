"""Real models with 16-bit activations, and with float16 weights, in LiteRT."""

from __future__ import annotations

from functools import cache

import pytest
from onnx import ModelProto

import graphopt
from benchmarks.litert import kernels
from benchmarks.litert_precisions import QUANTIZE, least_sqnr, without_activations
from graphopt.backends import litert_engine, onnxruntime
from graphopt.backends.litert_writer import write_tflite
from graphopt.backends.planned import planned_nodes
from graphopt.ir import from_proto
from graphopt.targets import find_target
from tests.zoo.conftest import ROOT, entry

pytestmark = pytest.mark.skipif(not ROOT, reason="needs the models that GRAPHOPT_ZOO points at")

NAMES = ("kws_dscnn", "resnet8_cifar10", "resnet20_cifar10_bn", "mobilenetv1_025_imagenet_bn")


@cache
def floats(name: str) -> ModelProto:
    return graphopt.optimize(entry(name).path, target="tflite", preset="float", threads=1).model


@cache
def wide(name: str) -> ModelProto:
    passes = QUANTIZE.format(bits=16)
    calibration = entry(name).calibration(16)
    return graphopt.optimize(
        floats(name), target="tflite", passes=passes, calibration_data=calibration, threads=1
    ).model


@pytest.mark.parametrize("name", NAMES)
def test_each_kernel_with_16_bits_makes_what_the_model_says(name: str) -> None:
    found = kernels(wide(name), entry(name).validation(1)[0])
    # Of 65,536 steps: LiteRT's depthwise kernel has 15 bits for the ratio of scales.
    assert found.most <= 1


@pytest.mark.parametrize("name", NAMES)
def test_16_bits_leave_what_the_weights_leave(name: str) -> None:
    feeds = entry(name).validation(8)[0]
    expected = list(onnxruntime.run(floats(name), feeds))
    lite = least_sqnr(expected, litert_engine.run(wide(name), feeds))
    alone = least_sqnr(expected, onnxruntime.run(without_activations(wide(name)), feeds, optimize=False))
    # Two draws of noise as large as the weights' own may be so far apart.
    assert lite > alone - 3
    planned = planned_nodes(from_proto(wide(name)), find_target("tflite"))
    assert {p.precision for p in planned} == {"int16x8"}
    assert not litert_engine.precision(wide(name), planned).missed


@pytest.mark.parametrize("name", ["resnet20_cifar10_bn", "mobilenetv1_025_imagenet_bn"])
def test_float16_weights_halve_the_file(name: str) -> None:
    half = graphopt.optimize(floats(name), target="tflite", passes="store-float16-weights").model
    assert len(write_tflite(half).content) < 0.53 * len(write_tflite(floats(name)).content)
    feeds = entry(name).validation(4)[0]
    expected = list(onnxruntime.run(floats(name), feeds))
    assert least_sqnr(expected, litert_engine.run(half, feeds)) > 50
