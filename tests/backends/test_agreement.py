import math

import numpy as np
import onnx.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphopt.backends import agreement
from graphopt.backends.agreement import (
    compare_models,
    cosine,
    max_error,
    sqnr_db,
    top1,
    top1_agreement,
)
from graphopt.calibration import input_specs, load_dataset
from graphopt.errors import CalibrationError, ConfigError

RNG = np.random.default_rng(5)


def model(body, signature="float[N,3] x) => (float[N,3] y"):
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["":13]> g ({signature}) {{ {body} }}')


def data(of, **arrays):
    return load_dataset(arrays, input_specs(of))


def test_known_values():
    a = np.array([3.0, 4.0])
    assert sqnr_db(a, a + np.array([0.3, 0.4])) == pytest.approx(20)
    assert sqnr_db(a, -a) == pytest.approx(-20 * math.log10(2))
    assert cosine(a, -a) == -1
    assert cosine(a, np.array([-4.0, 3.0])) == 0
    assert max_error(a, np.array([3.0, 1.5])) == 2.5


def test_edges():
    zero, one = np.zeros(3), np.ones(3)
    assert sqnr_db(zero, zero) == sqnr_db(one, one) == math.inf
    assert sqnr_db(zero, one) == -math.inf
    assert (cosine(zero, zero), cosine(zero, one)) == (1, 0)
    assert max_error(np.zeros(0), np.zeros(0)) == 0
    nan, inf = np.array([1, np.nan, 1]), np.array([1, np.inf, 1])
    assert sqnr_db(nan, nan) == sqnr_db(inf, inf) == math.inf
    assert sqnr_db(one, nan) == sqnr_db(one, inf) == sqnr_db(inf, -inf) == sqnr_db(nan, inf) == -math.inf
    assert max_error(one, nan) == math.inf
    with pytest.raises(ValueError, match="can't be compared"):
        sqnr_db(one, np.ones(2))


def test_unsigned_differences_do_not_wrap():
    assert max_error(np.array([0], np.uint8), np.array([255], np.uint8)) == 255


@given(hnp.arrays(np.int8, 5), st.floats(0.125, 8))
def test_sqnr_and_cosine_ignore_a_common_scale(a, k):
    b = a[::-1].astype(np.float64)
    assert sqnr_db(a * k, b * k) == pytest.approx(sqnr_db(a, b), abs=1e-9)
    assert cosine(a, b) == pytest.approx(cosine(b, a), abs=1e-9)


def test_top1_flattens_all_but_the_rows():
    scores = np.zeros((2, 1000, 1, 1))
    scores[0, 7] = scores[1, 999] = 1
    assert top1(scores).tolist() == [7, 999]
    assert top1_agreement(np.eye(4), np.eye(4)[[0, 1, 3, 2]]) == 0.5
    assert math.isnan(top1_agreement(np.zeros((0, 3)), np.zeros((0, 3))))


def test_models_are_compared_over_all_samples_together():
    x = RNG.normal(size=(8, 3)).astype(np.float32)
    x[3] *= 100  # an average of per-sample ratios would differ
    a, b = model("y = Identity(x)"), model("c = Constant<value_float=1.5>() y = Add(x, c)")
    got = compare_models(a, b, data(a, x=x))
    (output,) = got.outputs
    y = (x + np.float32(1.5)).astype(np.float64)
    assert (got.samples, got.reference_accuracy, got.other_accuracy) == (8, None, None)
    assert output.sqnr_db == pytest.approx(10 * np.log10((x.astype(float) ** 2).sum() / ((x - y) ** 2).sum()))
    assert output.cosine == pytest.approx((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y))
    assert output.max_error == pytest.approx(1.5, rel=1e-4)
    assert output.relative_error == pytest.approx(output.max_error / np.abs(x).max())
    assert (output.name, output.top1_agreement, output.mismatched) == ("y", 1.0, 0)


