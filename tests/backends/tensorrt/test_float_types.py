"""In which float type TensorRT-RTX computes what: read from plans of models that have several."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphopt.backends.planned import planned_nodes
from graphopt.backends.tensorrt import precision
from graphopt.backends.tensorrt.build import build
from graphopt.errors import UnsupportedError
from graphopt.ir import load
from graphopt.targets import find_target
from graphopt.targets.tensorrt import TENSORRT

HALF, BRAIN = np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)


def network(body: str, inputs: str, outputs: str, **constants: np.ndarray) -> onnx.ModelProto:
    """A model of opset 22, whose nodes are named after their first output."""
    net = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 22]> g ({inputs}) => ({outputs}) {{{body}}}')
    net.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    for node in net.graph.node:
        node.name = node.output[0]
    onnx.checker.check_model(net, full_check=True)
    return net


def noise(dtype: np.dtype, *shape: int) -> np.ndarray:
    return np.random.default_rng(shape).normal(size=shape).astype(dtype)


def found(net: onnx.ModelProto, capability: str = "SM86") -> dict[str, tuple[str, str]]:
    """Name → (planned in, computed in)."""
    planned = planned_nodes(load(net, min_opset=1), find_target("tensorrt"))
    nodes = precision(net, planned, capability=capability).nodes
    return {n.planned.name: (n.planned.precision, n.precision) for n in nodes}


@pytest.mark.parametrize("capability", ["SM80", "SM89"])
def test_types_of_layers_and_of_what_is_between(capability: str) -> None:
    net = network(
        """
        a = MatMul(x, w1) ra = Relu(a)
        f = Cast<to=1>(ra) b = MatMul(f, w2) s = Softmax(b) g = Cast<to=16>(s)
        c = MatMul(g, w3) e = Exp(c) y = Cast<to=1>(e)
        """,
        "float16[8,32] x", "float[8,32] y",
        w1=noise(HALF, 32, 32), w2=noise(np.dtype(np.float32), 32, 32), w3=noise(BRAIN, 32, 32),
    )  # fmt: skip
    assert found(net, capability) == {
        name: (type_, type_)
        for name, type_ in (
            ("a", "float16"), ("ra", "float16"), ("b", "float32"), ("c", "bfloat16"), ("e", "bfloat16")
        )
    }  # fmt: skip


def test_a_product_of_one_row() -> None:
    """Generated code, not a matrix kernel: its weights tell."""
    weights = noise(HALF, 64, 10)
    body = "a = Relu(x) f = Cast<to=10>(a) y = MatMul(f, w)"
    assert found(network(body, "float[1,64] x", "float16[1,10] y", w=weights))["y"] == ("float16", "float16")


def test_in_a_model_of_one_float_type_nobody_decides() -> None:
    net = network("a = MatMul(x, w)", "float[8,8] x", "float[8,8] a", w=noise(np.dtype(np.float32), 8, 8))
    assert found(net) == {}


BODIES = {
    "ConvTranspose": ("y = ConvTranspose(x, w)", (1, 4, 8, 8), (4, 4, 2, 2)),
    "GRU": ("y = GRU<hidden_size=4>(x, w, w)", (3, 1, 4), (1, 12, 4)),
    "HardSwish": ("y = HardSwish(x)", (1, 8), (1,)),
    "LpNormalization": ("y = LpNormalization(x)", (1, 8), (1,)),
    "Mish": ("y = Mish(x)", (1, 8), (1,)),
}


@pytest.mark.parametrize("op", sorted(TENSORRT.precisions["bfloat16"].without))
def test_operators_that_lack_bfloat16(op: str) -> None:
    body, shape, weight = BODIES[op]

    def builds(dtype: np.dtype, name: str) -> bool:
        net = onnx.parser.parse_model(
            f'<ir_version: 10, opset_import: ["": 22]> g ({name}{list(shape)} x) => ({name} y) {{{body}}}'
        )
        net.graph.output[0].type.tensor_type.ClearField("shape")
        net.graph.initializer.append(numpy_helper.from_array(noise(dtype, *weight), "w"))
        try:
            return build(net, "SM86").plan is not None
        except UnsupportedError:
            return False

    assert builds(HALF, "float16")
    assert not builds(BRAIN, "bfloat16")
