import json
import os
import stat

import numpy as np
import onnx.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.calibration import MinMax, data_hash, load_ranges, model_hash, save_ranges
from graphopt.calibration.histogram import Histogram
from graphopt.calibration.ranges_file import summary
from graphopt.calibration.statistics import EmaMinMax
from graphopt.errors import CalibrationError, EmitError
from graphopt.quant import Range

TEXT = '<ir_version: 8, opset_import: ["":13]> g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Mul(x, w) }'
MODEL = onnx.parser.parse_model(TEXT)
finite = st.floats(allow_nan=False, allow_infinity=False)


def save(path, ranges, model="m"):
    save_ranges(path, ranges, model_hash=model, data_hash="d", method="minmax")


def bits(r):
    return (r.low.shape, r.low.tobytes(), r.high.tobytes())


@given(st.dictionaries(st.text(max_size=8), st.lists(st.tuples(finite, finite), min_size=1, max_size=3), max_size=4))
def test_ranges_come_back_bit_for_bit(tmp_path_factory, content):
    ranges = {}
    for name, pairs in content.items():
        low, high = np.array([sorted(pair) for pair in pairs]).T.copy()
        ranges[name] = Range(low, high) if len(pairs) > 1 else Range.of(low[0], high[0])
    path = tmp_path_factory.mktemp("r") / "ranges.json"
    save(path, ranges)
    loaded = load_ranges(path, model_hash="m")
    assert list(loaded) == sorted(ranges)
    assert {k: bits(v) for k, v in loaded.items()} == {k: bits(v) for k, v in ranges.items()}


def test_the_same_bytes_whatever_the_order(tmp_path):
    a, b = Range.of(0.1, 0.3), Range.of(-1e-30, 2)
    save(tmp_path / "1", {"a": a, "b": b})
    save(tmp_path / "2", {"b": b, "a": a})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert json.loads((tmp_path / "1").read_text())["ranges"]["a"] == {"low": 0.1, "high": 0.3}


def test_another_model_s_file_is_refused(tmp_path):
    save(tmp_path / "r.json", {"a": Range.of(0, 1)})
    with pytest.raises(CalibrationError, match=r"r\.json' holds the ranges of another model"):
        load_ranges(tmp_path / "r.json", model_hash="other")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a ranges file"),
        ("[1]", "not a ranges file"),
        ("{}", "not a ranges file"),
        ('{"format": "graphopt-ranges", "version": 9}', "version 9"),
        ('{"format": "graphopt-ranges", "version": 1, "model_hash": "m"}', "damaged"),
        (
            '{"format": "graphopt-ranges", "version": 1, "model_hash": "m", "ranges": {"a": {"low": 2, "high": 1}}}',
            "damaged",
        ),
    ],
)
def test_files_that_are_no_ranges_files(tmp_path, text, message):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(CalibrationError, match=message):
        load_ranges(tmp_path / "r.json", model_hash="m")


def test_a_missing_file(tmp_path):
    with pytest.raises(CalibrationError, match="can't read"):
        load_ranges(tmp_path / "r.json", model_hash="m")


def test_a_failed_save_leaves_no_file_and_no_trace(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    save(path, {"a": Range.of(0, 1)})
    before = path.read_bytes()

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(EmitError, match="No space left"):
        save(path, {"a": Range.of(0, 2)})
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]
    assert path.read_bytes() == before
    with pytest.raises(EmitError, match="can't be written"):
        save(tmp_path / "absent" / "r.json", {})


def test_the_file_has_ordinary_permissions(tmp_path):
    save(tmp_path / "r.json", {})
    (tmp_path / "plain").write_text("")
    assert stat.S_IMODE((tmp_path / "r.json").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_the_hash_is_of_the_content():
    same = onnx.parser.parse_model(TEXT)
    same.doc_string = same.graph.doc_string = same.graph.node[0].doc_string = "words"
    same.producer_name = "tool"
    assert model_hash(same) == model_hash(onnx.shape_inference.infer_shapes(MODEL)) == model_hash(MODEL)
    assert same.doc_string == "words"
    changed = [
        onnx.parser.parse_model(TEXT.replace(*edit)) for edit in (("1, 2}", "1, 3}"), ("Mul(x, w)", "Add(x, w)"))
    ]
    assert len({model_hash(m) for m in (MODEL, *changed)}) == 3


def test_the_data_hash_sees_names_types_shapes_and_repetition_but_no_order():
    x, y = np.zeros((1, 4), np.float32), np.ones((1, 4), np.float32)
    variants = [
        [{"x": x}, {"x": y}],
        [{"z": x}, {"z": y}],
        [{"x": x.reshape(2, 2)}, {"x": y}],
        [{"x": x.astype(np.float64)}, {"x": y}],
        [{"x": x}, {"x": y}, {"x": y}],
        [{"x": x}, {"x": y}, {"x": y}, {"x": y}],
        [{"x": x, "z": y}],
        [{"x": y, "z": x}],
    ]
    assert len({data_hash(v) for v in variants}) == len(variants)
    assert all(data_hash(v) == data_hash(v[::-1]) for v in variants)
    assert data_hash([{"x": x, "z": y}]) == data_hash([{"z": y, "x": x}])


def test_what_was_seen_is_summed_up(tmp_path):
    values = np.concatenate([np.zeros(500), np.random.default_rng(0).normal(size=1500)]).astype(np.float32)
    histogram, extremes, averages = Histogram(), MinMax(), EmaMinMax()
    for statistic in (histogram, extremes, averages):
        for part in np.split(values, 4):
            statistic.update(part)
    found = summary(histogram)
    assert (found["count"], found["zeros"]) == (2000, 500)
    at = np.sort(np.abs(values))[1997]  # 1,998 of 2,000 are 99.9 %
    assert at <= found["p99.9"] <= at + 2.0 ** found["exponent"]
    for statistic in (histogram, extremes, averages):
        assert summary(statistic)["low"] == values.min()
        assert summary(statistic)["high"] == values.max()
    save_ranges(
        tmp_path / "r.json",
        {"a": Range.of(0, 1)},
        model_hash="m",
        data_hash="d",
        method="percentile",
        parameters={"percentile": 99.9},
        statistics={"a": histogram, "empty": Histogram()},
    )
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["parameters"] == {"percentile": 99.9}
    assert content["statistics"] == {"a": found}
    assert content["tool"].startswith("graphopt ")
    zeros = Histogram()
    zeros.update(np.zeros(3))
    assert (summary(zeros)["p99.9"], summary(zeros)["exponent"]) == (0.0, None)
