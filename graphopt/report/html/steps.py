"""A graph through the passes of a run, or two models, as steps that a page can go through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphopt.analysis.graph_diff import GraphDiff
from graphopt.ir.outline import Outline
from graphopt.pipeline.instruments.history import History
from graphopt.pipeline.instruments.history import Step as PassStep
from graphopt.pipeline.spec import passes_to_text
from graphopt.report.html.payload import GraphSteps, Step, StepRemark
from graphopt.report.html.versions import Changes, Labels, Versions


def graph_steps(
    history: History, labels: Labels | None = None, figures: Mapping[int, Sequence[tuple[str, str]]] | None = None
) -> GraphSteps:
    """The graph as it came and behind each pass that ran.

    Args:
        history: of the run that made the result.
        labels: what to show at nodes; in every step, under the name that a node has there.
        figures: number of a pass → short facts about it.
    """
    assert history.before is not None, "the run hasn't begun"
    versions = Versions(history.before)
    steps = [_first("the model", history.before)]
    for step in history.steps:
        changes = versions.take(step.after, step.diff)
        steps.append(_pass_step(step, changes, tuple((figures or {}).get(step.record.index, ()))))
    return versions.result(steps, labels)


def difference_steps(before: Outline, after: Outline, diff: GraphDiff, titles: tuple[str, str]) -> GraphSteps:
    """Two models as two steps, whose `titles` are given."""
    versions = Versions(before)
    changes = versions.take(after, diff)
    second = Step(
        1,
        titles[1],
        "",
        None,
        None,
        bool(diff),
        (len(before.nodes), len(after.nodes)),
        (_constant_bytes(before), _constant_bytes(after)),
        changes.removed,
        changes.added,
        changes.edits,
        changes.rewrites,
    )
    return versions.result([_first(titles[0], before), second], None)


def _first(title: str, graph: Outline) -> Step:
    count, size = len(graph.nodes), _constant_bytes(graph)
    return Step(0, title, "", None, None, False, (count, count), (size, size))


def _pass_step(step: PassStep, changes: Changes, figures: tuple[tuple[str, str], ...]) -> Step:
    record = step.record
    return Step(
        record.index,
        record.name,
        passes_to_text([step.pass_]).removeprefix(record.name).removeprefix("{").removesuffix("}"),
        record.seconds,
        step.pass_.lossless,
        bool(changes.removed or changes.added or changes.edits),
        (record.nodes_before, record.nodes_after),
        (record.bytes_before, record.bytes_after),
        changes.removed,
        changes.added,
        changes.edits,
        changes.rewrites,
        tuple(StepRemark(r.kind, r.node, r.op, r.message) for r in step.remarks),
        figures,
    )


def _constant_bytes(graph: Outline) -> int:
    return sum(constant.nbytes for constant in graph.constants.values())
