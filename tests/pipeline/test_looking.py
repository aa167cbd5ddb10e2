"""Printing the graph around passes, remarks by filter, and where the time went."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from graphopt.calibration import Dataset, Feed
from graphopt.errors import ConfigError
from graphopt.ir import Graph, print_graph
from graphopt.pipeline import Context, Pass, PassManager, Remarks
from graphopt.pipeline.instruments import PrintIr, Timing
from graphopt.pipeline.remarks import Remark, RemarkFilter
from graphopt.quant import TensorPlan
from graphopt.report import to_text
from graphopt.report.remarks import remarks_page
from graphopt.report.timing import timing_dicts, timing_table
from graphopt.targets import find_target
from tests.pipeline.toys import DropIdentity, Nothing, Scale, toy_graph


@dataclass(frozen=True)
class PlanOne(Pass):
    name: ClassVar[str] = "plan-one"
    summary: ClassVar[str] = "plan one tensor"

    def run(self, graph: Graph, ctx: Context) -> None:
        graph.plan.add(TensorPlan("a", find_target("openvino").activation, ()))


PASSES = (Nothing(), DropIdentity(), PlanOne(), Nothing())


def printed(passes: tuple[Pass, ...] = PASSES, **options: object) -> list[str]:
    """The first lines of what is printed."""
    texts: list[str] = []
    PassManager(passes, [PrintIr(write=texts.append, **options)]).run(toy_graph(), Context())
    return [text.splitlines()[0].removeprefix("# ") for text in texts]


EVERY = ["after pass 1, nothing", "after pass 2, drop-identity", "after pass 3, plan-one", "after pass 4, nothing"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"after_all": True}, EVERY),
        ({"after_change": True}, EVERY[1:3]),
        ({"after_all": True, "after_change": True}, EVERY[1:3]),
        ({"after": ["nothing"]}, [EVERY[0], EVERY[3]]),
        ({"after": ["nothing", "plan-one"], "after_change": True}, EVERY[2:3]),
        ({"before": ["nothing"]}, ["before pass 1, nothing", "before pass 4, nothing"]),
        ({"before": ["plan-one"], "after": ["plan-one"]}, ["before pass 3, plan-one", "after pass 3, plan-one"]),
        ({}, []),
    ],
)
def test_when_the_graph_is_printed(options: dict[str, object], expected: list[str]) -> None:
    assert printed(**options) == expected


def test_what_is_printed_is_the_graph_at_that_moment() -> None:
    texts: list[str] = []
    instrument = PrintIr(before=["drop-identity"], after=["scale"], write=texts.append)
    graph = toy_graph()
    PassManager([DropIdentity(), Scale(by=3.0)], [instrument]).run(graph, Context())
    assert "Identity(" in texts[0]
    assert texts[1].split("\n", 1)[1] == print_graph(graph)
    assert "in [3, 36]" in texts[1]  # the weight is 1 to 12


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_pass_that_is_not_in_the_pipeline_can_not_be_printed(where: str) -> None:
    with pytest.raises(ConfigError, match=f"can't print {where} 'drop-identiy'.*did you mean 'drop-identity'"):
        printed(**{where: ["drop-identiy"]})


# ---- Remarks -------------------------------------------------------------------------------------------------

SAID = Remarks(
    [
        Remark("fold-pad", "applied", "head/pad", "Pad", "into the Conv behind it"),
        Remark("fold-pad", "declined", "tail/pad", "Pad", "it reflects"),
        Remark("fold-batch-norm", "declined", "head/norm", "BatchNormalization", "two readers"),
        Remark("calibrate", "note", "", "", "8 samples"),
    ]
)


@pytest.mark.parametrize(
    ("wanted", "messages"),
    [
        ({}, ["into the Conv behind it", "it reflects", "two readers", "8 samples"]),
        ({"passes": ["fold-pad"]}, ["into the Conv behind it", "it reflects"]),
        ({"passes": ["fold-*"], "kinds": ["declined"]}, ["it reflects", "two readers"]),
        ({"nodes": ["head/*"]}, ["into the Conv behind it", "two readers"]),
        ({"nodes": ["Pad", "head/norm"]}, ["into the Conv behind it", "it reflects", "two readers"]),
        ({"kinds": ["note", "applied"]}, ["into the Conv behind it", "8 samples"]),
        ({"nodes": ["*"], "kinds": ["note"]}, ["8 samples"]),
        ({"nodes": ["head/*"], "kinds": ["note"]}, []),
    ],
)
def test_remarks_are_selected(wanted: dict[str, list[str]], messages: list[str]) -> None:
    assert [r.message for r in SAID.select(**wanted)] == messages


def test_there_are_three_kinds_of_remarks() -> None:
    with pytest.raises(ConfigError, match="no kind of remark 'decline': did you mean 'declined'"):
        SAID.select(kinds=["decline"])


@pytest.mark.parametrize(
    ("wanted", "line"),
    [
        (RemarkFilter(passes=("fold-pads",)), "no pass of this run is 'fold-pads'; did you mean 'fold-pad'"),
        (RemarkFilter(passes=("remove-dead",)), "remove-dead ran and said nothing"),
        (RemarkFilter(nodes=("head/norm1",)), "no remark is about 'head/norm1'; did you mean 'head/norm'"),
        (RemarkFilter(nodes=("zzz",)), "no remark is about 'zzz'\n"),
        (RemarkFilter(passes=("fold-pad",), kinds=("note",)), "no remark passes all of them"),
    ],
)
def test_a_filter_that_finds_nothing_says_so(wanted: RemarkFilter, line: str) -> None:
    page = to_text(remarks_page(SAID.items, wanted, ["remove-dead", "fold-pad", "fold-batch-norm"])) + "\n"
    assert page.startswith("Remarks (0 of 4)\n")
    assert line in page


def test_a_filter_that_finds_something_tells_which_part_did_not() -> None:
    page = to_text(remarks_page(SAID.items, RemarkFilter(nodes=("tail/*", "Gemm")), ["fold-pad"]))
    assert page.splitlines() == [
        "Remarks (1 of 4)",
        "  [fold-pad] declined Pad 'tail/pad': it reflects",
        "  no remark is about 'Gemm'",
    ]


# ---- Timing --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Walk(Pass):
    """Takes all samples once, and some of them a second time."""

    name: ClassVar[str] = "walk"
    summary: ClassVar[str] = "look at samples"

    again: int = 0

    def run(self, graph: Graph, ctx: Context) -> None:
        assert ctx.calibration is not None
        for samples in (ctx.calibration, ctx.calibration.limited(self.again)):
            if self.again or samples is ctx.calibration:
                assert all(feed["x"].shape == (2, 4) for feed in samples)


def test_timing_counts_the_samples_that_a_pass_takes() -> None:
    def feeds() -> Iterator[Feed]:
        for _ in range(5):
            yield {"x": np.zeros((2, 4), np.float32)}

    timing = Timing()
    ctx = Context(calibration=Dataset(feeds, name="samples", count=5))
    PassManager([Walk(), Nothing(), Walk(again=3)], [timing]).run(toy_graph(), ctx)
    assert [(t.name, t.samples) for t in timing.times] == [("walk", 5), ("nothing", 0), ("walk", 8)]
    assert [d["samples"] for d in timing_dicts(timing)] == [5, 0, 8]


def test_the_table_of_times_adds_up() -> None:
    timing = Timing()
    PassManager([Nothing(), DropIdentity()], [timing, PrintIr(after_all=True, write=str)]).run(toy_graph(), Context())
    table = timing_table(timing)
    assert [row[:3] for row in table.rows[:2]] == [("1", "nothing", "3"), ("2", "drop-identity", "3 → 2")]
    assert table.rows[1][4] == "1 applied"
    shares = [float(row[6].removesuffix("%")) for row in table.rows]
    assert sum(shares[:-1]) == pytest.approx(100, abs=0.2)
    assert [row[1] for row in table.rows[2:]] == ["checks and dumps", "in all"]
    assert timing.seconds == pytest.approx(sum(d["seconds"] + d["watching"] for d in timing_dicts(timing)))
