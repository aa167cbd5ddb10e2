"""What the targets' tables say of probes is what the engines do, here and now."""

from __future__ import annotations

import re

import numpy as np
import pytest

from benchmarks.probes import PROBES
from benchmarks.probes.__main__ import main
from benchmarks.probes.citations import Citation, citations
from benchmarks.probes.engines import judge
from graphopt.backends import openvino
from graphopt.backends.measures import sqnr_db
from graphopt.targets import TARGETS, find_target
from tests.support.quantization import model, quantize_model
from tests.support.rewrite import random_feeds, run

# TensorRT-RTX takes one to two seconds a build.
CITED = [
    (target, c) for target in ("onnxruntime", "openvino", "tflite", "tensorrt") for c in citations(TARGETS[target])
]
X = "float[N,8,12,12] x"


@pytest.mark.parametrize(("target", "citation"), CITED, ids=[f"{t}-{c.verdict}-{c.probe}" for t, c in CITED])
def test_a_table_says_of_a_probe_what_its_engine_does(target: str, citation: Citation) -> None:
    found = judge(PROBES[citation.probe], target)
    assert citation.holds(found), f"{citation.op}: {found} {found.layers}"


@pytest.mark.parametrize("target", TARGETS)
def test_every_citation_has_the_form_that_is_checked(target: str) -> None:
    rules = TARGETS[target].rules
    named = sum(len(re.findall(r"probes? '", rule.source)) for rule in rules.values())
    assert named == len(citations(find_target(target)))
    assert named >= 6


@pytest.mark.parametrize("probe", ["conv", "gemm", "concat, equal scales, Q on both sides", "residual add, Q on both"])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "tflite"])
def test_results_are_those_of_the_reference(engine: str, probe: str) -> None:
    found = judge(PROBES[probe], engine)
    assert (found.precision, found.wrong) == ("int8", False)
    assert found.steps is not None
    assert found.steps <= 1.01


def test_an_engine_that_computes_something_else_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--engine", "onnxruntime", "openvino", "--probe", "concat of s8 zero point 0, Q on both"])
    head, _, row = capsys.readouterr().out.splitlines()
    assert head == "| probe | operator | onnxruntime | openvino |"
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[3] == "int8"
    assert re.fullmatch(r"int8 \*\*WRONG\*\* \(\d+ steps\)", cells[4])


def test_openvino_never_gets_a_concat_of_signed_integers() -> None:
    """The transposed convolution would read int8, which the Concat beside it can't join: it stays float."""
    source = model(
        "t = Conv<pads=[1,1,1,1]>(x, w)\n u = ConvTranspose(t, k)\n r = Relu(u)\n e = Conv<pads=[1,1,1,1]>(x, v)\n"
        "j = Concat<axis=1>(t, e)\n z = Conv(j, m)\n p = Conv(r, v)\n y = Add(p, z)",
        X, "float[A,B,C,D] y", w=(8, 8, 3, 3), v=(8, 8, 3, 3), k=(8, 8, 1, 1), m=(8, 16, 3, 3),
    )  # fmt: skip
    result = quantize_model(source, "openvino")
    stored = [result.initializer(n.input[2]).dtype for n in result.after.graph.node if n.op_type == "QuantizeLinear"]
    assert set(stored) == {np.dtype(np.uint8)}
    assert "a Concat of signed integers would be misread" in result.remarks.items[0].message
    feeds = random_feeds(source)
    (ours,), (theirs,) = run(result.after, feeds), *openvino.run(result.after, [feeds])
    assert sqnr_db(ours, theirs) > 40


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ("AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>", "it counts padding"),
        ("AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>", "its ceil_mode is 1"),
    ],
)
def test_openvino_averages_in_float_what_its_integer_kernel_gets_wrong(pool: str, message: str) -> None:
    source = model(
        f"a = Conv(x, w)\n p = {pool}(a)\n y = Conv(p, k)", X, "float[A,B,C,D] y", w=(8, 8, 3, 3), k=(4, 8, 1, 1)
    )
    result = quantize_model(source, "openvino")
    pooled = result.find("AveragePool")
    assert not result.reads_quantized(pooled, 0)
    assert any(message in item.message for item in result.remarks.items)
    feeds = random_feeds(source)
    (ours,), (theirs,) = run(result.after, feeds), *openvino.run(result.after, [feeds])
    assert sqnr_db(ours, theirs) > 40


