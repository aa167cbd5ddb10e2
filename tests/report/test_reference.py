"""The generated pages of docs/, and the Markdown that they are made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from graphopt.ir.conditions import CONDITIONS
from graphopt.passes import CATALOGUE
from graphopt.report.markdown import anchor, field_meanings, md_table, prose
from graphopt.report.reference import PAGES
from graphopt.targets import TARGETS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_are_what_passes_and_targets_make_now(name: str) -> None:
    assert (DOCS / name).read_text() == PAGES[name](), "run `python -m graphopt.report.reference docs`"


def test_every_pass_has_a_section_and_every_option_a_meaning() -> None:
    page = PAGES["passes.md"]()
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == ["Presets", *CATALOGUE]
    options = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(options) > 40
    assert [line for line in options if line.endswith("|  |")] == []


def test_every_rule_of_every_target_is_on_the_page() -> None:
    page = PAGES["targets.md"]()
    for target in TARGETS.values():
        section = page.split(f"\n## {target.title}\n")[1].split("\n## ")[0]
        for op, rule in target.rules.items():
            row = next(line for line in section.splitlines() if line.startswith(f"| {op} |"))
            assert rule.source in row
            assert all(CONDITIONS[name][1] in row for name in rule.conditions)
        assert all(why in section for why in target.float_reasons.values())
        assert all(f"| {name} |" in section for name in target.precisions)
    assert all(f"\n### {name}\n" in page for target in TARGETS.values() for name in target.breaches)


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        ("Passes", "passes"),
        ("What runs in 8 bits", "what-runs-in-8-bits"),
        ("TFLite / LiteRT", "tflite--litert"),
        ("onnxruntime (CPU)", "onnxruntime-cpu"),
        ("`--max-drop`: how far?", "--max-drop-how-far"),
        ("A [link](x.md) in it", "a-link-in-it"),
        ("fold_batch_norm", "fold_batch_norm"),
    ],
)
def test_anchors_are_githubs(heading: str, expected: str) -> None:
    assert anchor(heading) == expected


def test_indented_examples_become_blocks_and_prose_stays() -> None:
    text = "First, a < b and `a < b`.\n\n    y = f(x)\n        g\n\n1. one\n   more\n"
    assert prose(text) == "First, a \\< b and `a < b`.\n\n```text\ny = f(x)\n    g\n```\n\n1. one\n   more"


def test_tables_escape_bars_and_line_ends() -> None:
    assert md_table(("a", "b"), [("x | y", "two\nlines")]) == "| a | b |\n|---|---|\n| x \\| y | two lines |"


@dataclass(frozen=True)
class Listed:
    """Something.

    Attributes:
        first: one,
            over two lines.
        second_one: two: with a colon.
    """


@dataclass(frozen=True)
class Told:
    """Something.

    `max_bytes`: a size.
    """


def test_meanings_of_fields_come_from_the_docstring() -> None:
    assert field_meanings(Listed) == {"first": "one, over two lines.", "second_one": "two: with a colon."}
    assert field_meanings(Told) == {"max_bytes": "a size."}
