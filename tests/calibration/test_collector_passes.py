"""Kinds of statistics, implied tensors, memory budget and providers."""

import numpy as np
import pytest

from graphopt.calibration import collect, input_specs, load_dataset, session
from graphopt.calibration.budget import chunks, default_budget, share
from graphopt.calibration.histogram import Histogram
from graphopt.calibration.implied import find_implied
from graphopt.calibration.shapes import infer
from graphopt.calibration.statistics import EmaMinMax, MinMax
from graphopt.errors import CalibrationError, ConfigError
from tests.calibration.test_collector import NET, RNG, SAMPLES, observe, parse, results

KINDS = ("minmax", "ema", "histogram")
NAMES = ["x", *results(NET)]
SHAPED = parse(
    """g (float[1,4,2,2] x) => (float[4,4] y, float[1,4,2,2] i) {
        n = Neg(x)
        i = Identity(n)
        d = DepthToSpace<blocksize=2>(i)
        r = Relu(d)
        f = Flatten<axis=3>(r)
        t = Transpose(f)
        s = Relu(t)
        m = MatMul(w, w)
        y = Add(m, t)
    }""",
    w=RNG.normal(size=(4, 4)).astype(np.float32),
)


def bits(statistics):
    return {
        name: {field: value.tobytes() for field, value in statistic.state().items()}
        for name, statistic in statistics.items()
    }


def fetched(model, names, stacked):
    """Each tensor's values from an unrewritten session, one list entry a sample."""
    copy = type(model)()
    copy.CopyFrom(model)
    keep = [name for name in names if name not in {value.name for value in model.graph.input}]
    del copy.graph.output[:]
    copy.graph.output.extend(type(model.graph.input[0])(name=name) for name in keep)
    plain = session.open_session(copy, optimize=False)
    runs = [{**feed, **dict(zip(keep, plain.run(keep, feed), strict=True))} for feed in feeds(model, stacked)]
    return {name: [run[name] for run in runs] for name in names}


def feeds(model, stacked):
    return list(load_dataset(stacked, input_specs(model)))


@pytest.mark.parametrize("kind", KINDS)
def test_implied_statistics_are_those_of_observing_everything(kind):
    x = {"x": RNG.normal(size=(5, 4, 2, 2)).astype(np.float32)}
    names = ["x", *results(SHAPED)[:7]]  # all but MatMul and Add: exact in every session
    got = observe(SHAPED, names, x, kind=kind)
    made = {"minmax": MinMax, "ema": EmaMinMax, "histogram": Histogram}[kind]
    expected = {name: made() for name in names}
    for name, values in fetched(SHAPED, names, x).items():
        for value in values:
            expected[name].update(value)
    assert bits(got) == bits(expected)
    implied = find_implied(SHAPED, names, through_relu=kind != "histogram")
    assert set(implied) == set("idrfts" if kind != "histogram" else "idft")


def test_implied_needs_its_source_to_be_asked_for_and_stops_at_other_operators():
    assert find_implied(NET, NAMES, through_relu=True).keys() == {"r", "s"}
    assert find_implied(NET, ["r", "p", "s"], through_relu=True) == {}
    assert find_implied(SHAPED, ["y", "m", "t"], through_relu=True) == {}
    through = find_implied(SHAPED, ["t", "n"], through_relu=True)["t"]
    assert (through.source, through.relu) == ("n", True)


def test_histograms_hold_every_value_and_the_extremes_of_minmax():
    got = observe(NET, NAMES, SAMPLES, kind="histogram")
    extremes = observe(NET, NAMES, SAMPLES)
    assert list(got) == NAMES
    for name, values in fetched(NET, NAMES, SAMPLES).items():
        assert got[name].count == sum(value.size for value in values)
        assert (got[name].low, got[name].high) == pytest.approx((extremes[name].low, extremes[name].high), rel=1e-5)
    assert bits(observe(NET, NAMES, {"x": SAMPLES["x"][::-1]}, kind="histogram")) == bits(got)


def test_ema_follows_the_order_of_the_samples():
    got = observe(NET, ["x"], SAMPLES, kind="ema")["x"]
    assert got.lows.tolist() == [float(x.min()) for x in SAMPLES["x"]]
    assert got.highs.tolist() == [float(x.max()) for x in SAMPLES["x"]]


