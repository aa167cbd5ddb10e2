"""`repair`: violations are mended, what the target takes stays bit for bit, and the function stays what it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graphopt
from graphopt.passes.recover_plan import RecoverPlan
from graphopt.pipeline import Context
from tests.analysis.planting import Planted
from tests.analysis.test_legality import CASES, NET, NET_WEIGHTS, SHAPE, Case, check, clean
from tests.support.quantization import model
from tests.support.rewrite import random_feeds, run

MENDED = [c for c in CASES if c.rule not in {
    # Values, or a range, that only the samples have; types and forms that aren't known to mean the same.
    "scale-value", "scale-constant", "block-scale", "block-form", "float-input", "pair-mismatch", "opset",
    "integer-operator", "contrib-operator", "half-quantized", "mixed-ranges", "lone-float32",
}]  # fmt: skip


def sqnr(reference: list[np.ndarray], other: list[np.ndarray]) -> float:
    signal = sum(float((a.astype(np.float64) ** 2).sum()) for a in reference)
    error = sum(float(((a.astype(np.float64) - b) ** 2).sum()) for a, b in zip(reference, other, strict=True))
    return 10 * np.log10(signal / max(error, 1e-30))


def integers_of(proto: onnx.ModelProto) -> dict[str, list[np.ndarray]]:
    """Weight integers and all scales and zero points, by the kind of node that reads them."""
    values = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
    found: dict[str, list[np.ndarray]] = {}
    for node in proto.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            for index, name in enumerate(node.input):
                if name in values:
                    found.setdefault(f"{node.op_type}:{index}", []).append(values[name])
    return found


@pytest.mark.parametrize("case", MENDED, ids=lambda c: f"{c.rule}-{c.target}-{c.plant.__name__}")
def test_a_planted_violation_is_mended(case: Case) -> None:
    planted = Planted(clean(case.target, case.kind))
    case.plant(planted)
    repaired = graphopt.repair(planted.model, case.target)
    assert case.rule in {f.rule for f in repaired.before}
    left = [f for f in repaired.after if f.rule == case.rule]
    assert left == []
    onnx.checker.check_model(repaired.model, full_check=True)
    # onnxruntime can't run every planted model, and some are wrong on purpose; the mended one must run.
    assert all(np.isfinite(o).all() for o in run(repaired.model, random_feeds(repaired.model)))


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt", "tflite"])
def test_a_clean_model_comes_out_as_it_went_in(target: str) -> None:
    source = clean(target, "net")
    repaired = graphopt.repair(source, target)
    assert repaired.before == repaired.after == []
    assert repaired.graph.revision == 0


def recovered(proto: onnx.ModelProto, target: str) -> graphopt.Result:
    passes = "lower-integer-operators,recover-plan,quantize-weights{rounding=nearest},insert-qdq,remove-dead"
    return graphopt.optimize(proto, target=target, passes=passes)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt", "tflite"])
def test_recovering_the_plan_of_our_own_model_gives_the_same_integers(target: str) -> None:
    source = clean(target, "net")
    after = recovered(source, target).model
    assert [n.op_type for n in after.graph.node].count("QuantizeLinear") == [
        n.op_type for n in source.graph.node
    ].count("QuantizeLinear")
    before, now = integers_of(source), integers_of(after)
    for kind, values in now.items():
        originals = {v.tobytes() for v in before[kind]}
        assert {v.tobytes() for v in values} <= originals, kind
    feeds = random_feeds(source)
    assert sqnr(run(source, feeds), run(after, feeds)) > 60


@pytest.mark.parametrize("source", ["onnxruntime", "openvino", "tensorrt", "tflite"])
@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt", "tflite"])
def test_a_model_for_one_target_becomes_one_for_another(source: str, target: str) -> None:
    given = clean(source, "net")
    repaired = graphopt.repair(given, target)
    assert [f for f in repaired.after if f.severity == "error" and f.fixable] == []
    feeds = random_feeds(given)
    # Symmetric integers have half the steps behind a Relu; 8 bits of noise are about 30 dB here.
    assert sqnr(run(given, feeds), run(repaired.model, feeds)) > 20


def test_a_relu_that_the_integers_did_is_written_out() -> None:
    source = clean("onnxruntime", "net")
    planted = Planted(source)
    # As onnxruntime.quantization writes it: the Relu is dropped, because integers from 0 on cut off the rest.
    relu = planted.producer("r1")
    planted.model.graph.node.remove(relu)
    for reader in planted.readers("r1"):
        reader.input[:] = ["c1" if i == "r1" else i for i in reader.input]
    feeds = random_feeds(source)
    assert sqnr(run(source, feeds), run(planted.model, feeds)) > 100
    repaired = graphopt.repair(planted.model, "tensorrt")
    assert [n.op_type for n in repaired.model.graph.node].count("Relu") == 2
    assert sqnr(run(source, feeds), run(repaired.model, feeds)) > 20


def test_an_image_whose_integers_begin_at_zero_gets_no_relu() -> None:
    planted = Planted(clean("onnxruntime", "net"))
    planted.set_value("x_zero_point", 0)
    repaired = graphopt.repair(planted.model, "tensorrt")
    relus = [n for n in repaired.model.graph.node if n.op_type == "Relu"]
    assert all(n.input[0] != "x" for n in relus)


def test_no_range_is_invented() -> None:
    planted = Planted(clean("openvino", "net"))
    planted.unpair("x", "c1")
    for name in ("x_dequantized", "x_quantized"):
        planted.model.graph.node.remove(planted.producer(name))
    repaired = graphopt.repair(planted.model, "openvino")
    assert [f.rule for f in repaired.after] == ["half-quantized"]
    declined = [r for r in repaired.remarks if r.kind == "declined"]
    assert ["no range of 'x' is known" in r.message for r in declined] == [True]
    # The weight of the layer stays stored in 8 bits.
    conv = next(n for n in repaired.model.graph.node if n.output[0] == "c1")
    made = next(n for n in repaired.model.graph.node if conv.input[1] in n.output)
    assert made.op_type == "DequantizeLinear"


def test_a_float_layer_stays_float() -> None:
    planted = Planted(clean("openvino", "net"))
    planted.float_constant("W1_dequantized")
    planted.unpair("x", "c1")
    planted.set_value("W2_zero_point", np.array([0, 5, 0, 0]))
    repaired = graphopt.repair(planted.model, "openvino")
    conv = next(n for n in repaired.model.graph.node if n.output[0] == "c1")
    made = [n.op_type for n in repaired.model.graph.node if set(n.output) & set(conv.input)]
    assert made == []


def test_a_pair_that_scales_values_is_left_alone() -> None:
    planted = Planted(clean("onnxruntime", "net"))
    planted.producer("x_dequantized").input[1] = planted.constant(planted.value("x_scale") * 2, np.float32)
    repaired = graphopt.repair(planted.model, "onnxruntime")
    feeds = random_feeds(planted.model)
    assert sqnr(run(planted.model, feeds), run(repaired.model, feeds)) > 30
    assert "pair-mismatch" in {f.rule for f in repaired.after}


QLINEAR = """
    xq = QuantizeLinear(x, sx, zx)
    yq = QLinearConv<pads=[1,1,1,1]>(xq, sx, zx, Wq, sw, zw, sy, zy, bq)
    mq = MaxPool<kernel_shape=[2,2], strides=[2,2]>(yq)
    fq = Flatten(mq)
    zq = QLinearMatMul(fq, sy, zy, Vq, sv, zv, sz, zz)
    z = DequantizeLinear(zq, sz, zz)
