"""`lint` and `lint --fix` on models in the manner of other tools."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.backends import openvino
from graphopt.backends.measures import sqnr_db
from graphopt.targets import TARGETS
from tests.support.foreign import STYLES, feeds, nncf
from tests.support.rewrite import run

# What must be among the findings.
EXPECTED: dict[tuple[str, str], set[str]] = {
    ("modelopt", "tensorrt"): {"scale-rank", "float-between"},
    ("modelopt", "onnxruntime"): {"scale-rank", "activation-type-shared", "partial-operands", "float-output"},
    ("modelopt", "openvino"): {"float-between"},
    ("modelopt", "tflite"): {"float-output", "bias-float"},
    ("pytorch", "tensorrt"): {"activation-type", "weight-type"},
    ("pytorch", "onnxruntime"): {"weight-type", "bias-float"},
    ("pytorch", "openvino"): {"weight-type", "pair-behind-move"},
    ("pytorch", "tflite"): {"activation-type", "weight-type", "bias-float"},
    ("nncf", "openvino"): {"signed-concat"},
    ("nncf", "onnxruntime"): {"activation-type", "activation-type-shared", "half-quantized"},
    ("nncf_unsigned_weights", "openvino"): {"signed-concat", "weight-type"},
    ("opset_10", "tensorrt"): {"activation-type"},
    ("opset_10", "openvino"): {"useless-pair"},
    ("float16", "onnxruntime"): {"activation-type", "float-output"},
    ("branches", "tensorrt"): {"scale-rank", "activation-type"},
    ("branches", "onnxruntime"): {"scale-rank"},
    ("loose_ends", "tensorrt"): {"scale-rank"},
}
CASES = [(style, target) for style in STYLES for target in TARGETS]


@pytest.mark.parametrize(("style", "target"), CASES)
def test_what_is_found(style: str, target: str) -> None:
    found = {f.rule for f in graphopt.lint(STYLES[style](), target)}
    assert EXPECTED.get((style, target), set()) <= found


@pytest.mark.parametrize(("style", "target"), CASES)
def test_fixed_models_run_and_compute_what_they_did(style: str, target: str) -> None:
    given = STYLES[style]()
    fixed = graphopt.repair(given, target)
    onnx.checker.check_model(fixed.model, full_check=True)
    before, after = ({f.rule for f in found if f.severity == "error"} for found in (fixed.before, fixed.after))
    declined = [r.message for r in fixed.remarks if r.kind == "declined"]
    # A range that nobody knows, 16-bit floats and nested graphs leave an error, and then it is said.
    assert not after or declined
    assert after <= before | {"half-quantized", "partial-operands"}
    feed = feeds(given)
    for old, new in zip(run(given, feed), run(fixed.model, feed), strict=True):
        if old.dtype.kind == "f":
            # Symmetric integers have half the steps behind a Relu.
            assert sqnr_db(old, new) > 25


@pytest.mark.parametrize("style", ["modelopt", "pytorch", "nncf", "nncf_unsigned_weights", "opset_10"])
def test_fixed_models_are_built_in_int8_by_tensorrt(style: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    fixed = graphopt.repair(STYLES[style](), "tensorrt")
    found = graphopt.verify(fixed.model, "tensorrt", shapes={"x": (1, 4, 8, 8)})
    assert [(n.planned.name, n.precision, n.reason) for n in found.precision.missed] == []
    assert found.left_float == ()


@pytest.mark.parametrize("style", ["modelopt", "pytorch", "nncf", "nncf_unsigned_weights", "opset_10"])
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_what_is_planned_in_fixed_models_runs_in_int8(style: str, target: str) -> None:
    found = graphopt.verify(graphopt.repair(STYLES[style](), target).model, target)
    assert [(n.planned.name, n.precision, n.reason) for n in found.precision.missed] == []


def test_openvino_computes_something_else_until_the_concat_is_unsigned() -> None:
    given = nncf()
    fixed = graphopt.repair(given, "openvino")
    assert fixed.after == []
    feed = feeds(given)
    (reference,) = run(given, feed)
    (misread,), (right,) = next(openvino.run(given, [feed])), next(openvino.run(fixed.model, [feed]))
    assert sqnr_db(reference, misread) < 15
    assert sqnr_db(reference, right) > 40


def test_int8_becomes_uint8_on_the_same_grid() -> None:
    """Zero point + 128: the fixed model computes the very same, so nothing is lost by fixing."""
    given = nncf()
    feed = feeds(given)
    np.testing.assert_allclose(run(graphopt.repair(given, "openvino").model, feed)[0], run(given, feed)[0], atol=1e-5)


def test_float16_models_are_left_alone_and_it_is_said() -> None:
    given = STYLES["float16"]()
    found = graphopt.lint(given, "onnxruntime")
    assert not any(f.fixable for f in found)
    fixed = graphopt.repair(given, "onnxruntime")
    assert [n.op_type for n in fixed.model.graph.node].count("DequantizeLinear") == 4
    assert any("around 16-bit floats" in r.message for r in fixed.remarks)


def test_one_scale_becomes_a_scalar_in_branches_too() -> None:
    fixed = graphopt.repair(STYLES["branches"](), "tensorrt")
    assert "scale-rank" in {f.rule for f in fixed.before}
    assert {f.rule for f in fixed.after} == {"activation-type"}
    assert not any(f.fixable for f in fixed.after)
