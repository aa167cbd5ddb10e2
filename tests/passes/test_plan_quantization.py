"""What plan-quantization says of operators that a target's table doesn't have."""

from __future__ import annotations

import pytest
from onnx import parser

from graphopt.ir import load
from graphopt.passes.plan_quantization import PlanQuantization
from graphopt.pipeline import Context, PassManager
from graphopt.targets import find_target

_MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[1,2,4,4] x) => (float[1,2,4,4] y, int64[4] s)
<float[2,2,1,1] w = {1,2,3,4}>
{
    c = Conv(x, w)
    r = Relu(c)
    h = HardSwish(r)
    e = Erf(h)
    f = Erf(e)
    s = Shape(f)
    y = Conv(f, w)
}
"""


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("onnxruntime", "in float, onnxruntime (CPU) has no integer kernels for them: 2 Erf, 1 HardSwish"),
        ("openvino", "in float, OpenVINO (CPU) has no integer kernels for them: 2 Erf"),
        ("tflite", "in float, TFLite / LiteRT has no integer kernels for them: 2 Erf"),
    ],
)
def test_operators_without_kernels_are_said(target: str, said: str) -> None:
    graph, ctx = load(parser.parse_model(_MODEL)), Context(target=find_target(target))
    PassManager([PlanQuantization()]).run(graph, ctx)
    assert [r.message for r in ctx.remarks.items if "no integer kernels" in r.message] == [said]
    assert graph.plan.float_nodes == {}