"""


def qlinear() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    values = {
        "sx": np.float32(0.03), "zx": np.uint8(128), "sw": rng.uniform(0.01, 0.02, 4).astype(np.float32),
        "zw": np.zeros(4, np.int8), "Wq": rng.integers(-127, 128, (4, 4, 3, 3)).astype(np.int8),
        "sy": np.float32(0.1), "zy": np.uint8(100), "bq": rng.integers(-900, 900, 4).astype(np.int32),
        "Vq": rng.integers(-127, 128, (64, 5)).astype(np.int8), "sv": np.float32(0.01), "zv": np.int8(0),
        "sz": np.float32(0.5), "zz": np.uint8(120),
    }  # fmt: skip
    parsed = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 13]> g ({SHAPE} x) => (float[1,5] z) {{ {QLINEAR} }}'
    )
    parsed.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in values.items())
    onnx.checker.check_model(parsed, full_check=True)
    return parsed


@pytest.mark.parametrize("target", ["openvino", "tensorrt", "tflite", "onnxruntime"])
def test_integer_operators_become_float_ones_between_pairs(target: str) -> None:
    source = qlinear()
    after = recovered(source, target).model
    assert {n.op_type for n in after.graph.node} == {
        "Conv", "MaxPool", "Flatten", "MatMul", "QuantizeLinear", "DequantizeLinear"
    }  # fmt: skip
    assert [f for f in check(after, target) if f.severity == "error"] == []
    feeds = random_feeds(source)
    assert sqnr(run(source, feeds), run(after, feeds)) > (20 if target == "tensorrt" else 30)


def test_lowering_alone_is_exact_up_to_one_step() -> None:
    source = qlinear()
    lowered = graphopt.optimize(source, passes="lower-integer-operators").model
    assert not [n for n in lowered.graph.node if n.op_type.startswith("QLinear")]
    feeds = random_feeds(source)
    (before,), (after,) = run(source, feeds), run(lowered, feeds)
    assert np.abs(before - after).max() <= 0.5 * 1.001  # one step of the output


def test_recover_plan_needs_a_target() -> None:
    graph = graphopt.load(model(NET, f"{SHAPE} x", "float[1,8] y", **NET_WEIGHTS))
    with pytest.raises(graphopt.ConfigError, match="needs a target"):
        RecoverPlan().run(graph, Context())


def test_the_result_is_saved_and_never_over_the_input(tmp_path: Path) -> None:
    planted = Planted(clean("tensorrt", "net"))
    planted.set_value("x_zero_point", 3)
    source, output = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(planted.model, source)
    with pytest.raises(graphopt.ConfigError, match="would overwrite the input"):
        graphopt.repair(source, "tensorrt", output=source)
    graphopt.repair(source, "tensorrt", output=output)
    assert graphopt.lint(output, "tensorrt") == []


def test_another_tools_default_int8_model_is_built_in_int8_by_tensorrt(tmp_path: Path) -> None:
    """onnxruntime.quantization with its defaults, on the bundled model."""
    pytest.importorskip("tensorrt_rtx")
    quantization = pytest.importorskip("onnxruntime.quantization")
    from graphopt.backends.planned import planned_nodes
    from graphopt.backends.tensorrt import precision

    root = Path(__file__).parents[2] / "calibration_data"
    folded, quantized = tmp_path / "folded.onnx", tmp_path / "quantized.onnx"
    graphopt.optimize(root / "digits_cnn.onnx", preset="float").save(folded)
    images = iter([{"image": row[None]} for row in np.load(root / "calibration.npz")["image"][:16]])

    class Reader(quantization.CalibrationDataReader):  # pyright: ignore[reportUntypedBaseClass]  # it has no stubs
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(images, None)

    quantization.quantize_static(str(folded), str(quantized), Reader())
    before = graphopt.lint(quantized, "tensorrt")
    assert {"bias-int32", "activation-zero-point"} <= {f.rule for f in before}
    repaired = graphopt.repair(quantized, "tensorrt")
    assert repaired.after == []
    planned = [p for p in planned_nodes(repaired.graph, graphopt.find_target("tensorrt")) if p.linear]
    assert len(planned) == 8
    built = precision(repaired.model, planned)
    assert built.missed == []
    feeds = {"image": np.load(root / "validation.npz")["image"][:32]}
    original = onnx.load(quantized)
    assert sqnr(run(original, feeds), run(repaired.model, feeds)) > 15
