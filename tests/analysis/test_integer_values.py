"""What comes from integers: its bounds, the ranges it gets, and that ids which no sample had aren't clipped."""

from __future__ import annotations

from math import inf

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import graphopt
from graphopt.analysis.integer_values import Bounds, integer_values
from graphopt.ir import from_proto
from graphopt.targets import TARGETS
from tests.support.rewrite import run


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


TABLE = normal(64, 8)
TABLE[40:] *= 3  # rows that no sample asks for
CONSTANTS: dict[str, NDArray[np.generic]] = {
    "E": TABLE,
    "P": normal(4, 8, seed=1),
    "w": normal(8, 6, seed=2),
    "u": normal(4, 6, seed=3),
    "hot": normal(64, 6, seed=4),
    "mix": normal(8, 6, seed=5),
    "square": normal(4, 4, seed=6),
    "depth": np.asarray(64),
    "levels": np.array([0, 1], np.float32),
    "last": np.array([-1]),
    "ids": np.arange(64),
    "byte": np.asarray(1 / 255, np.float32),
    "k": np.asarray([-2, 0.5], np.float32),
    "zero": np.asarray(0, np.float32),
    "ten": np.asarray(10, np.float32),
}
IDS = "int64[N,4] x"


def net(body: str, inputs: str = IDS, output: str = "float[N,A,B] y") -> onnx.ModelProto:
    parsed = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 13]> g ({inputs}) => ({output}) {{ {body} }}'
    )
    used = {name for node in parsed.graph.node for name in node.input}
    for name, value in CONSTANTS.items():
        if name in used:
            parsed.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return onnx.shape_inference.infer_shapes(parsed, data_prop=True)


LOW, HIGH = float(TABLE.min()), float(TABLE.max())
PLACE = (float(CONSTANTS["P"].min()), float(CONSTANTS["P"].max()))
SUM = (LOW + PLACE[0], HIGH + PLACE[1])


@pytest.mark.parametrize(
    ("body", "inputs", "expected"),
    [
        ("y = Gather(E, x)", IDS, (LOW, HIGH)),
        ("e = Gather(E, x) y = Add(e, P)", IDS, SUM),
        ("e = Gather(E, x) y = Mul(e, ten)", IDS, (10 * LOW, 10 * HIGH)),
        (
            "e = Gather(E, x) f = Gather(P, x) y = Sub(e, f)",
            IDS,
            (LOW - CONSTANTS["P"].max(), HIGH - CONSTANTS["P"].min()),
        ),
        ("y = OneHot<axis=-1>(x, depth, levels)", IDS, (0, 1)),
        ("a = Unsqueeze(x, last) q = Equal(a, ids) y = Cast<to=1>(q)", IDS, (0, 1)),
        ("q = Equal(x, last) i = Cast<to=7>(q) y = Cast<to=1>(i)", IDS, (0, 1)),
        ("c = Cast<to=1>(x) y = Unsqueeze(c, last)", IDS, (-inf, inf)),
        ("c = Cast<to=1>(x) d = Clip(c, zero, ten) y = Unsqueeze(d, last)", IDS, (0, 10)),
        ("c = Cast<to=1>(x) d = Mul(c, byte) y = Relu(d)", IDS, (-inf, inf)),
        ("c = Cast<to=1>(x) y = Sin(c)", IDS, (-1, 1)),
        ("c = Cast<to=1>(x) y = Mul(c, byte)", "uint8[N,3,4] x", (0, 1)),
        ("c = Cast<to=1>(x) y = Mul(c, k)", "int8[N,3,2] x", (-254, 256)),
        ("c = Cast<to=1>(x) y = Concat<axis=1>(h, c)", f"{IDS}, float[N,4] h", (-inf, inf)),
        ("c = Cast<to=1>(x) y = Concat<axis=1>(h, c)", "bool[N,4] x, float[N,4] h", (0, 1)),
        ("c = Cast<to=1>(x) y = Add(h, c)", f"{IDS}, float[N,4] h", (-inf, inf)),
        ("c = Cast<to=1>(x) y = Add(h, c)", "bool[N,4] x, float[N,4] h", None),
        ("c = Cast<to=1>(x) y = MatMul(c, u)", IDS, None),
        ("y = Gather(h, x)", f"{IDS}, float[9,4] h", None),
        ("y = Exp(h)", f"{IDS}, float[9,4] h", None),
    ],
)
def test_bounds(body: str, inputs: str, expected: Bounds | None) -> None:
    graph = from_proto(net(body, inputs))
    found = integer_values(graph).get(graph.outputs[0])
    # No end is known of what has none on one side only.
    if "Relu" in body:
        assert found == (0, inf)
    elif expected is None:
        assert found is None
    else:
        assert found == pytest.approx(expected, rel=1e-6)


SEEN, ALL = 40, 64
# Body, and whether its one MatMul with ids behind runs in integers.
NETS = {
    "embedding": ("e = Gather(E, x) y = MatMul(e, w)", True),
    "embedding and position": ("e = Gather(E, x) p = Add(e, P) y = MatMul(p, w)", True),
    "one-hot": ("o = OneHot<axis=-1>(x, depth, levels) y = MatMul(o, hot)", True),
    "equal": ("a = Unsqueeze(x, last) q = Equal(a, ids) c = Cast<to=1>(q) y = MatMul(c, hot)", True),
    "ids as numbers": ("c = Cast<to=1>(x) y = MatMul(c, u)", False),
    "ids beside numbers": (
        "c = Cast<to=1>(x) h = MatMul(c, square) r = Sigmoid(h) j = Concat<axis=1>(r, c) y = MatMul(j, mix)",
        False,
    ),
}


def signal_db(reference: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    noise = np.mean((other - reference).astype(np.float64) ** 2)
    return float(10 * np.log10(reference.astype(np.float64).var() / max(noise, 1e-12)))


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt"])
@pytest.mark.parametrize("name", NETS)
def test_ids_that_no_sample_had_are_not_clipped(name: str, target: str) -> None:
    body, integer = NETS[name]
    model = net(body, output="float[N,A] y" if name.startswith("ids") else "float[N,A,B] y")
    rng = np.random.default_rng(7)
    samples, others = (rng.integers(low, high, (32, 4)) for low, high in ((0, SEEN), (SEEN, ALL)))
    result = graphopt.optimize(model, target=target, preset="int8", calibration_data={"x": samples})
    (reference,), (found,) = (run(m, {"x": others}) for m in (model, result.model))
    assert signal_db(reference, found) > 28
    assert [layer.integer for layer in result.report.layers if layer.op in ("Gemm", "MatMul")][-1] == integer
    messages = [r.message for r in result.report.remarks]
    assert integer or any("comes from integers" in message for message in messages)


@pytest.mark.parametrize("target", TARGETS)
def test_the_range_of_an_embedding_is_that_of_its_table_and_survives_saving(target: str) -> None:
    model = net(NETS["embedding"][0])
    samples = {"x": np.random.default_rng(7).integers(0, SEEN, (32, 4))}
    ranges = graphopt.calibrate(model, samples, target=target)
    (stored,) = [r for name, r in ranges.ranges.items() if name == "e"]
    assert (float(stored.low), float(stored.high)) == pytest.approx((LOW, HIGH))
    direct = graphopt.optimize(model, target=target, preset="int8", calibration_data=samples)
    again = graphopt.optimize(model, target=target, preset="int8", ranges=ranges)
    assert again.model.SerializeToString() == direct.model.SerializeToString()
