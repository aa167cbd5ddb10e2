"""Another tool's weight grid: kept exactly where int8 can hold it, else the nearer of two."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper

import graphopt
from graphopt.analysis.legality.grid import Grid
from graphopt.ir import Constant
from graphopt.passes._kept_weights import kept_range
from graphopt.quant import Scheme, solve_params
from tests.support.foreign import IMAGE, build, grid, noise, pair

SCHEME = Scheme("int8", symmetric=True, channel_axis=0, narrow=True)


def scales(integers: np.ndarray, scale: object, zero: int, dtype: object = np.uint8, axis: int | None = None) -> object:
    """The scales that are kept for a weight of these integers."""
    array = np.asarray(scale, np.float32).astype(np.float64)
    shape = (-1, *[1] * (integers.ndim - 1)) if axis == 0 else array.shape
    values = ((integers.astype(np.float64) - zero) * array.reshape(shape)).astype(np.float32)
    node = build("y = Relu(x)", "float[1] x", "float[1] y", {}).graph.node[0]
    given = Grid(node, "w", np.dtype(dtype), array, np.full(array.shape, zero, np.float64), axis, False)  # pyright: ignore[reportArgumentType]  # its node isn't looked at
    found = kept_range(Constant("w", values), given, SCHEME)
    return None if found is None else solve_params(found, SCHEME).scale


def test_unsigned_integers_within_127_steps_keep_their_scale() -> None:
    integers = np.array([[3, 130, 255], [1, 128, 200]], np.uint8)
    np.testing.assert_array_equal(scales(integers, 0.037, 128), np.full(2, np.float32(0.037)))


def test_a_channel_that_reaches_further_gets_a_coarser_scale_and_the_others_keep_theirs() -> None:
    integers = np.array([np.linspace(0, 255, 64).astype(np.uint8), np.full(64, 100, np.uint8)])
    kept = np.asarray(scales(integers, 0.01, 100))
    np.testing.assert_allclose(kept, [155 * 0.01 / 127, 0.01], rtol=1e-6)


def test_one_value_beyond_the_end_is_saturated_when_that_is_nearer() -> None:
    rng = np.random.default_rng(0)
    integers = rng.integers(-127, 128, (1, 400)).astype(np.int8)
    integers[0, 0] = -128
    assert np.asarray(scales(integers, [0.02], 0, np.int8, 0)) == np.float32(0.02)


@pytest.mark.parametrize(("scale", "axis"), [([0.1, 0.2, 0.3], 1), (0.0, None)])
def test_a_grid_that_says_nothing_keeps_nothing(scale: object, axis: int | None) -> None:
    assert scales(np.zeros((2, 3), np.uint8), scale, 0, axis=axis) is None


def test_unsigned_weights_of_a_whole_model_are_the_same_numbers_afterwards() -> None:
    weight = noise(8, 4, 3, 3)
    scale = np.float32(np.abs(weight).max() / 127)
    integers = (np.rint(weight / scale) + 128).astype(np.uint8)
    values = {"W": integers, "W_s": scale, "W_z": np.uint8(128), **grid("x", 0.04, 128, np.uint8)}
    body = f"Wd = DequantizeLinear(W, W_s, W_z)\n{pair('x', 'x', 'xd')}\ny = Conv(xd, Wd)"
    fixed = graphopt.repair(build(body, IMAGE, "float[N,8,6,6] y", values), "openvino").model
    stored = {i.name: numpy_helper.to_array(i) for i in fixed.graph.initializer}
    conv = next(n for n in fixed.graph.node if n.op_type == "Conv")
    made = next(n for n in fixed.graph.node if conv.input[1] in n.output)
    assert helper.get_node_attr_value(made, "axis") == 0
    after, scales_after = stored[made.input[0]], stored[made.input[1]]
    np.testing.assert_array_equal(after.astype(int), integers.astype(int) - 128)
    np.testing.assert_array_equal(scales_after, np.full(8, scale))
