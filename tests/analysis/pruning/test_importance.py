"""Criteria against sums written out by hand; the greedy order against least squares of everything that is left."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.analysis.coupling.find import couple
from graphopt.analysis.coupling.groups import Group
from graphopt.analysis.pruning.elimination import Contraction, Ranking, eliminate
from graphopt.analysis.pruning.importance import IMPORTANCE, Evidence, find_importance, scored
from graphopt.calibration.rankings import importance, rankings
from graphopt.calibration.unit_evidence import unit_evidence
from graphopt.errors import CalibrationError, ConfigError
from graphopt.ir import Graph, fixed_value, to_proto
from tests.support.coupling import graph_of
from tests.support.rewrite import run

CHAIN = "a = Conv<pads=[1,1,1,1]>(x, w1, b1)  r = Relu(a)  y = Conv(r, w2)"


def chain(**values: Any) -> tuple[Graph, Group]:
    weights: dict[str, Any] = {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (4, 6, 1, 1)}
    graph = graph_of(CHAIN, "float[1,3,8,8] x", "float[1,4,8,8] y", **(weights | values))
    (group,) = couple(graph).removable
    return graph, group


def value(graph: Graph, name: str) -> np.ndarray:
    found = fixed_value(graph.tensors()[name])
    assert found is not None
    return found.astype(np.float64)


def samples(count: int = 8) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    return [{"x": rng.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


def score(graph: Graph, group: Group, name: str) -> np.ndarray:
    criterion = importance(name, samples=True)
    return rankings(graph, [group], criterion, samples() if criterion.needs else ())[group.name].scores


def of_mean(values: np.ndarray) -> np.ndarray:
    return values / values.mean()


def test_magnitudes_are_sums_over_the_weights_that_write_and_read_a_unit() -> None:
    graph, group = chain()
    w1, w2 = value(graph, "w1"), value(graph, "w2")
    l1 = [np.abs(w1[u]).sum() + np.abs(w2[:, u]).sum() for u in range(6)]
    l2 = [np.sqrt(np.square(w1[u]).sum() + np.square(w2[:, u]).sum()) for u in range(6)]
    np.testing.assert_allclose(score(graph, group, "l1"), of_mean(np.array(l1)))
    np.testing.assert_allclose(score(graph, group, "l2"), of_mean(np.array(l2)))


def test_fpgm_is_the_distance_to_all_other_filters() -> None:
    graph, group = chain()
    w1 = value(graph, "w1")
    far = [sum(np.linalg.norm(w1[u] - w1[v]) for v in range(6)) for u in range(6)]
    np.testing.assert_allclose(score(graph, group, "fpgm"), of_mean(np.array(far)), rtol=1e-6)


def test_activity_is_that_of_the_tensor_that_is_read() -> None:
    graph, group = chain()
    model = to_proto(graph)
    model.graph.output[0].name = "r"
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    read = np.stack([run(model, feed)[0] for feed in samples()]).astype(np.float64)
    np.testing.assert_allclose(score(graph, group, "activation"), of_mean(read.mean((0, 1, 3, 4))), rtol=1e-5)
    np.testing.assert_allclose(score(graph, group, "apoz"), of_mean((read != 0).mean((0, 1, 3, 4))), rtol=1e-9)
    reach = np.sqrt(np.square(read).mean((0, 1, 3, 4))) * np.abs(value(graph, "w2")).sum((0, 2, 3))
    np.testing.assert_allclose(score(graph, group, "wanda"), of_mean(reach), rtol=1e-4)


def test_bn_scale_reads_gamma_and_says_when_there_is_none() -> None:
    gamma = np.array([0.5, -3, 1, 2, 0.1, 1], np.float32)
    ones = np.ones(6, np.float32)
    graph = graph_of(
        "a = Conv(x, w1)  n = BatchNormalization(a, g, b, m, v)  r = Relu(n)  y = Conv(r, w2)",
        "float[1,3,8,8] x", "float[1,4,8,8] y", w1=(6, 3, 1, 1), w2=(4, 6, 1, 1), g=gamma, b=(6,), m=(6,), v=ones,
    )  # fmt: skip
    (group,) = couple(graph).removable
    np.testing.assert_allclose(score(graph, group, "bn-scale"), of_mean(np.abs(gamma.astype(np.float64))))
    with pytest.raises(ConfigError, match=r"needs BatchNormalization.*group 'a:1' has none"):
        score(*chain(), "bn-scale")


def test_lots_are_the_same_for_a_seed_and_differ_between_groups() -> None:
    graph = graph_of(
        "a = Conv(x, w1)  r = Relu(a)  b = Conv(r, w2)  s = Relu(b)  y = Conv(s, w3)",
        "float[1,3,8,8] x", "float[1,4,8,8] y", w1=(16, 3, 1, 1), w2=(16, 16, 1, 1), w3=(4, 16, 1, 1),
    )  # fmt: skip
    groups = couple(graph).removable
    first, again, other = (rankings(graph, groups, IMPORTANCE["random"], seed=seed) for seed in (0, 0, 1))
    assert [r.order.tolist() for r in first.values()] == [r.order.tolist() for r in again.values()]
    assert first["a:1"].order.tolist() != other["a:1"].order.tolist()
    assert first["a:1"].order.tolist() != first["b:1"].order.tolist()


def test_unknown_names_and_missing_samples_are_said() -> None:
    with pytest.raises(ConfigError, match="did you mean 'hessian'"):
        find_importance("hesian")
    with pytest.raises(ConfigError, match=r"'wanda' needs samples.*l1, l2"):
        importance("wanda", samples=False)
    assert importance(None, samples=False).name == "l2"
    assert importance(None, samples=True).name == "reconstruction"


def test_the_users_own_function_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_importance.py").write_text(
        "import numpy as np\n"
        "def backwards(evidence): return np.arange(evidence.group.units)[::-1].astype(float)\n"
        "def wrong(evidence): return [1.0]\n"
    )
    monkeypatch.chdir(tmp_path)
    graph, group = chain()
    criterion = importance("own_importance:backwards", samples=True)
    assert rankings(graph, [group], criterion, samples(2))[group.name].order.tolist() == [5, 4, 3, 2, 1, 0]
    with pytest.raises(ConfigError, match="has to give group 'a:1' 6 finite numbers"):
        rankings(graph, [group], importance("own_importance:wrong", samples=False))
    with pytest.raises(ConfigError, match="no function 'missing'"):
        importance("own_importance:missing", samples=False)
    sys.modules.pop("own_importance")


def test_scores_that_are_no_scores_are_refused() -> None:
    graph, group = chain()
    for bad in (np.full(6, np.nan), np.full(6, -1.0), np.ones(5)):
        with pytest.raises(ConfigError, match="importance 'mine'"):
            scored(lambda _, bad=bad: bad, "mine")(Evidence(graph, group))


# ---- greedy elimination ------------------------------------------------------------------------------------------


def left_over(x: np.ndarray, weights: np.ndarray, gone: Sequence[int], stays: Sequence[int]) -> float:
    """Squared error of the result without some inputs, after the best least-squares refit of the others."""
    wanted = x @ weights.T
    if not len(stays):
        return float(np.square(wanted).sum())
    fitted = np.linalg.lstsq(x[:, list(stays)], wanted, rcond=None)[0]
    return float(np.square(wanted - x[:, list(stays)] @ fitted).sum())


def inputs(rows: int = 400, width: int = 8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, width)) @ rng.normal(size=(width, width))


def contraction(x: np.ndarray, weights: np.ndarray, units: np.ndarray | range, energy: float = 1.0) -> Contraction:
    second = x.T @ x / len(x)
    return Contraction(weights, second, np.diagonal(second).copy(), np.array(units), energy)


@pytest.mark.parametrize("taps", [1, 2])
def test_each_step_takes_the_unit_that_least_squares_would(taps: int) -> None:
    units = 8 // taps
    x, y = inputs(), inputs(seed=1)
    w, v = np.random.default_rng(2).normal(size=(3, 8)), np.random.default_rng(3).normal(size=(5, 8))
    of = np.repeat(np.arange(units), taps)
    found = eliminate([contraction(x, w, of), contraction(y, v, of, 2.0)], units, damping=1e-12)
    gone: list[int] = []
    for unit, cost in zip(found.order, found.cost, strict=True):
        errors: dict[int, float] = {}
        for candidate in set(range(units)) - set(gone):
            out = np.flatnonzero(np.isin(of, [*gone, candidate])).tolist()
            kept = np.flatnonzero(~np.isin(of, [*gone, candidate])).tolist()
            errors[candidate] = left_over(x, w, out, kept) / len(x) + left_over(y, v, out, kept) / len(y) / 2
        assert unit == min(errors, key=errors.__getitem__)
        assert cost == pytest.approx(errors[int(unit)], rel=1e-6)
        gone.append(int(unit))


def test_a_unit_that_others_make_up_costs_nothing() -> None:
    x = inputs()
    x[:, 5] = 2 * x[:, 1] - x[:, 3]
    found = eliminate([contraction(x, np.random.default_rng(0).normal(size=(4, 8)), range(8))], 8, damping=1e-9)
    assert found.order[0] in (1, 3, 5)
    assert found.cost[0] < 1e-6 * found.cost[1]


def test_the_order_follows_the_units_however_they_are_numbered() -> None:
    x, w = inputs(), np.random.default_rng(0).normal(size=(4, 8))
    names = np.random.default_rng(1).permutation(8)
    plain, renamed = (eliminate([contraction(x, w, units)], 8) for units in (np.arange(8), names))
    assert names[plain.order].tolist() == renamed.order.tolist()
    np.testing.assert_allclose(plain.cost, renamed.cost, rtol=1e-9)


def test_other_groups_inputs_stand_in_and_uneven_units_work() -> None:
    x, w = inputs(), np.random.default_rng(0).normal(size=(4, 8))
    units = np.array([0, 0, 0, 1, 2, -1, -1, -1])
    found = eliminate([contraction(x, w, units)], 3, damping=1e-12)
    assert found.cost[-1] == pytest.approx(left_over(x, w, range(5), range(5, 8)) / len(x), rel=1e-6)


def test_scores_sort_and_add_up() -> None:
    found = Ranking.of(np.array([3.0, 1.0, 2.0, 1.0]))
    assert found.order.tolist() == [1, 3, 2, 0]
    assert found.cost.tolist() == [1, 2, 4, 7]
    assert found.scores.tolist() == [3, 1, 2, 1]


# ---- evidence ------------------------------------------------------------------------------------------------------


def test_reconstruction_sees_that_a_channel_is_a_copy() -> None:
    w1 = np.random.default_rng(5).normal(size=(6, 3, 3, 3)).astype(np.float32)
    b1 = np.random.default_rng(6).normal(size=6).astype(np.float32)
    w1[4], b1[4] = w1[2], b1[2]
    graph, group = chain(w1=w1, b1=b1)
    found = rankings(graph, [group], IMPORTANCE["reconstruction"], samples())[group.name]
    assert found.order[0] in (2, 4)
    # All gone: the result hasn't any of its variance left.
    assert found.cost[-1] == pytest.approx(1.0, rel=0.05)
    assert found.cost[0] < 0.01 * found.cost[-1]


READERS = {
    "conv": ("Conv<pads=[1,1,1,1],strides=[2,1]>(r, v, c)", {"v": (4, 6, 3, 3), "c": (4,)}, "float[1,4,4,8] y"),
    "grouped": ("Conv<group=2>(r, v, c)", {"v": (4, 3, 3, 3), "c": (4,)}, "float[1,4,6,6] y"),
    "transposed": ("ConvTranspose<strides=[2,2]>(r, v, c)", {"v": (6, 4, 3, 3), "c": (4,)}, "float[1,4,17,17] y"),
    "gemm": ("Flatten(r)  y = Gemm<transB=1>(f, v, c)", {"v": (5, 384), "c": (5,)}, "float[1,5] y"),
    "matmul": (
        "Transpose<perm=[0,2,3,1]>(r)  m = MatMul(f, v)  y = Add(m, c)", {"v": (6, 5), "c": (5,)}, "float[1,8,8,5] y"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", READERS)
def test_moments_say_what_the_result_loses_without_a_unit(kind: str) -> None:
    """Against onnxruntime: the variance of how the result differs when the unit is set to 0."""
    reader, values, result = READERS[kind]
    body = f"a = Conv(x, w1, b1)  r = Relu(a)  {'f' if kind in ('gemm', 'matmul') else 'y'} = {reader}"
    weights: dict[str, Any] = {"w1": (6, 3, 1, 1), "b1": (6,), **values}
    graph = graph_of(body, "float[1,3,8,8] x", result, **weights)
    group = next(g for g in couple(graph).removable if g.name.startswith("a:1"))
    feeds = samples(14)  # so that no position is left out
    (found,) = unit_evidence(graph, [group], {"activity", "moments"}, feeds, threads=1)
    model, whole = to_proto(graph), []
    whole = [run(model, feed)[0] for feed in feeds]
    axis = whole[0].ndim - 1 if kind == "matmul" else 1
    energy = float(np.concatenate(whole).var(axis=tuple(k for k in range(whole[0].ndim) if k != axis)).sum())
    w1, b1 = value(graph, "w1").astype(np.float32), value(graph, "b1").astype(np.float32)
    for unit in range(group.units):
        channels = group.members[next(s for s in group.members if s.tensor.name == "a")] == unit
        for name, values_ in (("w1", w1), ("b1", b1)):
            gone = values_.copy()
            gone[channels] = 0
            constant = next(c for c in graph.constants if c.name == name)
            graph.set_values(constant, gone)
        changed = np.concatenate([run(to_proto(graph), f)[0] - y for f, y in zip(feeds, whole, strict=True)])
        lost = float(changed.var(axis=tuple(k for k in range(changed.ndim) if k != axis)).sum())
        said = 0.0
        for problem in found.contractions:
            here = np.flatnonzero(problem.units == unit)
            part = problem.weight[:, here]
            said += float(np.sum((part @ problem.second[np.ix_(here, here)]) * part))
        # Moments have a floor of 1e-6 of their mean, which units that hardly vary show.
        assert said == pytest.approx(lost, rel=1e-2, abs=1e-4 * energy)
        assert all(problem.energy == pytest.approx(energy, rel=1e-2) for problem in found.contractions)


def test_values_that_are_not_finite_are_named() -> None:
    graph, group = chain()
    feeds = samples(2)
    feeds[1]["x"][0, 0, 0, 0] = np.inf
    with pytest.raises(CalibrationError, match=r"sample 1: tensor 'r': it holds NaN or infinity"):
        rankings(graph, [group], IMPORTANCE["reconstruction"], feeds)


def test_errors_in_a_branch_count_beside_the_sum_that_it_goes_into() -> None:
    body = "a = Conv(x, w1)  r = Relu(a)  b = Conv(r, w2)  big = Mul(x, hundred)  s = Add(b, big)  y = Relu(s)"
    shared: dict[str, Any] = {"w1": (6, 4, 1, 1), "w2": (4, 6, 1, 1)}
    feeds = [{"x": np.random.default_rng(i).normal(size=(1, 4, 8, 8)).astype(np.float32)} for i in range(4)]
    last: list[float] = []
    for factor in (0.0, 100.0):
        graph = graph_of(body, "float[1,4,8,8] x", "float[1,4,8,8] y", hundred=np.array(factor, np.float32), **shared)
        group = next(g for g in couple(graph).removable if g.name == "a:1")
        last.append(float(rankings(graph, [group], IMPORTANCE["reconstruction"], feeds)[group.name].cost[-1]))
    assert last[0] == pytest.approx(1.0, rel=0.05)
    assert last[1] < 0.01 * last[0]


def test_depthwise_layers_pass_units_on_and_are_no_readers() -> None:
    graph = graph_of(
        "a = Conv(x, w1)  d = Conv<group=6,pads=[1,1,1,1]>(a, wd)  r = Relu(d)  y = Conv(r, w2)",
        "float[1,3,8,8] x", "float[1,4,8,8] y", w1=(6, 3, 1, 1), wd=(6, 1, 3, 3), w2=(4, 6, 1, 1),
    )  # fmt: skip
    (group,) = couple(graph).removable
    seen: list[Evidence] = []

    def rank(evidence: Evidence) -> Ranking:
        seen.append(evidence)
        return Ranking.of(np.ones(6))

    found = IMPORTANCE["reconstruction"]
    rankings(graph, [group], type(found)("spy", "", rank, found.needs), samples(2))
    assert [(c.weight.shape, c.units.tolist()) for c in seen[0].contractions] == [((4, 6), [0, 1, 2, 3, 4, 5])]
    assert list(seen[0].activities) == ["r"]
    assert set(rankings(graph, [group], IMPORTANCE["hessian"], samples(2))) == {group.name}


def test_a_group_that_no_layer_sums_over_goes_by_its_variance() -> None:
    graph = graph_of(
        "a = Conv(x, w1)  r = Relu(a)  y = ReduceSum<keepdims=0>(r, axis)", "float[1,3,8,8] x", "float[1,8,8] y",
        w1=(6, 3, 1, 1), axis=np.array([1], np.int64),
    )  # fmt: skip
    (group,) = couple(graph).removable
    found = rankings(graph, [group], IMPORTANCE["reconstruction"], samples())[group.name]
    assert found.cost[-1] == pytest.approx(1.0)
    assert sorted(found.order.tolist()) == list(range(6))


def test_batches_cost_what_their_units_cost_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also behind the points where what is left is copied together."""
    x, w = inputs(width=48, rows=2000), np.random.default_rng(0).normal(size=(4, 48))
    units = np.repeat(np.arange(24), 2)
    units[::5] = -1
    batched = eliminate([contraction(x, w, units)], 24, damping=1e-9)
    monkeypatch.setattr("graphopt.analysis.pruning.elimination.BATCH", 1 / 4)
    quick = eliminate([contraction(x, w, units)], 24, damping=1e-9)
    for found in (batched, quick):
        for count in (1, 5, 12, 24):
            out = np.flatnonzero(np.isin(units, found.order[:count]))
            kept = np.setdiff1d(np.arange(48), out)
            assert found.cost[count - 1] == pytest.approx(
                left_over(x, w, out.tolist(), kept.tolist()) / len(x), rel=1e-4
            )
