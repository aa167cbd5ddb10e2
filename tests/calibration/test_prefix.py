"""Models run piece by piece."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from graphopt.calibration.prefix import Prefix, affordable
from graphopt.errors import CalibrationError

RNG = np.random.default_rng(0)
HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
# Two branches that meet, a large weight, and a nested graph that reads a tensor from outside.
BODY = """
    a = MatMul(x, w)
    b = Relu(a)
    c = Mul(a, b)
    n = ReduceSum<keepdims=0>(c)
    t = Less(n, zero)
    d = If(t) <
        then_branch = one () => (float[N,64] p) { p = Neg(b) },
        else_branch = two () => (float[N,64] q) { q = Add(b, c) }
    >
    y = Sub(d, shift)
"""


def net() -> onnx.ModelProto:
    constants = {
        "w": np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32),
        "zero": np.zeros((), np.float32),
        "shift": np.ones((), np.float32),
    }
    parsed = onnx.parser.parse_model(f"{HEADER} g (float[N,64] x) => (float[N,64] y) {{ {BODY} }}")
    parsed.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in constants.items())
    return parsed


def expected(
    model: onnx.ModelProto, x: NDArray[np.float32], *, a: NDArray[np.float32] | None = None
) -> dict[str, NDArray[np.float32]]:
    w, _, shift = (numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    a = x @ w if a is None else a
    b = np.maximum(a, 0)
    c = a * b
    return {"a": a, "b": b, "c": c, "y": b + c - shift}


@pytest.fixture
def feeds() -> list[dict[str, NDArray[np.float32]]]:
    return [{"x": RNG.normal(size=(rows, 64)).astype(np.float32)} for rows in (1, 3, 2)]


@pytest.mark.parametrize("cuts", [("y",), ("a", "y"), ("b", "a", "c", "y"), ("c", "b", "y")])
def test_pieces_compute_what_the_model_does(cuts: tuple[str, ...], feeds: list[dict[str, NDArray[np.float32]]]) -> None:
    model = net()
    before = model.SerializeToString()
    prefix = Prefix(model, feeds)
    for tensor in cuts:
        for feed, value in zip(feeds, prefix.fetch([tensor])[0], strict=True):
            np.testing.assert_allclose(value, expected(model, feed["x"])[tensor], rtol=1e-4, atol=1e-4)
    assert model.SerializeToString() == before


def test_several_tensors_come_in_the_order_asked_for(feeds: list[dict[str, NDArray[np.float32]]]) -> None:
    model = net()
    c, a = Prefix(model, feeds).fetch(["c", "a"])
    np.testing.assert_allclose(c[1], expected(model, feeds[1]["x"])["c"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(a[1], expected(model, feeds[1]["x"])["a"], rtol=1e-4, atol=1e-4)


def test_what_comes_reads_what_a_tensor_was_replaced_by(feeds: list[dict[str, NDArray[np.float32]]]) -> None:
    model = net()
    prefix = Prefix(model, feeds)
    a = [value + 1 for value in prefix.fetch(["a"])[0]]
    prefix.replace("a", a)
    for feed, new, value in zip(feeds, a, prefix.fetch(["y"])[0], strict=True):
        np.testing.assert_allclose(value, expected(model, feed["x"], a=new)["y"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "size"), [("w", (64, 64)), ("shift", ())])
def test_a_constant_can_be_set_until_it_is_read(
    name: str, size: tuple[int, ...], feeds: list[dict[str, NDArray[np.float32]]]
) -> None:
    model, other = net(), net()
    values = RNG.normal(size=size).astype(np.float32)
    number = [tensor.name for tensor in other.graph.initializer].index(name)
    other.graph.initializer[number].CopyFrom(numpy_helper.from_array(values, name))
    prefix = Prefix(model, feeds)
    prefix.set_constant(name, values)
    for feed, value in zip(feeds, prefix.fetch(["y"])[0], strict=True):
        np.testing.assert_allclose(value, expected(other, feed["x"])["y"], rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="no initializer 'other'"):
        prefix.set_constant("other", values)


def test_what_nothing_reads_any_more_is_gone(feeds: list[dict[str, NDArray[np.float32]]]) -> None:
    prefix = Prefix(net(), feeds)
    prefix.fetch(["c"])
    with pytest.raises(ValueError, match="'x' isn't there any more"):
        prefix.fetch(["x"])
    with pytest.raises(ValueError, match="'nobody'"):
        prefix.fetch(["nobody"])


def test_a_sample_that_fails_is_named(feeds: list[dict[str, NDArray[np.float32]]]) -> None:
    feeds[2]["x"] = np.ones((2, 63), np.float32)
    with pytest.raises(CalibrationError, match="the samples, sample 2"):
        Prefix(net(), feeds).fetch(["a"])


def test_as_many_samples_as_fit() -> None:
    model = onnx.parser.parse_model(
        f"{HEADER} g (float[1,1000] x) => (float[1,1000] y) {{ a = Relu(x)\n b = Neg(a)\n c = Abs(b)\n y = Add(c, x) }}"
    )
    # x and one more tensor of 4,000 bytes are alive at a time, and both ends of the node between two.
    assert affordable(model, {"x": (1, 1000)}, 120_000) == 10
    assert affordable(model, {"x": (1, 1000)}, 1) == 1
