"""Repair against what is known to be possible: exact recovery, least squares on all rows, never worse than nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from graphopt.analysis.coupling.find import couple
from graphopt.calibration import Feed
from graphopt.ir import Graph, fixed_value, to_proto
from graphopt.passes import _refit_layer as module
from graphopt.passes._channel_removal import remove_channels
from graphopt.passes._refit import Repaired, refit_layers
from graphopt.pipeline import Context
from tests.support.coupling import graph_of
from tests.support.rewrite import run

Array = NDArray[Any]


def feeds_of(shape: Sequence[int], count: int, seed: int = 7, **others: Sequence[int]) -> list[Feed]:
    rng = np.random.default_rng(seed)
    shapes = {"x": shape, **others}
    return [{name: rng.normal(size=tuple(s)).astype(np.float32) for name, s in shapes.items()} for _ in range(count)]


class Pruned:
    """A graph, its units of some groups removed, and both models' results."""

    def __init__(self, graph: Graph, feeds: list[Feed], **gone: Sequence[int]) -> None:
        self.graph, self.feeds = graph, feeds
        self.reference = to_proto(graph)
        coupling = couple(graph)
        keep: dict[str, Any] = {}
        for tensor, units in gone.items():
            group = next(g for g in coupling.removable if g.name == f"{tensor}:1")
            keep[group.name] = ~np.isin(np.arange(group.units), units)
        self.kept = coupling.kept(keep)
        remove_channels(graph, coupling, keep)
        self.plain = onnx.ModelProto.FromString(to_proto(graph).SerializeToString())
        self.ctx = Context(threads=1)

    def repair(self, **options: Any) -> tuple[Repaired, ...]:
        found = refit_layers(self.graph, self.ctx, self.reference, self.kept, self.feeds, **options)
        onnx.checker.check_model(to_proto(self.graph), full_check=True)
        return found

    def error(self, model: onnx.ModelProto, feeds: list[Feed] | None = None) -> float:
        """Squared error of the results, over the variance of the float model's around each channel's mean."""
        wanted = np.concatenate([run(self.reference, feed)[0] for feed in feeds or self.feeds]).astype(np.float64)
        found = np.concatenate([run(model, feed)[0] for feed in feeds or self.feeds])
        centred = wanted - wanted.mean(axis=(0, *range(2, wanted.ndim)), keepdims=True)
        return float(np.square(wanted - found).sum() / np.square(centred).sum())

    @property
    def repaired(self) -> onnx.ModelProto:
        return to_proto(self.graph)

    def said(self, kind: str) -> list[str]:
        return [remark.message for remark in self.ctx.remarks.items if remark.kind == kind]


def doubled(*shape: int, of: int, to: int, axis: int = 0) -> Array:
    """Noise whose index `to` along an axis is that of `of`."""
    values = np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)
    front = np.moveaxis(values, axis, 0)
    front[to] = front[of]
    return values


