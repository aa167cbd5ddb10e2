"""Rows that a layer reads, against the layer itself run by onnxruntime; moments against all rows at once."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphopt.calibration import moments as module
from graphopt.calibration.moments import InputMoments, InputVariance, blocks_of
from graphopt.calibration.windows import Windows
from graphopt.ir import from_proto
from graphopt.ir.linear import Linear, linear_view
from tests.support.rewrite import run


def layer(op: str, weight: tuple[int, ...], **attrs: Any) -> tuple[onnx.ModelProto, np.ndarray]:
    values = np.random.default_rng(0).normal(size=weight).astype(np.float32)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"], **attrs)],
        "g",
        [value("x", onnx.TensorProto.FLOAT, None)],
        [value("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), values


def view(model: onnx.ModelProto) -> Linear:
    graph = from_proto(model)
    linear = linear_view(graph, graph.nodes[0])
    assert linear is not None
    return linear


CASES = [
    ("Conv", (8, 3, 3, 3), (2, 3, 9, 8), {"strides": [2, 1], "pads": [1, 0, 1, 2]}),
    ("Conv", (8, 2, 3, 3), (2, 4, 9, 8), {"group": 2, "dilations": [2, 1], "pads": [1, 1, 1, 1]}),
    ("Conv", (4, 1, 3, 3), (2, 4, 9, 8), {"group": 4, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", (4, 1, 4), (2, 4, 9), {"group": 4, "auto_pad": "SAME_LOWER", "strides": [2]}),
    ("Conv", (4, 2, 1, 1), (2, 2, 5, 5), {"auto_pad": "VALID"}),
    ("Conv", (3, 2, 2, 2, 2), (1, 2, 4, 4, 4), {}),
    ("ConvTranspose", (4, 2, 3, 3), (2, 4, 5, 6), {"group": 2, "strides": [2, 2], "pads": [1, 1, 0, 1]}),
    ("ConvTranspose", (4, 2, 3, 3), (2, 4, 5, 6), {"strides": [2, 3], "output_padding": [1, 0]}),
    ("ConvTranspose", (4, 2, 2, 2), (2, 4, 5, 6), {"dilations": [1, 2], "pads": [2, 2, 2, 2]}),
    ("Gemm", (4, 8), (3, 4), {}),
    ("Gemm", (8, 4), (4, 3), {"transA": 1, "transB": 1}),
    ("MatMul", (4, 8), (2, 3, 4), {}),
]


@pytest.mark.parametrize(("op", "weight", "data", "attrs"), CASES)
def test_rows_times_weights_are_the_layers_result(
    op: str, weight: tuple[int, ...], data: tuple[int, ...], attrs: dict[str, Any]
) -> None:
    model, values = layer(op, weight, **attrs)
    x = np.random.default_rng(1).normal(size=data).astype(np.float32)
    expected = run(model, {"x": x})[0]
    linear = view(model)
    windows = Windows.of(linear)
    per_group = linear.by_output_channel(values).reshape(windows.groups, -1, windows.width)
    found = np.einsum("gpk,grk->pgr", windows.rows(x), per_group).reshape(-1, linear.out_channels)
    wanted = np.moveaxis(expected, linear.output_channel_axis, -1).reshape(-1, linear.out_channels)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("count", "most"), [(100, 10), (64, 63), (97, 50), (5, 9)])
def test_chosen_rows_are_different_positions_spread_over_all(count: int, most: int) -> None:
    windows = Windows(1, 2, -1)
    x = np.stack([np.arange(count), np.zeros(count)], axis=1)
    for start in range(5):
        positions = windows.rows(x, most, start)[0, :, 0]
        assert len(np.unique(positions)) == len(positions) == min(count, most)
        if most < count:
            assert np.diff(np.sort(positions)).max() <= 4 * count / most
    assert not np.array_equal(windows.rows(x, 3, 0), windows.rows(x, 3, 1)) or count < 10


def moments_of(samples: list[np.ndarray], exact: list[np.ndarray] | None = None) -> InputMoments:
    model, _ = layer("Conv", (4, 2, 3, 3), group=2, pads=[1, 1, 1, 1])
    found = InputMoments(Windows.of(view(model)), len(samples))
    for number, x in enumerate(samples):
        found.update(x, None if exact is None else exact[number])
    return found


def test_moments_are_those_of_all_rows() -> None:
    rng = np.random.default_rng(2)
    exact = [rng.normal(1, 2, size=(1, 4, 6, 5)).astype(np.float32) for _ in range(5)]
    noisy = [x + rng.normal(0.1, 0.1, size=x.shape).astype(np.float32) for x in exact]
    windows = moments_of(noisy).windows
    for half, chosen in ((None, slice(None)), (0, slice(0, None, 2)), (1, slice(1, None, 2))):
        found = moments_of(noisy, exact).moments(half)
        assert found is not None
        assert found.shift is not None
        x = np.concatenate([windows.rows(s).astype(np.float64) for s in exact[chosen]], axis=1)
        q = np.concatenate([windows.rows(s).astype(np.float64) for s in noisy[chosen]], axis=1)
        np.testing.assert_allclose(found.second, np.einsum("gpk,gpl->gkl", q, q) / q.shape[1], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.shift, np.einsum("gpk,gpl->gkl", x - q, q) / q.shape[1], rtol=1e-3, atol=1e-5)
        around = q - q.mean(axis=1, keepdims=True)
        centred = moments_of(noisy, exact).moments(half, centred=True)
        assert centred is not None
        np.testing.assert_allclose(
            centred.second, np.einsum("gpk,gpl->gkl", around, around) / q.shape[1], rtol=1e-3, atol=1e-4
        )
        assert centred.shift is not None
        np.testing.assert_allclose(
            centred.shift, np.einsum("gpk,gpl->gkl", x - q, around) / q.shape[1], rtol=1e-3, atol=1e-4
        )


def test_one_sample_has_no_second_half() -> None:
    found = moments_of([np.ones((1, 4, 6, 5), np.float32)])
    assert found.moments(0) is not None
    assert found.moments(1) is None


def test_few_rows_of_a_large_input_tell_its_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_ROWS", 400)
    rng = np.random.default_rng(3)
    samples = [rng.normal(size=(1, 4, 40, 40)).astype(np.float32) for _ in range(4)]
    found = moments_of(samples).moments()
    assert found is not None
    np.testing.assert_allclose(found.second, np.broadcast_to(np.eye(18), (2, 18, 18)), atol=0.3)


def test_variance_is_that_of_each_number() -> None:
    model, _ = layer("Gemm", (4, 8))
    x = np.random.default_rng(4).normal(3, [1, 2, 0, 4], size=(60, 4)).astype(np.float32)
    found = InputVariance(Windows.of(view(model)), 3)
    for part in np.split(x, 3):
        found.update(part)
    np.testing.assert_allclose(found.variance(), x.astype(np.float64).var(axis=0)[None], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("width", "kernel", "blocks"),
    [(1152, (), 1), (2304, (3, 3), 2), (25088, (), 28), (2309, (), 2309), (1152 * 3, (1,), 3)],
)
def test_wide_rows_are_cut_into_equal_blocks(width: int, kernel: tuple[int, ...], blocks: int) -> None:
    assert blocks_of(Windows(1, width, 1, kernel)) == blocks
