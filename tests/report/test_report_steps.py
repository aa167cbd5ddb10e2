"""A report's graph: rebuilt step by step from its versions, it is the graph that the passes made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from graphopt.analysis.graph_diff import diff_outlines
from graphopt.api.choice import Choice, choose_pipeline
from graphopt.calibration import Dataset
from graphopt.ir import Graph, from_proto, load
from graphopt.ir.outline import Outline, outline
from graphopt.pipeline import PassManager
from graphopt.pipeline.instruments import History, Limit
from graphopt.report.html.payload import GraphSteps, NodeVersion
from graphopt.report.html.steps import difference_steps, graph_steps
from graphopt.report.html.versions import Labels
from graphopt.report.samples import open_samples

DIGITS = Path(__file__).parents[2] / "calibration_data"


def _compile(choice: Choice, limit: int | None, history: History | None = None) -> Graph:
    graph = load(DIGITS / "digits_cnn.onnx")
    samples: Dataset = open_samples(DIGITS / "calibration.npz", graph, "samples").limited(2)
    watching = [*([] if history is None else [history]), *([] if limit is None else [Limit(limit)])]
    PassManager(choice.passes, watching).run(graph, choice.context(samples, 1, None, None))
    return graph


@pytest.fixture(scope="module")
def choice() -> Choice:
    return choose_pipeline("openvino", prune="macs=0.7, importance=l1")


@pytest.fixture(scope="module")
def steps(choice: Choice) -> GraphSteps:
    history = History()
    _compile(choice, None, history)
    return graph_steps(history)


def _at(graph: GraphSteps, place: int) -> dict[str, NodeVersion]:
    """The nodes of one step."""
    found = [node for node in graph.nodes if node.since <= place < node.until]
    assert len({node.name for node in found}) == len(found)
    return {node.name: node for node in found}


def _check(graph: GraphSteps, place: int, expected: Outline) -> None:
    """That the versions of one step are `expected`, a graph that was made without them."""
    nodes = _at(graph, place)
    assert nodes.keys() == expected.nodes.keys()
    for name, node in nodes.items():
        twin = expected.nodes[name]
        assert (node.op, node.scope, node.inputs, node.outputs) == (twin.op, twin.scope, twin.inputs, twin.outputs)
        assert node.attributes == twin.attributes
    tensors = [t for t in graph.tensors if t.since <= place < t.until]
    assert {t.name: t.type for t in tensors if not t.constant} == dict(expected.types)
    constants = {c.name: (c.type, c.nbytes) for c in expected.constants.values()}
    assert {t.name: (t.type, t.nbytes) for t in tensors if t.constant} == constants


def test_each_step_is_the_graph_of_a_run_that_ends_there(choice: Choice, steps: GraphSteps) -> None:
    changed = [place for place, step in enumerate(steps.steps) if step.changed]
    assert [steps.steps[place].title for place in changed] == [
        *("fold-constants", "fold-batch-norm", "eliminate-channels", "quantize-weights", "insert-qdq")
    ]
    for place in (0, *changed):
        _check(steps, place, outline(_compile(choice, steps.steps[place].index)))


def test_what_a_step_ends_and_begins_is_what_it_says(steps: GraphSteps) -> None:
    _check_changes(steps)
    for step in steps.steps:
        assert step.nodes[1] - step.nodes[0] == len(step.added) - len(step.removed)


def _check_changes(graph: GraphSteps) -> None:
    """That removals, additions and edits of each step account for all versions that end and begin there."""
    for place, step in enumerate(graph.steps):
        ended = {k for k, node in enumerate(graph.nodes) if node.until == place}
        begun = {k for k, node in enumerate(graph.nodes) if node.since == place} if place else set()
        assert ended == {*step.removed, *(edit.before for edit in step.edits)}
        assert begun == {*step.added, *(edit.after for edit in step.edits)}
        assert len(ended) == len(step.removed) + len(step.edits)
        assert all(edit.what for edit in step.edits)
        parts = [part for rewrite in step.rewrites for side in rewrite for part in side]
        assert len(set(parts)) == len(parts)
        assert {*step.removed, *step.added} <= {*parts} <= {*step.removed, *step.added, *(e.after for e in step.edits)}


def test_batch_norms_go_into_their_convolutions(steps: GraphSteps) -> None:
    (step,) = (s for s in steps.steps if s.title == "fold-batch-norm")
    removed = [steps.nodes[place].op for place in step.removed]
    assert removed == ["BatchNormalization"] * 7
    edited = [(steps.nodes[e.before].name, steps.nodes[e.after].name) for e in step.edits]
    assert all(before == after for before, after in edited)
    assert step.options == ""
    assert step.lossless is True
    (pruning,) = (s for s in steps.steps if s.title == "eliminate-channels")
    assert pruning.options == "macs=0.7,importance=l1"
    assert pruning.lossless is False


TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[2,3] x, bool c) => (float[2,3] y)
{
    [relu] a = Relu(x)
    [if] b = If (c) <
        then_branch = t () => (float[2,3] o) { [inner] o = Neg(a) },
        else_branch = e () => (float[2,3] p) { [other] p = Abs(a) }
    >
    [last] y = Tanh(b)
}
"""


