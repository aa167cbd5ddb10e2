"""Several samples in a model call: the same bits, or none of it."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt.calibration import budget, collect, input_specs, load_dataset, observer
from graphopt.calibration.budget import LANES, batch_size
from graphopt.calibration.rebatch import is_one_row, rebatch
from graphopt.calibration.rows import Batch, Grouping
from graphopt.calibration.session import open_session
from graphopt.calibration.shapes import infer
from graphopt.errors import CalibrationError, ConfigError, UnsupportedError
from tests.calibration.test_collector import NET, observe, parse, results
from tests.calibration.test_collector_passes import NAMES, bits

RNG = np.random.default_rng(11)
KINDS = ["minmax", "ema", "histogram"]
ROWS = RNG.normal(size=(21, 3, 9, 9)).astype(np.float32)
FLAT = RNG.normal(size=(19, 4)).astype(np.float32)
WEIGHT = RNG.normal(size=(4, 4)).astype(np.float32)


@pytest.fixture
def calls(monkeypatch):
    """The number of samples in each model call, as onnxruntime got them."""
    made = []
    run = observer.run_session

    def counting(session, feed, where, outputs):
        made.append(len(next(iter(feed.values()))))
        return run(session, feed, where, outputs)

    monkeypatch.setattr(observer, "run_session", counting)
    return made


def both(model, names, data, kind="histogram", size=8):
    """Statistics in batches and one by one, and what was said."""
    said = []
    got = observe(model, names, data, kind=kind, batch_size=size, note=said.append)
    return bits(got), bits(observe(model, names, data, kind=kind, batch_size=1)), said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2, 5, 8, 21, 100])
def test_batches_give_the_bits_of_single_samples(kind, size, calls):
    got, single, said = both(NET, NAMES, {"x": ROWS}, kind, size)
    assert got == single
    assert said == []
    whole = 21 // size
    # The samples of the first batch are run again; what doesn't fill a batch is run one by one.
    expected = [size] * whole + [1] * (size if whole else 0) + [1] * (21 - whole * size)
    assert sorted(calls[: len(expected)]) == sorted(expected)
    assert calls[len(expected) :] == [1] * 21


def test_batches_are_what_is_chosen_for_a_small_network(calls):
    observe(NET, NAMES, {"x": ROWS})
    assert set(calls) == {1}  # too few to check a batch for
    observe(NET, NAMES, {"x": np.concatenate([ROWS] * 2)})
    assert calls.count(8) == 5


MIXING = {
    "mean over the batch": "g (float[1,4] x) => (float[1,4] y) { n = Neg(x) y = ReduceMean<axes=[0], keepdims=1>(n) }",
    "softmax over the batch": "g (float[1,4] x) => (float[1,4] y) { n = Neg(x) y = Softmax<axis=0>(n) }",
    "running sum": "g (float[1,4] x) => (float[1,4] y) { n = Neg(x) y = CumSum(n, zero) }",
    "a row that is constant": "g (float[1,4] x) => (float[1,4] y) { y = Mul(w, w) n = Add(x, y) }",
    "axes swapped, then mixed": "g (float[1,4] x) => (float[4,4] y) { n = Transpose(x) y = MatMul(n, x) }",
    "a fixed size": "g (float[1,4] x) => (float[2,2] y) { n = Neg(x) y = Reshape(n, two) }",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", MIXING)
def test_a_model_that_mixes_samples_is_run_one_by_one(kind, what, calls):
    model = parse(MIXING[what], w=WEIGHT[:1], zero=np.int64(0), two=np.array([2, 2]))
    data = {"x": FLAT}
    got, single, said = both(model, ["x", "n", "y"], data, kind)
    assert got == single
    assert len(said) == 1
    assert said[0].startswith("samples are run one by one: ")
    assert "'y'" in said[0] or "onnxruntime failed" in said[0]
    assert calls.count(8) == 1  # the try
    evaluator = ReferenceEvaluator(model)
    lows = [evaluator.run(None, {"x": row[None]})[0].min() for row in FLAT]
    assert observe(model, ["y"], data, batch_size=8)["y"].low == pytest.approx(min(lows), rel=1e-5)


def test_a_batch_of_which_one_row_alone_tells(calls):
    """The others are right in a batch, too: the sum stays what it was."""
    model = parse(MIXING["running sum"], zero=np.int64(0))
    data = np.zeros((8, 4), np.float32)
    data[4, 1], data[5, 1] = 1, -1
    _, _, said = both(model, ["y"], {"x": data})
    assert "'y' has other values in a batch of 8 samples" in said[0]


@pytest.mark.parametrize("constant", ["initializer", "node"])
def test_a_fixed_leading_one_of_a_reshape(constant, calls):
    shape = "s = Constant<value_ints=[1, 2, 2]>()" if constant == "node" else ""
    given = {} if constant == "node" else {"s": np.array([1, 2, 2])}
    model = parse(
        f"g (float[1,4] x) => (float[1,2,2] y) {{ {shape} n = Neg(x) y = Reshape(n, s) z = MatMul(y, y) }}", **given
    )
    before = model.SerializeToString(deterministic=True)
    got, single, said = both(model, ["x", "z"], {"x": FLAT})
    assert (got, said) == (single, [])
    assert calls.count(8) == 2
    assert model.SerializeToString(deterministic=True) == before


def test_only_reshapes_of_one_row_are_changed():
    """`t` is read by a Reshape of the batch, by one of weights with a row of their own, and by one that can't."""
    model = parse(
        """g (float[1,4] x) => (float[1,2,2] a) {
            a = Reshape(x, t)
            w2 = Transpose(w)
            b = Reshape(w2, t)
            c = Reshape<allowzero=1>(x, t)
        }""",
        opset=14,
        t=np.array([1, 2, 2]),
        w=np.zeros((2, 2), np.float32),
    )
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    rebatch(changed, ["x"], infer(model, {"x": (1, 4)}))
    assert [node.input[1] for node in changed.graph.node if node.op_type == "Reshape"] == ["t_any_batch", "t", "t"]
    values = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in changed.graph.initializer}
    assert (values["t"], values["t_any_batch"]) == ([1, 2, 2], [0, 2, 2])
    session = open_session(changed)
    x = FLAT[:1]
    assert np.array_equal(session.run(["a"], {"x": x})[0], x.reshape(1, 2, 2))
    assert is_one_row([(1, 4), (1,)])
    assert not is_one_row([(1, 4), ()])
    assert not is_one_row([(2, 4)])