TWICE = {"of": 1, "to": 4}
IMAGE = (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("body", "values"),
    [
        ("a = Conv(x, w, b)  r = Relu(a)  y = Conv<pads=[1,1,1,1]>(r, v, c)", {"v": (4, 6, 3, 3), "c": (4,)}),
        ("a = Conv(x, w, b)  r = Sigmoid(a)  y = Conv(r, v)", {"v": (4, 6, 2, 2)}),
        ("a = Conv(x, w, b)  r = Relu(a)  y = ConvTranspose<strides=[2,2]>(r, v, c)", {"v": (6, 4, 3, 3), "c": (4,)}),
        (
            """a = Conv(x, w, b)  r = Relu(a)  p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(r)  f = Flatten(p)
            y = Gemm<alpha=0.5,beta=2.0,transB=1>(f, v, c)""",
            {"v": (5, 96), "c": (5,)},
        ),
        (
            "a = Conv(x, w, b)  r = Relu(a)  d = Conv<group=6>(r, k, e)  s = Relu(d)  y = Conv(s, v, c)",
            {"k": doubled(6, 1, 3, 3, **TWICE), "e": doubled(6, **TWICE), "v": (4, 6, 1, 1), "c": (4,)},
        ),
    ],
    ids=["conv", "no-bias", "transposed", "gemm", "depthwise"],
)
def test_a_channel_that_another_is_a_copy_of_can_be_taken_out_for_nothing(body: str, values: dict[str, Any]) -> None:
    kernel = 1 if "Flatten" in body else 3
    weights = {"w": doubled(6, 3, kernel, kernel, **TWICE), "b": doubled(6, **TWICE)}
    graph = graph_of(body, "float[1,3,8,8] x", _result(body), **weights, **values)
    # A Gemm reads one row a sample, and needs more of them than it has inputs.
    found = Pruned(graph, feeds_of(IMAGE, 200 if "Gemm" in body else 16), a=[4])
    assert found.error(found.plain) > 1e-3
    found.repair()
    largest = max(float(np.abs(run(found.reference, feed)[0]).max()) for feed in found.feeds)
    for feed in feeds_of(IMAGE, 4, seed=99):
        np.testing.assert_allclose(run(found.repaired, feed)[0], run(found.reference, feed)[0], atol=1e-3 * largest)
    assert found.error(found.repaired) < 1e-7


def _result(body: str) -> str:
    if "Gemm" in body:
        return "float[1,5] y"
    size = 13 if "Transpose" in body else 6 if "pads" in body else 5 if "Sigmoid" in body else 4
    return f"float[1,4,{size},{size}] y"


@pytest.mark.parametrize("biased", [True, False])
def test_a_matmul_is_fitted_as_least_squares_on_all_rows_does(biased: bool) -> None:
    body = "a = MatMul(x, w)  " + ("m = MatMul(a, v)  y = Add(m, c)" if biased else "y = MatMul(a, v)")
    values: dict[str, Any] = {"w": (4, 8), "v": (8, 5)} | ({"c": (5,)} if biased else {})
    graph = graph_of(body, "float[1,40,4] x", "float[1,40,5] y", **values)
    # Eight mixtures of four numbers: any four of them tell everything.
    coupling = couple(graph)
    (group,) = coupling.removable
    reference, keep = to_proto(graph), {group.name: np.arange(8) > 3}
    kept = coupling.kept(keep)
    remove_channels(graph, coupling, keep)
    feeds = feeds_of((1, 40, 4), 12)
    done = refit_layers(graph, Context(threads=1), reference, kept, feeds)
    assert [layer.left < 1e-3 < layer.lost for layer in done] == [True]
    for feed in feeds:
        np.testing.assert_allclose(run(to_proto(graph), feed)[0], run(reference, feed)[0], atol=0.05)
    assert [n.op for n in graph.nodes] == (["MatMul", "MatMul", "Add"] if biased else ["MatMul", "MatMul"])


def test_weights_are_the_ridge_solution_on_all_rows() -> None:
    graph = graph_of(
        "a = Conv(x, w)  y = Conv(a, v, c)", "float[1,8,8,8] x", "float[1,4,8,8] y",
        w=(8, 8, 1, 1), v=(4, 8, 1, 1), c=(4,),
    )  # fmt: skip
    found = Pruned(graph, feeds_of((1, 8, 8, 8), 64), a=[0, 3, 5])
    before = _weight(found.graph, "v")
    (done,) = found.repair()
    middle = np.stack([feed["x"][0] for feed in found.feeds]).astype(np.float64)
    kept = np.einsum("oi,sihw->sohw", _weight(found.graph, "w"), middle)
    rows = np.moveaxis(kept, 1, -1).reshape(-1, 5)
    wanted = np.stack([run(found.reference, feed)[0][0] for feed in found.feeds])
    targets = np.moveaxis(wanted, 1, -1).reshape(-1, 4).astype(np.float64)
    best = np.linalg.lstsq(rows - rows.mean(0), targets - targets.mean(0), rcond=None)[0].T
    residual = targets - targets.mean(0) - (rows - rows.mean(0)) @ best.T
    # 4,096 rows for 5 weights: hardly any damping is chosen.
    assert done.left == pytest.approx(np.square(residual).sum() / np.square(targets - targets.mean(0)).sum(), rel=1e-3)
    np.testing.assert_allclose(_weight(found.graph, "v"), best, atol=0.02 * np.abs(best).max())
    assert np.abs(best - before).max() > 0.1