def test_types_that_numpy_lacks_and_tensors_without_elements_have_histograms():
    model = parse("g (float[1,2] x) => (float[1,2] y) { h = Cast<to=16>(x) y = Cast<to=1>(h) }")
    got = observe(model, ["h"], {"x": np.array([[1.5, -3.0]], np.float32)}, kind="histogram")["h"]
    assert (got.low, got.high, got.count) == (-3.0, 1.5, 2)
    model = parse("g (float[N,3] x) => (int64[2,M] y) { y = NonZero(x) }")
    x = np.zeros((3, 1, 3), np.float32)
    for kind in KINDS:
        assert observe(model, ["y"], {"x": x}, kind=kind)["y"].is_empty
    text = parse("g (string[1] x) => (string[1] y) { y = Identity(x) }")
    with pytest.raises(CalibrationError, match=r"'y' is a tensor\(string\)"):
        observe(text, ["y"], {"x": np.array([["a"]])}, kind="histogram")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [0, 2])
def test_what_is_not_finite_is_traced_to_its_sample_and_tensor(kind, bad):
    model = parse("g (float[1,2] x) => (float[1,2] y) { l = Log(x) y = Neg(l) }")
    x = np.ones((3, 2), np.float32)
    x[bad, 0] = 0
    with pytest.raises(CalibrationError, match=rf"sample {bad}: tensor 'l' .*\[-inf, 0.0\]"):
        observe(model, ["l", "y"], {"x": x}, kind=kind)


def test_tensors_are_collected_in_chunks_when_they_do_not_fit():
    whole = observe(NET, NAMES, SAMPLES, kind="histogram")
    said, steps = [], []
    budget = 8 * 8 * 9 * 9 + 100  # twice one float32 [1, 8, 9, 9], and little more
    got = observe(
        NET, NAMES, SAMPLES, kind="histogram", memory_budget=budget, note=said.append,
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert list(got) == NAMES
    for name in NAMES:
        # A fetched tensor isn't fused into its reader, which may round otherwise.
        assert (got[name].low, got[name].high) == pytest.approx((whole[name].low, whole[name].high), rel=1e-5)
        assert got[name].count == whole[name].count
    passes = int(said[0].split()[0])
    assert passes > 2
    assert steps[-1] == (6 * passes, 6 * passes)
    assert [done for done, _ in steps] == list(range(1, 6 * passes + 1))


def test_chunks_keep_the_order_and_the_budget():
    sizes = {"a": 10, "b": 30, "c": 5, "d": 100, "e": 1}
    assert chunks(sizes, 1000) == [["a", "b", "c", "d", "e"]]
    assert chunks(sizes, 90) == [["a", "b", "c"], ["d"], ["e"]]
    assert default_budget() > 1 << 20
    with pytest.raises(ConfigError, match="budget is 0"):
        observe(NET, ["x"], SAMPLES, kind="histogram", memory_budget=0)


def test_sizes_are_those_of_the_sample():
    expected = {name: values[0].nbytes for name, values in fetched(NET, NAMES, SAMPLES).items()}
    assert infer(NET, {"x": (1, 3, 9, 9)}).sizes(NAMES) == expected
    dynamic = parse("g (float[N,C] x) => (float[N,C] y) { h = Neg(x) y = Abs(h) }")
    assert infer(dynamic, {"x": (3, 7)}).sizes(["h"]) == {"h": 84}


def test_threads_are_shared_and_providers_chosen():
    assert (share(None, 1), share(3, 1), share(4, 2), share(1, 4)) == (None, 3, 2, 1)
    got = observe(NET, ["x"], SAMPLES, providers=["CPUExecutionProvider"])
    assert bits(got) == bits(observe(NET, ["x"], SAMPLES))
    with pytest.raises(ConfigError, match="no execution provider 'CPUExecutionProvide' here: did you mean"):
        observe(NET, ["x"], SAMPLES, providers=["CPUExecutionProvide"])
    with pytest.raises(ConfigError, match="workers is 0"):
        collect(NET, ["x"], load_dataset(SAMPLES, input_specs(NET)), workers=0)
