"""What the report's graph view draws of a step, and where: the scripts without a page, run in a browser.

What they make is held to networkx and to counting in Python.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from importlib.resources import files
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

import networkx as nx
import pytest

from graphopt.report.html.payload import GraphSteps, NodeChange, NodeVersion, Step, StepRemark, TensorVersion

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SCRIPTS = (
    "graph_model.js",
    "graph_visible.js",
    "graph_groups.js",
    "graph_ranks.js",
    "graph_slots.js",
    "graph_layout.js",
)
OPTIONS = {"fold": True, "constants": False, "byPrecision": False, "scopes": False, "collapse": None, "opened": []}
DRAW = """([graph, step, options]) => {
  const model = new graphopt.GraphModel(graph);
  const all = graphopt.visibleStep(model, step, options);
  const seen = graphopt.groupVisible(all, {...options, opened: new Set(options.opened)});
  const members = (node) => node.members.flatMap((member) => member.places);
  return {
    nodes: Object.fromEntries([...seen.nodes].map(([id, node]) => [id, {...node, members: members(node)}])),
    edges: seen.edges, where: Object.fromEntries(seen.where),
  };
}"""


@pytest.fixture(scope="module")
def scripts(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    for name in SCRIPTS:
        page.add_script_tag(content=files("graphopt.report.html").joinpath("assets", name).read_text(encoding="utf-8"))
    yield page
    page.close()


def draw(page: Page, graph: GraphSteps, step: int, **options: object) -> dict[str, Any]:
    """The visible graph: `members` of groups are places of nodes."""
    return page.evaluate(DRAW, [asdict(graph), step, OPTIONS | options])


def node(
    name: str, op: str, inputs: Iterable[str], output: str, since: int = 0, until: int = 2, scope: tuple[str, ...] = ()
) -> NodeVersion:
    return NodeVersion(name, op, scope, tuple(inputs), (output,), {}, since, until)


def tensor(name: str, kind: str = "float32[1,4]", constant: bool = False) -> TensorVersion:
    return TensorVersion(name, kind, constant, 16 if constant else 0, 0, 2)


def step(index: int, **changes: Any) -> Step:
    return Step(index, f"pass{index}", "", None, None, bool(changes), (0, 0), (0, 0), **changes)


def quantized(until_changed: bool) -> GraphSteps:
    """input → Q → DQ → conv (weights through a DQ) → out; the pair is new in step 1 if `until_changed`."""
    since = 1 if until_changed else 0
    nodes = (
        node("q", "QuantizeLinear", ["input", "s", "z"], "xq", since),
        node("dq", "DequantizeLinear", ["xq", "s", "z"], "xd", since),
        node("wdq", "DequantizeLinear", ["w", "s"], "wd", since),
        node("conv", "Conv", ["xd", "wd"], "out"),
    )
    tensors = (
        *(tensor(name, constant=True) for name in ("s", "z", "w")),
        *(tensor(name) for name in ("input", "xd", "wd", "out")),
        tensor("xq", "uint8[1,4]"),
    )
    steps = (step(0), step(1, added=(0, 1, 2)) if until_changed else step(1))
    return GraphSteps(nodes, tensors, steps, ("input",), ("out",))


def test_a_pair_that_the_step_left_alone_is_a_mark_on_the_edge(scripts: Page) -> None:
    drawn = draw(scripts, quantized(False), 1)
    assert set(drawn["nodes"]) == {"i:input", "n:conv", "o:out"}
    into = next(edge for edge in drawn["edges"] if edge["target"] == "n:conv")
    assert (into["source"], into["type"], sorted(into["via"])) == ("i:input", "uint8", [0, 1])
    assert drawn["where"] == dict.fromkeys(("q", "dq", "wdq", "conv"), "n:conv")


def test_a_new_pair_is_drawn_as_one_node(scripts: Page) -> None:
    drawn = draw(scripts, quantized(True), 1)
    pair = drawn["nodes"]["n:q"]
    assert (pair["kind"], pair["change"], pair["places"]) == ("pair", "added", [0, 1])
    assert {(e["source"], e["target"]) for e in drawn["edges"]} >= {("i:input", "n:q"), ("n:q", "n:conv")}
    unfolded = draw(scripts, quantized(True), 1, fold=False)
    assert {id for id in unfolded["nodes"] if id.startswith("n:")} == {"n:q", "n:dq", "n:wdq", "n:conv"}
    assert {n["change"] for n in draw(scripts, quantized(True), 1, byPrecision=True)["nodes"].values()} == {""}


def test_a_pair_whose_integers_the_model_returns_is_drawn(scripts: Page) -> None:
    graph = quantized(False)
    drawn = draw(scripts, GraphSteps(graph.nodes, graph.tensors, graph.steps, graph.inputs, ("out", "xq")), 1)
    assert {"n:q", "n:dq"} <= set(drawn["nodes"])


def folded() -> GraphSteps:
    """Step 1 takes `norm` out from between `conv`, which it changes, and `relu`."""
    nodes = (
        node("conv", "Conv", ["input", "w"], "c", 0, 1),
        node("norm", "BatchNormalization", ["c"], "n", 0, 1),
        node("conv", "Conv", ["input", "v"], "n", 1),
        node("relu", "Relu", ["n"], "out"),
    )
    tensors = (*(tensor(name) for name in ("input", "c", "n", "out")), tensor("w", constant=True))
    said = StepRemark("applied", "norm", "BatchNormalization", "into conv")
    change = step(1, removed=(1,), edits=(NodeChange(0, 2, ("output 0: c → n",)),), remarks=(said,))
    return GraphSteps(nodes, tensors, (step(0), change), ("input",), ("out",))


def test_integers_behind_folded_constants_are_named(scripts: Page) -> None:
    graph = quantized(False)
    tensors = [t if t.name != "w" else tensor("w", "int4[4]", constant=True) for t in graph.tensors]
    stored = GraphSteps(graph.nodes, tuple(tensors), graph.steps, graph.inputs, graph.outputs)
    seen = """([graph, options]) => {
      const {nodes} = graphopt.visibleStep(new graphopt.GraphModel(graph), 0, options);
      return [...nodes.get("n:conv").stored];
    }"""
    assert scripts.evaluate(seen, [asdict(stored), OPTIONS]) == ["int4"]


def test_constants_are_drawn_when_asked_for(scripts: Page) -> None:
    nodes = (node("shape", "Constant", [], "s"), node("reshape", "Reshape", ["x", "s"], "y"))
    added = NodeVersion("scale", "Mul", (), ("y", "w"), ("out",), {}, 0, 2)
    graph = GraphSteps((*nodes, added), (tensor("w", constant=True),), (step(0), step(1)), ("x",), ("out",))
    assert set(draw(scripts, graph, 1)["nodes"]) == {"i:x", "n:reshape", "n:scale", "o:out"}
    assert draw(scripts, graph, 1)["where"]["shape"] == "n:reshape"
    assert set(draw(scripts, graph, 1, constants=True)["nodes"]) >= {"n:shape", "c:w"}


def test_removed_nodes_stand_where_they_were(scripts: Page) -> None:
    drawn = draw(scripts, folded(), 1)
    assert {id: n["change"] for id, n in drawn["nodes"].items() if n["change"]} == {
        "n:conv": "changed",
        "g:norm": "removed",
    }
    ghostly = {(e["source"], e["target"]) for e in drawn["edges"] if e["change"] == "removed"}
    assert ghostly == {("n:conv", "g:norm"), ("g:norm", "n:relu")}
    assert [(e["source"], e["target"]) for e in drawn["edges"] if e["change"] == "added"] == [("n:conv", "n:relu")]


def test_a_life_spans_all_versions(scripts: Page) -> None:
    life = """([graph, place]) => new graphopt.GraphModel(graph).life(place).map((e) => [e.step, e.kind, e.text])"""
    graph = asdict(folded())
    whole = [[0, "given", ""], [1, "changed", "output 0: c → n"]]
    assert scripts.evaluate(life, [graph, 0]) == scripts.evaluate(life, [graph, 2]) == whole
    assert scripts.evaluate(life, [graph, 1]) == [[0, "given", ""], [1, "applied", "into conv"], [1, "removed", ""]]


def test_search_names_first(scripts: Page) -> None:
    find = "([graph, text, step]) => new graphopt.GraphModel(graph).search(text, step)"
    graph = asdict(folded())
    assert scripts.evaluate(find, [graph, " NoRm ", 1]) == ["norm"]
    assert scripts.evaluate(find, [graph, "conv", 1]) == ["conv"]
    assert scripts.evaluate(find, [graph, "n", 1])[0] == "conv"  # there at the step, and in its name
    assert scripts.evaluate(find, [graph, "  ", 1]) == []


def test_bodies_are_inside_their_node_until_it_is_opened(scripts: Page) -> None:
    nodes = (
        node("if", "If", ["c"], "out"),
        node("add", "Add", ["x"], "t", scope=("if",)),
        node("neg", "Neg", ["t"], "r", scope=("if",)),
    )
    graph = GraphSteps(nodes, (), (step(0),), ("c", "x"), ("out",))
    closed = draw(scripts, graph, 0)
    assert closed["nodes"]["n:if"]["members"] == [1, 2]
    assert closed["where"]["neg"] == "n:if"
    opened = draw(scripts, graph, 0, opened=["n:if"])
    assert {(e["source"], e["target"]) for e in opened["edges"]} >= {("n:add", "n:neg"), ("n:neg", "n:if")}


def test_name_scopes_open_one_by_one(scripts: Page) -> None:
    names = [f"/{stage}/{block}/{op}" for stage in "ab" for block in "xy" for op in ("conv", "relu")]
    nodes = [node(name, "Relu", [f"t{k}"], f"t{k + 1}") for k, name in enumerate(names)]
    graph = GraphSteps(tuple(nodes), (), (step(0),), ("t0",), ("t8",))
    assert set(draw(scripts, graph, 0, scopes=True)["nodes"]) == {"i:t0", "s:/a", "s:/b", "o:t8"}
    opened = draw(scripts, graph, 0, scopes=True, opened=["s:/a"])
    assert set(opened["nodes"]) == {"i:t0", "s:/a/x", "s:/a/y", "s:/b", "o:t8"}


def test_groups_are_of_one_precision_where_that_is_drawn(scripts: Page) -> None:
    floats = {3, 4, 30}
    nodes = [
        NodeVersion(f"n{k}", "Relu", (), (f"t{k}",), (f"t{k + 1}",), {}, 0, 1, "float32" if k in floats else "int8")
        for k in range(60)
    ]
    graph = GraphSteps(tuple(nodes), (), (step(0),), ("t0",), ("t60",))
    drawn = draw(scripts, graph, 0, byPrecision=True, collapse=True)
    for seen in drawn["nodes"].values():
        assert len({nodes[place].precision for place in seen["members"]}) <= 1
    assert {drawn["where"][f"n{k}"] for k in floats} == {"n:n3", "n:n4", "n:n30"}


def random_steps(seed: int, size: int) -> GraphSteps:
    """A network of blocks with branches, skips and far connections; step 1 changes a few nodes and removes others."""
    rng = random.Random(seed)
    nodes: list[NodeVersion] = []
    changed: list[NodeChange] = []
    removed: list[int] = []
    for k in range(size):
        inputs = [f"t{max(0, k - rng.choice((0,) * 15 + (1, 2, 5)))}"]
        if rng.random() < 0.15:
            inputs.append(f"t{rng.randrange(k + 1) if rng.random() < 0.2 else max(0, k - 2)}")
        fate = rng.random()
        if fate < 0.03:
            nodes += [
                node(f"n{k}", "Conv", inputs, f"t{k + 1}", until=1),
                node(f"n{k}", "Conv", inputs, f"t{k + 1}", 1),
            ]
            changed.append(NodeChange(len(nodes) - 2, len(nodes) - 1, ("input 1: other values",)))
        else:
            gone = fate < 0.04
            nodes.append(
                node(f"n{k}", rng.choice(("Conv", "Relu", "Add")), inputs, f"t{k + 1}", until=1 if gone else 2)
            )
            removed += [len(nodes) - 1] * gone
    steps = (step(0), step(1, removed=tuple(removed), edits=tuple(changed)))
    return GraphSteps(tuple(nodes), (), steps, ("t0",), (f"t{size}",))


@pytest.mark.parametrize("seed", range(2))
def test_groups_hide_only_what_is_unchanged_and_make_no_cycle(scripts: Page, seed: int) -> None:
    graph = random_steps(seed, 230)
    for index in (0, 1):
        drawn = draw(scripts, graph, index)
        shown = [place for n in drawn["nodes"].values() for place in [*n["places"], *n["members"]]]
        there = [k for k, n in enumerate(graph.nodes) if n.since <= index < n.until]
        assert sorted(shown) == sorted([*there, *graph.steps[index].removed])
        touched = {*graph.steps[index].removed, *(edit.after for edit in graph.steps[index].edits)}
        assert not touched & {place for n in drawn["nodes"].values() for place in n["members"]}
        assert len(drawn["nodes"]) < 0.75 * len(there)
        links = nx.DiGraph((e["source"], e["target"]) for e in drawn["edges"])
        assert set(links) <= set(drawn["nodes"])
        assert nx.is_directed_acyclic_graph(links)
        # What reads what outside is still above it, in the group or out of it.
        whole = draw(scripts, graph, index, collapse=False)
        owner = {p: id for id, n in drawn["nodes"].items() for p in [*n["places"], *n["members"]]}
        ends = {id: owner.get(n["places"][0]) if n["places"] else id for id, n in whole["nodes"].items()}
        wanted = {(ends[e["source"]], ends[e["target"]]) for e in whole["edges"]}
        assert set(links.edges) == {(a, b) for a, b in wanted if a != b}


def layout(
    page: Page, size: int, edges: list[tuple[int, int]], widths: list[int], light: list[bool] | None = None
) -> Mapping[str, Any]:
    request = {
        "widths": widths,
        "heights": [34] * size,
        "light": light or [False] * size,
        "inputs": [k == 0 for k in range(size)],
        "sources": [a for a, _ in edges],
        "targets": [b for _, b in edges],
    }
    return page.evaluate("(request) => graphopt.layeredLayout(request)", request)


@pytest.mark.parametrize("seed", range(2))
def test_layout_draws_edges_downwards_and_nodes_apart(scripts: Page, seed: int) -> None:
    rng = random.Random(seed)
    size = 200
    edges = [
        (max(0, k - 1 - rng.choice((0, 0, 1, 3, 40))), k) for k in range(1, size) for _ in range(rng.choice((1, 2)))
    ]
    widths = [rng.randrange(40, 200) for _ in range(size)]
    found = layout(scripts, size, edges, widths)
    x, y = found["x"], found["y"]
    for (a, b), bends in zip(edges, found["bends"], strict=True):
        heights = [y[a], *bends[1::2], y[b]]
        assert all(upper <= lower for upper, lower in pairwise(heights))
        assert y[a] < y[b]
    for a, b in combinations(range(size), 2):
        assert y[a] != y[b] or abs(x[a] - x[b]) >= (widths[a] + widths[b]) / 2


def test_a_network_with_residuals_stays_upright(scripts: Page) -> None:
    blocks = 50
    edges = [pair for k in range(0, 3 * blocks, 3) for pair in ((k, k + 1), (k + 1, k + 2), (k + 2, k + 3), (k, k + 3))]
    found = layout(scripts, 3 * blocks + 1, edges, [100] * (3 * blocks + 1))
    assert max(found["x"]) - min(found["x"]) < 2


def test_what_stands_aside_does_not_bend_the_network(scripts: Page) -> None:
    """A chain of 40, and a removed node beside each second edge."""
    size = 40
    chain = [(k, k + 1) for k in range(size - 1)]
    ghosts = [(k, size + k // 2) for k in range(0, size - 1, 2)]
    edges = [*chain, *ghosts, *((ghost, k + 1) for k, ghost in ghosts)]
    total = size + len(ghosts)
    found = layout(scripts, total, edges, [100] * total, light=[k >= size for k in range(total)])
    assert max(found["x"][:size]) - min(found["x"][:size]) < 2
    assert all(abs(found["x"][ghost] - found["x"][0]) > 50 for _, ghost in ghosts)


def test_layout_takes_cycles_and_deep_graphs(scripts: Page) -> None:
    assert len(layout(scripts, 3, [(0, 1), (1, 2), (2, 0), (1, 1)], [50] * 3)["x"]) == 3
    deep = 5000  # recursion would run out of stack
    found = layout(scripts, deep, [(k, k + 1) for k in range(deep - 1)], [50] * deep)
    assert found["y"] == sorted(found["y"])
    assert len(set(found["y"])) == deep
    assert layout(scripts, 0, [], [])["x"] == []