def test_openvino_averages_padding_among_values_from_0_on_in_integers() -> None:
    pool = "AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>"
    source = model(
        f"a = Conv(x, w)\n r = Relu(a)\n p = {pool}(r)\n y = Conv(p, k)", X, "float[A,B,C,D] y",
        w=(8, 8, 3, 3), k=(4, 8, 1, 1),
    )  # fmt: skip
    result = quantize_model(source, "openvino")
    assert result.reads_quantized(result.find("AveragePool"), 0)
    feeds = random_feeds(source)
    (ours,), (theirs,) = run(result.after, feeds), *openvino.run(result.after, [feeds])
    assert sqnr_db(ours, theirs) > 40


@pytest.mark.parametrize("largest", ["GlobalMaxPool(a)", "ReduceMax<axes=[2,3]>(a)", "ReduceMin<axes=[2,3]>(a)"])
def test_openvino_reads_extremes_in_integers(largest: str) -> None:
    """With Q behind a float ReduceMax what reads it computes something else: 8 dB were left of a network."""
    source = model(
        f"a = Conv(x, w)\n m = {largest}\n f = Flatten(m)\n y = Gemm(f, g)", X, "float[N,5] y", w=(8, 8, 3, 3), g=(8, 5)
    )
    result = quantize_model(source, "openvino")
    assert result.reads_quantized(result.find(largest.partition("(")[0].partition("<")[0]), 0)
    assert not result.reads_quantized(result.find("Flatten"), 0)
    feeds = random_feeds(source)
    (ours,), (theirs,) = run(result.after, feeds), *openvino.run(result.after, [feeds])
    assert sqnr_db(ours, theirs) > 40


def test_tensorrt_has_no_integer_transposed_convolution() -> None:
    """Which the table knows: the layer stays float and keeps its weights, with a remark."""
    source = model("r = Relu(x)\n y = ConvTranspose<strides=[2,2]>(r, w)", X, "float[A,B,C,D] y", w=(8, 8, 3, 3))
    result = quantize_model(source, "tensorrt")
    assert result.ops() == ["Relu", "ConvTranspose"]
    assert "TensorRT-RTX has no integer ConvTranspose kernel" in result.remarks.items[0].message
    assert judge(PROBES["conv transpose"], "tensorrt").precision == "float"


@pytest.mark.parametrize("behind", ["y = Softmax(g)", "s = Softmax(g)\n y = Flatten(s)"])
def test_tflite_keeps_a_softmax_that_makes_an_output_in_float(behind: str) -> None:
    """LiteRT prescribes steps of 1/256, in which the probabilities of 1,000 classes are all 0."""
    source = model(f"g = Gemm(x, w)\n {behind}", "float[N,8] x", "float[N,1000] y", w=(8, 1000))
    result = quantize_model(source, "tflite")
    assert result.find("Gemm").name in result.plan.quantized_nodes
    assert result.find("Softmax").name not in result.plan.quantized_nodes
    feeds = random_feeds(source)
    assert sqnr_db(run(source, feeds)[0], run(result.after, feeds)[0]) > 20


def test_tflite_runs_an_inner_softmax_in_integers() -> None:
    source = model(
        "g = Gemm(x, w)\n s = Softmax(g)\n y = Gemm(s, v)", "float[N,8] x", "float[N,4] y", w=(8, 8), v=(8, 4)
    )
    result = quantize_model(source, "tflite")
    assert result.find("Softmax").name in result.plan.quantized_nodes
