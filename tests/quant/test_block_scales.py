"""Scales in blocks against onnx's reference, a fine search and brute force."""

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt.quant import QuantParams, Scheme, dequantize, quantize
from graphopt.quant.block_scales import block_scheme, solve_blocks


def dequantized_by_onnx(q: NDArray[Any], params: QuantParams) -> NDArray[np.float32]:
    """What onnx's reference makes of a DequantizeLinear-21 with these constants."""
    inputs = {"q": q, "s": params.scale, "z": params.zero_point}
    node = helper.make_node(
        "DequantizeLinear", [*inputs], ["y"], axis=params.scheme.channel_axis, block_size=params.scheme.block
    )
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, list(q.shape))
    stored = [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in inputs.items()]
    graph = helper.make_graph([node], "g", [], [output], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    found: Any = ReferenceEvaluator(model).run(None, {})  # pyright: ignore[reportUnknownMemberType]  # onnx's own
    return found[0]


def per_block(values: NDArray[Any], axis: int, block: int) -> NDArray[np.float64]:
    """Sums over the blocks of an axis, the last of which may be shorter."""
    parts = np.split(values.astype(np.float64), list(range(block, values.shape[axis], block)), axis)
    return np.stack([part.sum(axis) for part in parts], axis)


def weight(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_t(4, shape).astype(np.float32)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("shape", "axis", "block"), [((64, 5), 0, 16), ((5, 64), 1, 32), ((3, 37, 4), 1, 16)])
def test_what_it_stands_for_is_what_onnx_says(shape: tuple[int, ...], axis: int, block: int, symmetric: bool) -> None:
    params = solve_blocks(w := weight(0, *shape), block_scheme(axis, block, symmetric=symmetric))
    assert params.scale.shape == (*shape[:axis], -(-shape[axis] // block), *shape[axis + 1 :])
    q = quantize(w, params)
    assert (q.dtype.name, q.shape) == ("int4" if symmetric else "uint4", shape)
    found = dequantize(q, params)
    np.testing.assert_array_equal(found, dequantized_by_onnx(q, params))
    assert np.linalg.norm(found - w) < 0.15 * np.linalg.norm(w)


@given(st.integers(0, 10_000), st.integers(1, 70), st.sampled_from([4, 16, 32]), st.booleans())
def test_no_block_is_worse_than_without_clipping(seed: int, size: int, block: int, symmetric: bool) -> None:
    w, scheme = weight(seed, size, 3), block_scheme(0, block, symmetric=symmetric)
    errors: list[NDArray[np.float64]] = []
    for search in (True, False):
        params = solve_blocks(w, scheme, search=search)
        errors.append(per_block((dequantize(quantize(w, params), params).astype(np.float64) - w) ** 2, 0, block))
    assert (errors[0] <= errors[1] * (1 + 1e-5) + 1e-12).all()


def test_close_to_the_best_of_a_fine_search() -> None:
    w = weight(3, 32, 40)
    params = solve_blocks(w, block_scheme(0, 32))
    found = ((dequantize(quantize(w, params), params) - w) ** 2).sum(axis=0)
    for column, error in zip(w.T.astype(np.float64), found, strict=True):
        scales = np.abs(column).max() / 7 * np.linspace(0.3, 1.1, 4000)[:, None]
        least = ((scales * np.clip(np.rint(column / scales), -8, 7) - column) ** 2).sum(axis=1).min()
        assert error <= 1.08 * least


def test_a_zero_point_serves_blocks_that_lie_on_one_side() -> None:
    w = np.abs(weight(4, 64, 8))
    errors = [
        np.linalg.norm(dequantize(quantize(w, params), params) - w)
        for params in (solve_blocks(w, block_scheme(0, 32, symmetric=symmetric)) for symmetric in (True, False))
    ]
    assert errors[1] < 0.6 * errors[0]


def test_a_negative_scale_where_the_other_side_needs_the_integer_more() -> None:
    w, scheme = weight(9, 64, 40), block_scheme(0, 32)
    squares = {
        signed: per_block((dequantize(quantize(w, p), p).astype(np.float64) - w) ** 2, 0, 32)
        for signed, p in ((s, solve_blocks(w, scheme, signed=s)) for s in (False, True))
    }
    assert (squares[True] <= squares[False]).all()
    assert squares[True].sum() < 0.93 * squares[False].sum()
    params = solve_blocks(w, scheme, signed=True)
    assert 0.3 < (params.scale < 0).mean() < 0.7
    np.testing.assert_array_equal(
        dequantize(quantize(w, params), params), dequantized_by_onnx(quantize(w, params), params)
    )
    asymmetric = solve_blocks(w, block_scheme(0, 32, symmetric=False), signed=True)
    assert (asymmetric.scale > 0).all()


def test_important_weights_are_not_clipped() -> None:
    w = weight(5, 32, 1)
    w[7] = 3 * np.abs(w).max()
    importance = np.full(32, 1e-4)
    importance[7] = 1.0
    plain, weighted = (solve_blocks(w, block_scheme(0, 32), importance=given) for given in (None, importance))
    lost = [abs(float((dequantize(quantize(w, p), p) - w)[7, 0])) for p in (plain, weighted)]
    assert lost[1] < 0.1 * lost[0]


def test_a_block_of_zeros_stays_zero() -> None:
    w = weight(6, 32, 2)
    w[:16] = 0
    for symmetric in (True, False):
        params = solve_blocks(w, block_scheme(0, 16, symmetric=symmetric))
        assert not dequantize(quantize(w, params), params)[:16].any()
        assert (params.scale > 0).all()


def test_eight_bits_in_blocks() -> None:
    w, scheme = weight(7, 40, 3), Scheme("int8", symmetric=True, channel_axis=0, block=16)
    params = solve_blocks(w, scheme)
    assert np.abs(dequantize(quantize(w, params), params) - w).max() < 0.01 * np.abs(w).max()


@pytest.mark.parametrize("block", [0, -1])
def test_a_block_has_a_size(block: int) -> None:
    with pytest.raises(ValueError, match="blocks of"):
        block_scheme(0, block)
    with pytest.raises(ValueError, match="not a scheme in blocks"):
        solve_blocks(weight(0, 4, 4), Scheme("int4", symmetric=True, channel_axis=0))