def _outline(text: str) -> Outline:
    return outline(from_proto(parser.parse_model(text)))


@pytest.mark.parametrize(
    ("changes", "removed", "added", "words"),
    [
        ({"Tanh(b)": "Sigmoid(b)"}, [], [], {"last": "operator Tanh → Sigmoid"}),
        ({"[inner] o = Neg(a)": "[inner] n = Neg(a) [born] o = Exp(n)"}, [], ["born"], {"inner": "output 0: o → n"}),
        # Only a tensor has another name: no difference, and yet what is shown must be true.
        ({"a = Relu": "z = Relu", "(a)": "(z)"}, [], [], {"relu": "output 0 is called z now, not a", "other": "z"}),
    ],
)
def test_two_models_are_two_steps(
    changes: Mapping[str, str], removed: list[str], added: list[str], words: Mapping[str, str]
) -> None:
    text = TEXT
    for old, new in changes.items():
        text = text.replace(old, new)
    before, after = _outline(TEXT), _outline(text)
    found = difference_steps(before, after, diff_outlines(before, after), ("a.onnx", "b.onnx"))
    _check(found, 0, before)
    _check(found, 1, after)
    _check_changes(found)
    assert [step.title for step in found.steps] == ["a.onnx", "b.onnx"]
    assert [found.nodes[k].name for k in found.steps[1].removed] == removed
    assert [found.nodes[k].name for k in found.steps[1].added] == added
    said = {found.nodes[e.before].name: "; ".join(e.what) for e in found.steps[1].edits}
    for name, word in words.items():
        assert word in said[name]
    assert _at(found, 1)["other"].scope == ("if",)


def test_labels_are_shown_in_every_step() -> None:
    before = _outline(TEXT)
    history = History(before)
    found = graph_steps(history, Labels({"relu": "int8"}, {"last": ("kept in float",)}))
    nodes = _at(found, 0)
    assert nodes["relu"].precision == "int8"
    assert nodes["last"].badges == ("kept in float",)
    assert (nodes["if"].precision, nodes["if"].badges) == ("", ())


def test_a_history_goes_on_with_another_run() -> None:
    weight = np.ones((2, 2, 1, 1), np.float32)
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2,2,1,1] w>
        { [same] a = Identity(x)  [conv] c = Conv(a, w)  [again] d = Identity(c)  [relu] y = Relu(d) }
    """)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    passes = choose_pipeline(passes="remove-dead,remove-noops,merge-duplicates").passes
    first = History()
    PassManager(passes, (first,)).run(
        from_proto(model), choose_pipeline(passes=list(passes)).context(None, 1, None, None)
    )
    assert [step.record.index for step in first.steps] == [1, 2, 3]
    # The second run has a pass of its own in front, which changes the graph and is no part of the pipeline.
    other = choose_pipeline(passes="remove-noops,remove-dead,merge-duplicates")
    branch = first.until(1, {2: 2, 3: 3})
    PassManager(other.passes, (branch,)).run(from_proto(model), other.context(None, 1, None, None))
    assert [(s.record.index, s.record.name) for s in branch.steps] == [
        *((1, "remove-dead"), (2, "remove-dead"), (3, "merge-duplicates"))
    ]
    assert branch.steps[0] is first.steps[0]
    assert [n.name for n in branch.steps[1].diff.removed] == ["same", "again"]
    assert len(first.steps) == 3
    _check_changes(graph_steps(branch))
