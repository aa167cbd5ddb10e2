"""What keeps nodes out of 16 bits, planted one at a time; and what only looks as if it did."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphopt.analysis.precision.narrowing import narrowed
from graphopt.calibration import input_specs, load_dataset
from graphopt.calibration.float_fit import misfits
from graphopt.errors import CalibrationError
from graphopt.ir import fill_types, from_proto
from graphopt.ir.float_parameters import LOW_FLOATS, FloatParameters
from tests.support.quantization import model

HALF, BRAIN = LOW_FLOATS["float16"], LOW_FLOATS["bfloat16"]


def judge(net: onnx.ModelProto, x: np.ndarray | None, dtype: np.dtype = HALF, *, known: bool = False) -> dict[str, str]:
    """Operator (or its number, where there are several) of each node that doesn't fit → why."""
    graph = from_proto(net)
    fill_types(graph)
    samples = None if x is None else load_dataset({"x": x.astype(np.float32)}, input_specs(net))
    nodes: object = graph.nodes
    if known:
        found = {node: narrowed(graph, node, dtype) for node in graph.nodes}
        nodes = {node: p for node, p in found.items() if isinstance(p, FloatParameters)}
    reasons = misfits(graph, nodes, dtype, samples, threads=1)
    return {node.outputs[0].name: reason for node, reason in reasons.items()}


def put(net: onnx.ModelProto, **values: object) -> onnx.ModelProto:
    for name, value in values.items():
        tensor = next(i for i in net.graph.initializer if i.name == name)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, np.float32), name))
    return net