def test_symbolic_batches(calls):
    model = parse("g (float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", w=WEIGHT)
    got, single, _ = both(model, ["x", "y"], {"x": FLAT})
    assert got == single
    assert 8 in calls


def test_samples_of_several_rows_stay_as_they_are(calls):
    model = parse("g (float[2,4] x) => (float[2,4] y) { y = Neg(x) }")
    got, single, said = both(model, ["y"], {"x": FLAT[:18]})
    assert (got, said) == (single, [])
    assert set(calls) == {2}


def test_ragged_samples_only_go_with_neighbours_of_their_shape(calls):
    model = parse("g (float[N,C] x) => (float[N,C] y) { y = Neg(x) }")
    widths = [3, 3, 3, 3, 5, 3, 3, 5, 5, 5]
    data = [{"x": RNG.normal(size=(1, width)).astype(np.float32)} for width in widths]
    got = observe(model, ["y"], data, kind="ema", batch_size=3)["y"]
    assert got.lows.tolist() == [float((-feed["x"]).min()) for feed in data]
    # Three of width 3, checked; the fourth, 5, 3 and 3 alone; three of width 5, a shape to check again.
    assert calls[:4] == [3, 1, 1, 1]
    assert sorted(calls[4:]) == [1] * 7 + [3]


def test_grouping():
    grouping = Grouping(3, 4)
    wide, narrow = {"x": np.zeros((1, 5))}, {"x": np.zeros((1, 3))}
    handed = [grouping.add(feed) for feed in (wide, wide, narrow, narrow, narrow, wide)]
    assert [[(b.first, len(b.feeds)) for b in batches] for batches in handed] == [
        [], [], [(4, 1), (5, 1)], [], [(6, 3)], []
    ]  # fmt: skip
    assert grouping.waiting == 1
    assert [(b.first, len(b.feeds)) for b in grouping.rest()] == [(9, 1)]
    assert (grouping.waiting, grouping.rest()) == (0, [])
    assert Batch(0, (wide, wide)).stacked()["x"].shape == (2, 5)