def test_accuracy_with_labels():
    x = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    a, b = model("y = Identity(x)"), model("y = Neg(x)")
    dataset = data(a, x=x, labels=np.array([0, 1, 2, 1]))
    got = compare_models(a, b, dataset)
    # −x is largest in the first zero: 1, 0, 0, 1.
    assert (got.reference_accuracy, got.other_accuracy, got.outputs[0].top1_agreement) == (0.75, 0.25, 0.0)
    assert compare_models(a, a, dataset, labels=np.array([0, 0, 0, 0])).other_accuracy == 0.5
    with pytest.raises(CalibrationError, match="sample 2: 2 labels are too few"):
        compare_models(a, b, dataset, labels=np.array([0, 1]))


def test_labels_with_several_rows_a_call():
    a = model("y = Identity(x)", "float[2,3] x) => (float[2,3] y")
    x = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    got = compare_models(a, a, data(a, x=x, labels=np.array([0, 1, 2, 1])))
    assert (got.samples, got.reference_accuracy) == (2, 0.75)


def test_labels_need_scores():
    a = model("y = ReduceMax<keepdims=0>(x)", "float[N,3] x) => (float y")
    with pytest.raises(CalibrationError, match=r"shape \[\]; expected \[rows, classes\]"):
        compare_models(a, a, data(a, x=np.ones((1, 3), np.float32), labels=np.array([0])))


def test_outputs_are_matched_by_name():
    two = "float[N,3] x) => (float[N,3] y, float[N,3] z"
    swapped = "float[N,3] x) => (float[N,3] z, float[N,3] y"
    a, b = model("y = Neg(x) z = Abs(x)", two), model("y = Neg(x) z = Abs(x)", swapped)
    x = RNG.normal(size=(2, 3)).astype(np.float32)
    assert [o.sqnr_db for o in compare_models(a, b, data(a, x=x)).outputs] == [math.inf, math.inf]
    with pytest.raises(ConfigError, match="no output 'z'"):
        compare_models(a, model("y = Neg(x)"), data(a, x=x))


def test_outputs_of_different_shapes_are_counted_apart():
    a = model("y = NonZero(x)", "float[N,3] x) => (int64[2,M] y")
    b = model("h = Relu(x) y = NonZero(h)", "float[N,3] x) => (int64[2,M] y")
    x = np.array([[1, 1, 0], [1, -1, 0], [-1, 0, 0]], np.float32)
    (output,) = compare_models(a, b, data(a, x=x)).outputs
    assert (output.mismatched, output.sqnr_db) == (2, math.inf)
    (output,) = compare_models(a, b, data(a, x=x[2:])).outputs
    assert output.mismatched == 1
    assert math.isnan(output.sqnr_db)
    assert output.top1_agreement is None


def test_a_model_without_numbers():
    text = model("y = Identity(x)", "string[1] x) => (string[1] y")
    with pytest.raises(ConfigError, match="no numeric output"):
        compare_models(text, text, data(text, x=np.array([["a"]])))


@pytest.mark.parametrize(("keep", "runs"), [(2**20, 1), (0, 2), (4 * 4 * 3 - 1, 2)])
def test_a_reference_runs_once_where_its_outputs_are_small(monkeypatch, keep, runs):
    """Four samples with one output of three values each."""
    first, others = model("y = Identity(x)"), [model("y = Mul(x, x)"), model("y = Neg(x)")]
    samples = data(first, x=RNG.normal(size=(4, 3)).astype(np.float32))
    reference = agreement.Reference(first, samples, keep_bytes=keep)
    real, calls = agreement.run_session, []

    def counting(session, *arguments):
        calls.append(session)
        return real(session, *arguments)

    monkeypatch.setattr(agreement, "run_session", counting)
    found = [reference.compare(other) for other in others]
    assert calls.count(reference.session) == 4 * runs
    monkeypatch.undo()
    assert found == [compare_models(first, other, samples) for other in others]