def _weight(graph: Graph, name: str) -> Array:
    values = fixed_value(graph.tensors()[name])
    assert values is not None
    return values.astype(np.float64).reshape(len(values), -1)


RESIDUAL = """
    s = Conv<pads=[1,1,1,1]>(x, stem)  p = Relu(s)
    a = Conv<pads=[1,1,1,1]>(p, w1, b1)  r = Relu(a)  d = Conv<pads=[1,1,1,1]>(r, w2, b2)  t = Add(d, p)  q = Relu(t)
    e = Conv<pads=[1,1,1,1]>(q, w3, b3)  u = Relu(e)  f = Conv<pads=[1,1,1,1]>(u, w4, b4)  o = Add(q, f)  y = Relu(o)
"""


def residual_network() -> Graph:
    shapes: dict[str, Any] = {"stem": (8, 3, 3, 3)}
    for number, (out, read) in enumerate([(12, 8), (8, 12)] * 2, 1):
        shapes |= {f"w{number}": (out, read, 3, 3), f"b{number}": (out,)}
    rng = np.random.default_rng(0)
    scaled = {
        name: (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        for name, shape in shapes.items()
    }
    return graph_of(RESIDUAL, "float[1,3,8,8] x", "float[1,8,8,8] y", **scaled)


def test_a_residual_network_is_repaired_and_later_branches_make_up_for_earlier_ones() -> None:
    gone = {"a": [0, 1, 2, 3], "e": [0, 1, 2, 3]}
    found = Pruned(residual_network(), feeds_of(IMAGE, 48), **gone)
    done = found.repair()
    unseen = feeds_of(IMAGE, 16, seed=99)
    assert found.error(found.repaired, unseen) < 0.5 * found.error(found.plain, unseen)
    assert [layer.node for layer in done] == [n.name for n in found.graph.nodes if n.op == "Conv"][2:]
    assert all(layer.left < layer.lost for layer in done)
    # The last layer fitted to the sum leaves no more than it says, measured on the model's own output.
    assert found.error(found.repaired) == pytest.approx(done[-1].left, rel=0.05)


def test_counting_what_a_relu_cuts_off_helps() -> None:
    errors: list[float] = []
    for rounds in (0, 4):
        found = Pruned(residual_network(), feeds_of(IMAGE, 48), a=[0, 1, 2, 3], e=[0, 1, 2, 3])
        found.repair(rounds=rounds)
        errors.append(found.error(found.repaired, feeds_of(IMAGE, 16, seed=99)))
    assert errors[1] < errors[0]


def test_the_result_does_not_depend_on_the_units_numbers() -> None:
    graph = residual_network()
    names = np.random.default_rng(3).permutation(12)
    found = Pruned(graph, feeds_of(IMAGE, 24), a=[0, 1, 2])
    found.repair()
    other = residual_network()
    for weight, axis in (("w1", 0), ("b1", 0), ("w2", 1)):
        constant = next(c for c in other.constants if c.name == weight)
        other.set_values(constant, np.ascontiguousarray(np.take(constant.values, names, axis)))
    renamed = Pruned(other, found.feeds, a=np.flatnonzero(np.isin(names, [0, 1, 2])).tolist())
    renamed.repair()
    for feed in feeds_of(IMAGE, 3, seed=99):
        np.testing.assert_allclose(run(found.repaired, feed)[0], run(renamed.repaired, feed)[0], atol=5e-3)


def test_nothing_moves_where_nothing_is_lost() -> None:
    """Depthwise layers and readers of whole tensors see what they always saw."""
    graph = graph_of(
        "a = Conv(x, w)  r = Relu(a)  b = Conv(r, v)  d = Conv(x, k)  y = Concat<axis=1>(b, d)",
        "float[1,3,8,8] x", "float[1,8,8,8] y", w=(6, 3, 1, 1), v=(4, 6, 1, 1), k=(4, 3, 1, 1),
    )  # fmt: skip
    found = Pruned(graph, feeds_of(IMAGE, 8), a=[0])
    done = found.repair()
    assert [layer.node for layer in done] == [n.name for n in found.graph.nodes if n.outputs[0].name == "b"]


def test_a_weight_that_two_layers_read_stays() -> None:
    graph = graph_of(
        "a = Conv(x, w)  r = Relu(a)  b = Conv(r, v)  s = Sigmoid(a)  d = Conv(s, v)  y = Add(b, d)",
        "float[1,3,8,8] x", "float[1,4,8,8] y", w=(6, 3, 1, 1), v=(4, 6, 1, 1),
    )  # fmt: skip
    found = Pruned(graph, feeds_of(IMAGE, 8), a=[0])
    assert found.repair() == ()
    assert found.said("declined") == ["not refitted: its weight 'v' is read elsewhere, too"] * 2
    assert found.repaired == found.plain


def test_too_few_samples_leave_a_layer_no_worse_on_others() -> None:
    graph = graph_of(
        "a = MatMul(x, w)  r = Relu(a)  y = MatMul(r, v)", "float[1,1,64] x", "float[1,1,8] y", w=(64, 128), v=(128, 8)
    )
    coupling = couple(graph)
    (group,) = coupling.removable
    reference, keep = to_proto(graph), {group.name: np.arange(128) > 30}
    kept = coupling.kept(keep)
    remove_channels(graph, coupling, keep)
    plain = onnx.ModelProto.FromString(to_proto(graph).SerializeToString())
    refit_layers(graph, Context(threads=1), reference, kept, feeds_of((1, 1, 64), 6))
    unseen = feeds_of((1, 1, 64), 100, seed=99)
    wanted, before, after = (
        np.stack([run(m, f)[0] for f in unseen]).astype(np.float64) for m in (reference, plain, to_proto(graph))
    )
    assert np.square(wanted - after).mean() < 1.05 * np.square(wanted - before).mean()


def test_long_rows_get_a_factor_and_a_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WIDTH", 16)
    found = Pruned(residual_network(), feeds_of(IMAGE, 24), a=[0, 1, 2, 3])
    before = _weight(found.graph, "w2")
    found.repair()
    assert found.error(found.repaired) < found.error(found.plain)
    assert any("by a factor and a shift for each output channel" in text for text in found.said("applied"))
    ratio = _weight(found.graph, "w2") / before
    np.testing.assert_allclose(ratio, ratio[:, :1].repeat(ratio.shape[1], 1), rtol=1e-3)


def test_dynamic_batches_and_pruned_streams_are_fitted_to_the_channels_that_are_left() -> None:
    body = RESIDUAL + "g = GlobalAveragePool(y)  h = Flatten(g)  z = Gemm(h, v, c)"
    shapes = {f"w{n}": fixed_value(residual_network().tensors()[f"w{n}"]) for n in range(1, 5)}
    shapes |= {f"b{n}": fixed_value(residual_network().tensors()[f"b{n}"]) for n in range(1, 5)}
    stem = fixed_value(residual_network().tensors()["stem"])
    graph = graph_of(body, "float[N,3,8,8] x", "float[N,4] z", stem=stem, v=(8, 4), c=(4,), **shapes)
    found = Pruned(graph, feeds_of((2, 3, 8, 8), 32), s=[1, 6], a=[0, 1])
    done = found.repair()
    assert len(done) >= 4
    unseen = feeds_of((3, 3, 8, 8), 16, seed=99)
    assert found.error(found.repaired, unseen) < 0.5 * found.error(found.plain, unseen)
