"""What an HTML report holds, as plain data: the contract between what gathers it and the page that shows it.

The page gets a `Payload` as JSON (`report.summary.plain` makes that of it: dataclasses become objects with the
same names). A graph is stored once for all steps: each node and each tensor in each of its versions, with
the steps at which that version is there. Sections are generic, so that the page needs to know nothing about passes,
targets or precisions: text, figures, tables with typed columns, and charts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Cell: TypeAlias = str | int | float | None
"""What a table holds: texts and numbers; None is shown as nothing, and sorted last."""

ColumnKind = Literal["text", "number", "node", "tensor", "step"]
Unit = Literal["", "bytes", "seconds", "dB", "percent", "points", "count"]
"""What a cell's number counts: a share of a half is 50 in "percent", a latency of 2 ms is 0.002 in "seconds"."""
Tone = Literal["", "good", "warning", "bad"]


@dataclass(frozen=True)
class NodeVersion:
    """A node as it is at the steps `since` to `until` − 1.

    Attributes:
        name: unique among the nodes of a step.
        op: operator, with the domain where that isn't the standard one.
        scope: names of the nodes whose bodies it is in, outermost first.
        inputs, outputs: names of tensors; "" where one is left out.
        attributes: name → value as text.
        since: the first step that has it so.
        until: the first one that hasn't; the number of steps when the result has it.
        precision: what computes it in the result, "int8", "float32"; "" where that isn't known or doesn't apply.
        badges: short facts to draw on it: "kept in float", "12.3 dB".
    """

    name: str
    op: str
    scope: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, str]
    since: int
    until: int
    precision: str = ""
    badges: tuple[str, ...] = ()


@dataclass(frozen=True)
class TensorVersion:
    """A tensor, likewise.

    Attributes:
        name: unique among the tensors of a step.
        type: element type and shape, as text: "float32[1,64,56,56]".
        constant: whether its values are stored in the model.
        nbytes: of a constant's values; 0 for others.
        since, until: as in `NodeVersion`.
    """

    name: str
    type: str
    constant: bool
    nbytes: int
    since: int
    until: int


@dataclass(frozen=True)
class NodeChange:
    """A node that a step has changed: places in `GraphSteps.nodes`, and what has changed, in words."""

    before: int
    after: int
    what: tuple[str, ...]


@dataclass(frozen=True)
class StepRemark:
    """What a pass said: `kind` is "applied", "declined" or "note"; `node` is "" when it is about the whole model."""

    kind: str
    node: str
    op: str
    message: str


@dataclass(frozen=True)
class Step:
    """The graph at one moment: as it came, or behind a pass that ran.

    Attributes:
        index: the pass's number in the pipeline, from 1; 0 for the graph as it came.
        title: name of the pass; for the first "the model", in a difference of two models the files' names.
        options: of the pass, those that aren't the default, as text.
        seconds: wall time; None where there is none.
        lossless: whether the pass promises the same outputs; None where there is no pass.
        changed: whether the pass changed the graph.
        nodes, nbytes: (before, after).
        removed: places in `GraphSteps.nodes` of versions that this step ends, and added: of those that it begins,
            without those in `edits`.
        edits: nodes that it has changed.
        rewrites: differences that belong together, each with (removed, added, edited) places as above; of an edited
            node the place of the new version.
        remarks: what the pass said.
        figures: short facts: ("numerics", "same outputs"), ("memory", "812 MB").
    """

    index: int
    title: str
    options: str
    seconds: float | None
    lossless: bool | None
    changed: bool
    nodes: tuple[int, int]
    nbytes: tuple[int, int]
    removed: tuple[int, ...] = ()
    added: tuple[int, ...] = ()
    edits: tuple[NodeChange, ...] = ()
    rewrites: tuple[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], ...] = ()
    remarks: tuple[StepRemark, ...] = ()
    figures: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class GraphSteps:
    """A graph through the passes. In nodes and tensors `since` and `until` count places in `steps`, from 0."""

    nodes: tuple[NodeVersion, ...]
    tensors: tuple[TensorVersion, ...]
    steps: tuple[Step, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Column:
    """A column. Cells of kind "node" are names of nodes and link to the graph; "tensor" to who makes it; "step" are
    places in `GraphSteps.steps` and link there, shown as the step's title.
    """

    title: str
    kind: ColumnKind = "text"
    unit: Unit = ""


@dataclass(frozen=True)
class TableData:
    """A table that can be sorted by every column and searched. `note`: a line above it."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Bars:
    """Bars, one group for each item: `values[i][k]` is of item i in series k, None where there is none.

    `nodes[i]` is the node that item i links to, "" for none. The order is the one given.
    """

    title: str
    axis: str
    series: tuple[str, ...]
    items: tuple[str, ...]
    nodes: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    logarithmic: bool = False
    kind: Literal["bars"] = "bars"


@dataclass(frozen=True)
class HistogramData:
    """How often values were seen: `counts[i]` between `edges[i]` and `edges[i + 1]`; `marks` are (label, value) lines:
    thresholds of the range that was chosen, the zero point. `tensor` is what it is of.
    """

    title: str
    tensor: str
    edges: tuple[float, ...]
    counts: tuple[float, ...]
    marks: tuple[tuple[str, float], ...]
    kind: Literal["histogram"] = "histogram"


@dataclass(frozen=True)
class Point:
    """A point of a chart: `mark` distinguishes the one that shipped."""

    x: float
    y: float
    label: str = ""
    mark: bool = False


@dataclass(frozen=True)
class Scatter:
    """Points in series, (name, points, joined by a line)."""

    title: str
    x_axis: str
    y_axis: str
    series: tuple[tuple[str, tuple[Point, ...], bool], ...]
    x_logarithmic: bool = False
    y_logarithmic: bool = False
    kind: Literal["scatter"] = "scatter"


Chart: TypeAlias = Bars | HistogramData | Scatter


@dataclass(frozen=True)
class Figure:
    """One of a section's headline figures: "Size", "26 kB", "3.7 times smaller"."""

    label: str
    value: str
    note: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        id: for links within the page: "summary", "layers".
        title: its heading.
        text: paragraphs.
        warnings: what must not be overlooked.
        figures, tables, charts: in this order.
        gallery: charts of which one is shown at a time, chosen by title or by search: there may be hundreds.
        commands: (label, text to paste somewhere) pairs, shown behind the paragraphs with a button that copies.
    """

    id: str
    title: str
    text: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[TableData, ...] = ()
    charts: tuple[Chart, ...] = ()
    gallery: tuple[Chart, ...] = ()
    commands: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Payload:
    """A whole report: `title` is "model.onnx → model_int8.onnx for OpenVINO (CPU)"; `version` of graphopt.

    The page shows the first section, then the graph if there is one, then the other sections.
    """

    title: str
    version: str
    sections: tuple[Section, ...]
    graph: GraphSteps | None = None
