"""Precisions that users give: what the texts mean, which rule counts, and what is wrong with a text."""

from __future__ import annotations

import pytest

from graphopt.errors import ConfigError
from graphopt.quant.precision_rules import matching, parse_rules, unmatched


@pytest.mark.parametrize(
    ("text", "pattern", "precision"),
    [
        ("Softmax=float", "Softmax", "float32"),
        ("head/*=float16", "head/*", "float16"),
        ("layer3/*=int8", "layer3/*", "int8"),
        (" conv = bf16 ", "conv", "bfloat16"),
        ("a=b/conv=int4-weights", "a=b/conv", "int4-weights"),
    ],
)
def test_what_a_text_means(text: str, pattern: str, precision: str) -> None:
    (rule,) = parse_rules([text])
    assert (rule.pattern, rule.precision) == (pattern, precision)


def test_the_last_rule_that_matches_counts() -> None:
    rules = parse_rules(["Conv=int8", "head/*=float16", "head/last=float"])
    assert matching(rules, "body/0", "Conv") == "int8"
    assert matching(rules, "head/0", "Conv") == "float16"
    assert matching(rules, "head/last", "Gemm") == "float32"
    assert matching(rules, "body/1", "Gemm") is None
    assert matching(parse_rules(["head/*=float16", "Conv=int8"]), "head/0", "Conv") == "int8"


def test_patterns_are_of_names_and_operators_are_whole() -> None:
    rules = parse_rules(["Con*=int8"])
    assert matching(rules, "x", "Conv") is None
    assert matching(rules, "Conv_3", "Gemm") == "int8"
    assert matching(parse_rules(["conv=int8"]), "CONV", "Conv") is None


def test_rules_that_match_nothing() -> None:
    rules = parse_rules(["Conv=int8", "haed/*=float16", "body/*=float", "Sotfmax=float"])
    nodes = [("body/0", "Conv"), ("head/0", "Softmax")]
    assert [str(rule) for rule in unmatched(rules, nodes)] == ["haed/*=float16", "Sotfmax=float32"]


@pytest.mark.parametrize("text", ["Softmax", "=int8", "Softmax=", "", "="])
def test_a_text_without_a_part(text: str) -> None:
    with pytest.raises(ConfigError, match=r"doesn't say which precision which nodes get: write .*'Softmax=float'"):
        parse_rules([text])


def test_a_precision_that_there_is_not() -> None:
    with pytest.raises(
        ConfigError, match=r"'Softmax=flaot16': there is no precision 'flaot16': did you mean 'float16'"
    ):
        parse_rules(["Conv=int8", "Softmax=flaot16"])