def noise(*shape: int, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    return scale * np.random.default_rng(seed).normal(size=shape)


def test_a_value_of_1e5_in_a_branch() -> None:
    """What writes it and what reads it; the other branch fits."""
    net = put(
        model(
            "a = Relu(x) big = Mul(a, k) s = Sigmoid(big) b = Neg(x) y = Add(s, b)", "float[1,8] x", "float[1,8] y", 0,
            k=(1,),
        ),
        k=[1e5],
    )  # fmt: skip
    x = np.full((2, 8), 1.0)
    found = judge(net, x)
    assert found.keys() == {"big", "s"}
    assert all("'big' reaches 1e+05" in reason for reason in found.values() if "holds" not in reason)
    assert judge(net, x, BRAIN) == {}
    assert judge(net, x, known=True).keys() == {"s"}  # what can't be narrowed isn't asked about again


def linear(op: str, size: int) -> onnx.ModelProto:
    """Products that cancel: weights of both signs, and an input that is 1 everywhere."""
    body, shape = {
        "MatMul": ("y = MatMul(f, w)", (size, 4)),
        "Gemm": ("y = Gemm<transB=1>(f, w)", (4, size)),
        "Conv": ("y = Conv<kernel_shape=[1]>(x, w)", (4, size, 1)),
    }[op]
    net = model(f"f = Flatten(x) {body}", f"float[1,{size},1] x", "float y", 0, w=shape)
    net.graph.output[0].type.tensor_type.ClearField("shape")
    axis = shape.index(size)
    signs = np.where(np.arange(size) % 2, 1.0, -1.0).reshape([-1 if k == axis else 1 for k in range(len(shape))])
    return put(net, w=np.broadcast_to(signs, shape))


@pytest.mark.parametrize("op", ["MatMul", "Gemm", "Conv"])
def test_products_that_overflow_on_the_way_though_the_result_fits(op: str) -> None:
    net = linear(op, 1024)
    fits, overflows = np.full((1, 1024, 1), 60.0), np.full((1, 1024, 1), 70.0)
    assert judge(net, fits) == {}
    # The result is 0 in both.
    found = judge(net, overflows)
    assert found.keys() == {"y"}
    assert found["y"].startswith("it adds up 1,024 products, whose magnitudes come to 7.17e+04")
    assert judge(net, overflows, BRAIN).keys() == ({"y"} if op == "Conv" else set())  # not defined in opset 13


def test_a_bound_that_is_reached_by_no_sample_doesn_t_count() -> None:
    """One large channel, whose weights are small: the largest value times all weights would be 4e6."""
    net = put(model("y = MatMul(x, w)", "float[1,512] x", "float[1,4] y", 0, w=(512, 4)), w=np.ones((512, 4)))
    x = noise(2, 512)
    x[:, 7] = 8000.0
    assert judge(net, x) == {}


def test_products_of_two_activations() -> None:
    net = model(
        "s = Mul(x, k) t = Transpose<perm=[0,2,1]>(s) y = MatMul(x, t)", "float[1,4,256] x", "float[1,4,4] y", 0,
        k=(256,),
    )  # fmt: skip
    put(net, k=np.where(np.arange(256) % 2, 1.0, -1.0))
    assert judge(net, np.full((1, 4, 256), 15.0)) == {}
    assert "it adds up 256 products" in judge(net, np.full((1, 4, 256), 17.0))["y"]


@pytest.mark.parametrize(
    "op",
    [
        "ReduceMean<axes=[2,3]>(x)",
        "ReduceSum(x)",
        "ReduceL1<axes=[3,2]>(x)",
        "GlobalAveragePool(x)",
        "AveragePool<kernel_shape=[64,64]>(x)",
    ],
)
def test_sums(op: str) -> None:
    net = model(f"y = {op}", "float[1,1,64,64] x", "float[1,1,1,1] y", 0)
    signs = np.where(np.arange(4096) % 2, 1.0, -1.0).reshape(1, 1, 64, 64)
    assert judge(net, 7.0 * signs) == {}
    found = judge(net, 17.0 * signs)["y"]
    sums = "it adds up 4,096 values up to 17, whose magnitudes come to 6.96e+04"
    assert (sums if "L1" not in op else "'y' reaches 6.96e+04") in found


def test_an_average_over_few_values_of_many() -> None:
    net = model("y = AveragePool<kernel_shape=[2,2]>(x)", "float[1,1,64,64] x", "float[1,1,63,63] y", 0)
    assert judge(net, np.full((1, 1, 64, 64), 10000.0)) == {}


@pytest.mark.parametrize("op", ["Log(a)", "Div(b, a)", "Sqrt(a)"])
def test_small_values_that_matter(op: str) -> None:
    net = model(f"a = Abs(x) b = Neg(x) y = {op}", "float[1,64] x", "float[1,64] y", 0)
    x = np.abs(noise(1, 64)) + 0.01
    assert judge(net, x) == {}
    x[0, 3] = 1e-9
    found = judge(net, x)
    if op == "Sqrt(a)":
        assert found == {}
    else:
        assert f"'a' holds 1e-09, which is 0 in float16, and {op[:3]} of 0 is infinite" in found["y"]
    x[0] = 1e-6
    x[0, :4] = 1.0
    assert "most of 'a' is below the smallest normal value" in judge(net, x)["y"]
    assert judge(net, x, BRAIN) == {}


def test_small_values_that_don_t_matter_and_zeros() -> None:
    net = model("a = Abs(x) y = Add(a, a)", "float[1,64] x", "float[1,64] y", 0)
    x = np.full((1, 64), 1e-9)
    x[0, 0] = 1.0
    assert judge(net, x) == {}
    zeros = np.where(np.arange(64) % 2, 1.0, 0.0)[None]
    assert judge(model("a = Abs(x) y = Sqrt(a)", "float[1,64] x", "float[1,64] y", 0), zeros) == {}
    assert "'a' is 1e-09 at most" in judge(net, np.full((1, 64), 1e-9))["y"]


def test_an_epsilon_of_1e_12() -> None:
    net = put(
        model("e = Add(x, eps) s = Sqrt(e) y = Div(x, s)", "float[1,64] x", "float[1,64] y", 0, eps=(1,)), eps=[1e-12]
    )
    found = judge(net, None)
    assert found == {"e": "'eps' is 1e-12 at most, which is 0 in float16"}
    # With samples in which it is all that keeps the Div from dividing by 0, its readers stay with it.
    assert judge(net, np.eye(1, 64)).keys() == {"e", "s", "y"}


def test_a_mask_of_infinities_is_that_in_every_type() -> None:
    net = model(
        "c = Greater(x, zero) m = Where(c, x, low) p = Softmax(m) y = Mul(p, k)", "float[1,8] x", "float[1,8] y", 0,
        zero=(1,), low=(1,), k=(1,),
    )  # fmt: skip
    put(net, zero=[0.0], low=[-np.inf], k=[1.0])
    x = np.linspace(-1, 1, 8)[None]
    assert judge(net, x) == {}
    assert judge(net, x * 1e5).keys() == {"c", "m", "p"}


def test_values_that_aren_t_numbers_are_an_error() -> None:
    net = model("y = Log(x)", "float[1,4] x", "float[1,4] y", 0)
    with pytest.raises(CalibrationError, match="made by Log"):
        judge(net, np.full((1, 4), -1.0))
