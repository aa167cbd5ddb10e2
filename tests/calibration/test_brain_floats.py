"""Models in bfloat16 run on the CPU: each result is that of float32, rounded."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from onnx import numpy_helper

from graphopt.calibration.brain_floats import in_float32
from graphopt.calibration.session import open_session
from graphopt.ir import to_proto
from graphopt.passes.insert_casts import InsertCasts
from graphopt.pipeline import Context
from graphopt.targets import find_target
from tests.passes.test_insert_casts import chain, planned


def rounded(values: np.ndarray) -> np.ndarray:
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def mixed() -> onnx.ModelProto:
    """The second of three products in bfloat16."""
    graph = planned({"m1": "bfloat16"}, chain(3))
    InsertCasts().run(graph, Context(target=find_target("tensorrt")))
    graph.sort()
    return to_proto(graph)


def test_the_result_is_rounded(tmp_path: Path) -> None:
    net = mixed()
    onnx.save(net, tmp_path / "mixed.onnx")
    x = np.random.default_rng(0).normal(size=(1, 8, 32)).astype(np.float32)
    weights = {i.name: numpy_helper.to_array(i) for i in chain(3).graph.initializer}
    wanted = rounded(rounded(x @ weights["w0"]) @ rounded(weights["w1"])) @ weights["w2"]
    for model in (net, tmp_path / "mixed.onnx"):
        (found,) = open_session(model, optimize=False).run(None, {"x": x})
        # Sums differ in their last bits, so that a few values are rounded to the other side.
        assert np.median(np.abs(found - wanted)) <= 1e-5 * np.abs(wanted).max()
        # onnxruntime's own rewrites leave out Casts there and back.
        (found,) = open_session(model).run(None, {"x": x})
        np.testing.assert_allclose(found, wanted, atol=2**-7 * np.abs(wanted).max())


def test_a_model_whose_inputs_and_outputs_are_bfloat16() -> None:
    net = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 22]> g (bfloat16[2,4] x) => (bfloat16[2,4] y) { a = Mul(x, x) y = Exp(a) }'
    )
    after = in_float32(net)
    onnx.checker.check_model(after, full_check=True)
    assert [v.type.tensor_type.elem_type for v in (*after.graph.input, *after.graph.output)] == [16, 16]
    assert [n.op_type for n in after.graph.node] == ["Cast", "Mul", "Cast", "Cast", "Exp", "Cast"]


def test_other_models_are_left_alone() -> None:
    net = chain(1)
    assert in_float32(net) is net
