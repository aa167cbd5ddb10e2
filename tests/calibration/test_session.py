"""Sessions of onnxruntime that open in spite of its own faults."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from graphopt.calibration.session import open_session, run_session

WEIGHTS = ",".join(str((i * 7) % 200 - 100) for i in range(256))


@pytest.mark.parametrize("opset", [20, 21, 24])
def test_int8_in_front_of_a_matmul_with_a_bias(opset: int) -> None:
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : {opset}]>
        g (float[2,10,32] x) => (float[2,10,8] y)
        <float s = {{0.05}}, int8 z = {{3}}, int8[32,8] w = {{{WEIGHTS}}}, float ws = {{0.01}}, int8 wz = {{0}},
         float[8] b = {{1,2,3,4,5,6,7,8}}> {{
          q = QuantizeLinear(x, s, z)
          d = DequantizeLinear(q, s, z)
          wd = DequantizeLinear(w, ws, wz)
          m = MatMul(d, wd)
          y = Add(m, b)
        }}"""
    )
    if opset > 20:  # the day it loads, the way around it can go
        with pytest.raises(Exception, match="output_dtype INT8 does not match y_zero_point type UINT8"):
            ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {"x": np.random.default_rng(0).normal(size=(2, 10, 32)).astype(np.float32)}
    (found,) = run_session(open_session(model), feed, "the sample")
    np.testing.assert_allclose(found, ReferenceEvaluator(model).run(None, feed)[0], rtol=1e-4, atol=1e-4)