def test_a_recurrent_network_with_the_batch_on_its_second_axis(calls):
    """Stacked on axis 0, samples of one step become the steps of one sequence: seen from the last row."""
    rnn = parse(
        "g (float[T,1,4] x) => (float[T,D,1,4] y) { y, h = RNN<hidden_size=4>(x, w, r) }",
        opset=14, w=WEIGHT[None], r=WEIGHT[None] / 4,
    )  # fmt: skip
    steps = FLAT[:, None, None, :]
    got, single, said = both(rnn, ["y", "h"], [{"x": step} for step in steps])
    assert got == single
    assert "one by one" in said[0]
    inside = parse(
        """g (float[1,3,4] x) => (float[3,1,1,4] y) {
            t = Transpose<perm=[1,0,2]>(x)
            y = RNN<hidden_size=4>(t, w, r)
        }""",
        opset=14, w=WEIGHT[None], r=WEIGHT[None] / 4,
    )  # fmt: skip
    sequences = {"x": RNG.normal(size=(19, 3, 4)).astype(np.float32)}
    for kind in KINDS:
        got, single, said = both(inside, ["t"], sequences, kind)
        assert (got, said) == (single, [])
    assert calls.count(8) > 2
    got, single, _ = both(inside, ["t", "y"], sequences)  # onnxruntime may round more rows otherwise, or not
    assert got == single


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("bad", "workers"), [(0, 1), (3, 1), (7, 1), (12, 1), (18, 1), (12, 2)])
def test_a_sample_in_a_batch_is_named(kind, bad, workers):
    model = parse("g (float[1,4] x) => (float[1,4] y) { l = Log(x) m = Neg(l) y = Neg(m) }")
    x = np.ones((19, 4), np.float32)
    x[bad, 0] = -1
    with pytest.raises(CalibrationError, match=rf"sample {bad}: tensor 'l' .*holds NaN"):
        observe(model, ["l", "m", "y"], {"x": x}, kind=kind, batch_size=8, workers=workers)


def test_a_state_that_holds_one_row(calls):
    model = parse(
        "g (float[1,3,4] x) => (float[3,1,1,4] y) { t = Transpose<perm=[1,0,2]>(x) y = RNN<hidden_size=4>(t, w, r) }",
        opset=14, w=WEIGHT[None], r=WEIGHT[None], h0=np.zeros((1, 1, 4), np.float32),
    )  # fmt: skip
    model.graph.node[1].input.extend(["", "", "h0"])
    got, single, said = both(model, ["y"], {"x": RNG.normal(size=(19, 3, 4)).astype(np.float32)})
    assert got == single
    assert "samples are run one by one: calibration data, samples 0 to 7: onnxruntime failed" in said[0]


def test_a_model_that_can_not_be_loaded_with_another_batch(monkeypatch):
    def refusing(model, **options):
        if model.model.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
            raise UnsupportedError("onnxruntime can't load the model")
        return open_session(model, **options)

    expected = bits(observe(NET, NAMES, {"x": ROWS}, kind="histogram"))
    monkeypatch.setattr(observer, "open_session", refusing)
    got, single, said = both(NET, NAMES, {"x": ROWS})
    assert got == single == expected
    assert said == ["samples are run one by one: onnxruntime can't load the model"]


def test_sizes_of_batches():
    assert batch_size(1 << 10, 1 << 30) == 8
    assert batch_size(4 << 20, 1 << 30) == 4
    assert batch_size(67 << 20, 1 << 30) == 1
    assert batch_size(67 << 20, 1 << 30, wanted=4) == 4
    assert batch_size(1 << 20, LANES * 3 << 20, wanted=8) == 3
    assert batch_size(0, 100, wanted=3) == 3
    assert [batch_size(1 << 10, 1 << 30, count) for count in (1, 31, 32, 1000)] == [1, 1, 8, 8]
    assert batch_size(1 << 10, 1 << 30, count=3, wanted=2) == 2
    with pytest.raises(ConfigError, match="batch size is 0"):
        collect(NET, ["x"], load_dataset({"x": ROWS}, input_specs(NET)), batch_size=0)


def test_progress_and_results_do_not_depend_on_batches_or_workers():
    names = ["x", *results(NET)]
    steps = []
    got = observe(
        NET, names, {"x": ROWS}, kind="histogram", batch_size=4, workers=3,
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert steps == [(k, 21) for k in range(1, 22)]
    backwards = {"x": ROWS[::-1]}
    assert bits(got) == bits(observe(NET, names, backwards, kind="histogram", batch_size=5, threads=1))


def test_large_tensors_are_reduced_in_the_graph(calls, monkeypatch):
    fetched = observe(NET, NAMES, {"x": ROWS}, kind="ema")
    del calls[:]
    monkeypatch.setattr(budget, "REDUCED_BYTES", 1000)
    got = observe(NET, NAMES, {"x": ROWS}, kind="ema", batch_size=8)
    assert calls == [1] * 21
    for name in NAMES:
        assert np.allclose(got[name].lows, fetched[name].lows, rtol=1e-5)
        assert np.allclose(got[name].highs, fetched[name].highs, rtol=1e-5)
