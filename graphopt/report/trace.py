"""A node's life: where it came from, what each pass did to it and said about it, what became of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graphopt.analysis.graph_diff import Rewrite
from graphopt.errors import ConfigError, nearest
from graphopt.ir.outline import NodeOutline
from graphopt.pipeline.instruments.history import History, Step
from graphopt.report.document import Document, Line, Table

_MOST_NAMED = 6


@dataclass(frozen=True)
class Event:
    """Something that happened to a node.

    Attributes:
        index: number of the pass; 0 for the model as it came.
        pass_name: its name; "" likewise.
        what: "given", "born", "changed", "removed", "remark".
        text: how, in words.
        others: the nodes that it was born from, or that it went into.
    """

    index: int
    pass_name: str
    what: str
    text: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Life:
    """What became of one node.

    Attributes:
        node: its name in the model as it came, or the one that it was born with.
        op: its operator, at first.
        events: in order.
        name: its name in the result; None where it isn't there any more.
        heirs: nodes of the result that what it went into has become; empty while it is there itself.
    """

    node: str
    op: str
    events: tuple[Event, ...]
    name: str | None
    heirs: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """As plain data."""
        return {
            "node": self.node,
            "op": self.op,
            "name": self.name,
            "heirs": list(self.heirs),
            "events": [
                {"index": e.index, "pass": e.pass_name, "what": e.what, "text": e.text, "others": list(e.others)}
                for e in self.events
            ],
        }


def life_of(history: History, node: str) -> Life:
    """The life of a node of the model as it came, of the result, or of anything in between.

    Raises:
        ConfigError: no graph of the run has a node of this name.
    """
    assert history.before is not None
    graphs = [history.before, *(step.after for step in history.steps)]
    born = next((k for k, graph in enumerate(graphs) if node in graph.nodes), None)
    if born is None:
        known = {name: None for graph in graphs for name in graph.nodes}
        raise ConfigError(f"no graph of this run has a node '{node}': {nearest(node, known)}")
    first = graphs[born].nodes[node]
    events = list(_birth(history, born, first))
    name: str | None = node
    heirs: tuple[str, ...] = ()
    for number, step in enumerate(history.steps[born:], born):
        events += [_said(step, r.kind, r.message) for r in step.remarks if r.node == name]
        if step.diff is None:
            continue
        rewrite = _of(step.diff.rewrites, name)
        if name not in step.diff.matched:
            heirs = _successors(rewrite)
            into = f" into {_named(heirs)}" if heirs else ""
            events.append(Event(step.record.index, step.record.name, "removed", f"removed{into}", heirs))
            heirs = _last_heirs(history.steps[number + 1 :], heirs)
            name = None
            break
        changed = next((c for c in step.diff.changed if c.before.name == name), None)
        if changed is not None:
            events.append(Event(step.record.index, step.record.name, "changed", "; ".join(changed.what)))
        name = step.diff.matched[name]
    return Life(node, first.op, tuple(events), name, heirs)


def life_page(life: Life) -> Document:
    """The life as a table of events."""
    end = f"'{life.name}' in the result" if life.name is not None else "not in the result"
    if life.heirs:
        end += f"; what it went into: {_named(life.heirs)}"
    rows = tuple((str(e.index) if e.index else "", e.pass_name or "the model", e.what, e.text) for e in life.events)
    return [
        Line(f"{life.op} '{life.node}'", "title"),
        Table((">", "pass", "", ""), rows),
        Line(f"  {end}", "good" if life.name is not None else "plain"),
    ]


def _birth(history: History, born: int, node: NodeOutline) -> Iterator[Event]:
    if born == 0:
        yield Event(0, "", "given", f"reads {_named(node.inputs)}; makes {_named(node.outputs)}")
        return
    step = history.steps[born - 1]
    rewrite = _of(step.diff.rewrites if step.diff is not None else (), node.name)
    parents = () if rewrite is None else tuple(n.name for n in (*rewrite.removed, *(c.before for c in rewrite.changed)))
    origin = f" from {_named(parents)}" if parents else ""
    yield Event(step.record.index, step.record.name, "born", f"born{origin}", parents)
    yield from (_said(step, r.kind, r.message) for r in step.remarks if r.node == node.name)


def _said(step: Step, kind: str, message: str) -> Event:
    return Event(step.record.index, step.record.name, "remark", f"{kind}: {message}")


def _of(rewrites: Sequence[Rewrite], name: str | None) -> Rewrite | None:
    """The rewrite that a node is part of."""
    for rewrite in rewrites:
        names = [n.name for n in (*rewrite.removed, *rewrite.added)]
        if name in names or any(name in (c.before.name, c.after.name) for c in rewrite.changed):
            return rewrite
    return None


def _successors(rewrite: Rewrite | None) -> tuple[str, ...]:
    """What a removed node went into: what its rewrite added, or else the nodes whose constants took it up."""
    if rewrite is None:
        return ()
    taken_up = [c.after.name for c in rewrite.changed if c.constants]
    return tuple(n.name for n in rewrite.added) or tuple(taken_up) or tuple(c.after.name for c in rewrite.changed)


def _last_heirs(steps: Sequence[Step], heirs: tuple[str, ...]) -> tuple[str, ...]:
    """The nodes of the result that came from these."""
    for step in steps:
        if step.diff is None:
            continue
        following: dict[str, None] = {}
        for heir in heirs:
            if heir in step.diff.matched:
                following[step.diff.matched[heir]] = None
            else:
                following.update(dict.fromkeys(_successors(_of(step.diff.rewrites, heir))))
        heirs = tuple(following)
    return heirs


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_MOST_NAMED] if name)
    return shown + (f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else "")
