"""split-sums."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.passes.split_sums import SplitSums
from graphopt.targets import TARGETS
from tests.support.quantization import model, quantize_model
from tests.support.rewrite import assert_same_outputs, parse, random_feeds, rewrite, run

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [("a, b", ["Add"]), ("a, b, c", ["Add", "Add"]), ("a, a", ["Add"]), ("a, b, c, a", ["Add", "Add", "Add"])],
)
def test_a_sum_becomes_a_chain(inputs: str, expected: list[str]) -> None:
    source = parse(HEADER + f"g (float[2,3] a, float[3] b, float[2,1] c) => (float[2,3] y) {{ y = Sum({inputs}) }}")
    result = rewrite(SplitSums(), source)
    assert result.ops == expected
    assert [o.name for o in result.model.graph.output] == ["y"]
    feeds = random_feeds(source)
    np.testing.assert_array_equal(run(source, feeds)[0], run(result.model, feeds)[0])


def test_inner_sums_and_those_in_nested_graphs() -> None:
    source = parse(
        HEADER
        + """g (float[2] a, bool t) => (float[2] y, float[2] z) {
            s = Sum(a, a, a)
            y = Neg(s)
            z = If(t) <
                then_branch = one () => (float[2] p) { p = Sum(a, s) },
                else_branch = two () => (float[2] q) { q = Abs(a) }
            >
        }"""
    )
    result = rewrite(SplitSums(), source)
    assert result.ops == ["Add", "Add", "Neg", "If"]
    assert [n.op_type for n in result.model.graph.node[3].attribute[0].g.node] == ["Add"]
    for taken in (True, False):
        feeds = random_feeds(source) | {"t": np.array(taken)}
        for before, after in zip(run(source, feeds), run(result.model, feeds), strict=True):
            np.testing.assert_array_equal(before, after)


def test_one_operand_and_old_opsets_are_left() -> None:
    one = rewrite(SplitSums(), parse(HEADER + "g (float[2] a) => (float[2] y) { y = Sum(a) }"))
    assert (one.ops, one.revision) == (["Sum"], 0)
    old = HEADER.replace("17", "7")
    assert rewrite(SplitSums(), parse(old + "g (float[2] a) => (float[2] y) { y = Sum(a, a) }")).ops == ["Sum"]


def test_integers_and_halves() -> None:
    for kind in ("float16", "double", "float"):
        source = parse(HEADER + f"g ({kind}[4] a, {kind}[4] b) => ({kind}[4] y) {{ y = Sum(a, b) }}")
        result = rewrite(SplitSums(), source)
        assert result.ops == ["Add"]
        assert_same_outputs(source, result.model)


@pytest.mark.parametrize("target", TARGETS)
def test_a_residual_sum_is_planned_like_an_add(target: str) -> None:
    body = "c = Conv(x, w)\n d = Conv(c, w)\n s = {}(c, d)\n r = Relu(s)\n y = Conv(r, w)"
    shapes = {"w": (4, 4, 1, 1)}
    of = {op: model(body.format(op), "float[1,4,6,6] x", "float[1,4,6,6] y", seed=0, **shapes) for op in ("Add", "Sum")}
    written = rewrite(SplitSums(), of["Sum"]).model
    quantized = [quantize_model(source, target) for source in (of["Add"], written)]
    assert quantized[0].ops() == quantized[1].ops()
    roles = [list(found.plan.quantized_nodes.values()) for found in quantized]
    assert roles[0] == roles[1]
