"""What mixed precision is worked out with: the parts that are decided about, what each choice loses and takes.

    regions      what a target runs as one kernel: precision never changes inside one    analysis/precision/regions.py
    borders      the tensors between regions: held once in each form that somebody reads
    sensitivity  error at the outputs of each weight and each tensor in a precision
    costs        what each region takes in each precision, and each conversion at a border
    problem      all of it, and what may be chosen: sums of errors and costs         analysis/precision/problem.py
    solution     a precision for each region

Error and cost of an assignment a: region → precision, the same for every solver:

    held(t)    = forms of the precisions of the regions that read t; float32 if t is an output of the model; the form of
                 its writer's precision where the writer `writes_form`
    written(t) = float32 for an input of the model; else the form of its writer's precision, and float32 as well where
                 that is an integer form and the writer doesn't `writes_form` (OpenVINO's kernels write either)
    error(a)   = Σ_regions weights[r, a(r)] + Σ_borders Σ_{f in held(t)} tensors[t, f]
    cost(a)    = fixed + Σ_regions regions[r, a(r)] + Σ_borders Σ_{f in held(t) − written(t)} conversions[t, f]

What isn't in a table is 0; float32 loses nothing. Errors add up because they are powers of noise that are taken to be
independent. With two precisions both sums are submodular, so that a minimum cut minimises error + λ·cost exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Assignment: TypeAlias = Mapping[str, str]
"""Name of a region → name of its precision (`quant.precision.PRECISIONS`)."""

CostKind = Literal["latency", "size", "bits"]
Grade = Literal["weights", "local", "output"]


@dataclass(frozen=True)
class Region:
    """Nodes of the main graph that the target runs as one kernel.

    Attributes:
        name: of its main node (the Conv of Conv + Relu + Add); unique.
        op: that node's operator.
        nodes: names of its nodes, in graph order; the main node is among them.
        carried: names of nodes that only move values behind it (MaxPool, Reshape …): they run in whatever form they are
            given, and belong to no decision. Those behind an input of the model belong to the first region that reads.
        precisions: what the target can run it in; "float32" always is among them.
        weights: names of the constants that are stored in the region's precision, each once.
        result: name of the tensor that it writes, behind fused activations; the first where there are several.
        writes_form: its 8-bit kernel writes integers itself, whoever reads them (onnxruntime's QLinearConv).
        needs_reader: it only runs in 8 bits where a region that reads its result does (a residual Add, a pool).
    """

    name: str
    op: str
    nodes: tuple[str, ...]
    carried: tuple[str, ...]
    precisions: tuple[str, ...]
    weights: tuple[str, ...]
    result: str
    writes_form: bool = False
    needs_reader: bool = False


@dataclass(frozen=True)
class Border:
    """A tensor that regions read, or that an input of the model is; seen through operators that only move values.

    Attributes:
        tensor: its name, in front of what moves it.
        writer: name of the region that makes it; None for an input of the model.
        readers: names of the regions that read it, each once; a writer that reads itself isn't among them.
        is_output: it is an output of the model too, which is float32.
    """

    tensor: str
    writer: str | None
    readers: tuple[str, ...]
    is_output: bool = False


@dataclass(frozen=True)
class Regions:
    """A main graph in regions, in graph order, and the borders between them, likewise."""

    regions: tuple[Region, ...]
    borders: tuple[Border, ...]

    def __getitem__(self, name: str) -> Region:
        return self.by_name[name]

    @property
    def by_name(self) -> dict[str, Region]:
        """Each region under its name."""
        return {region.name: region for region in self.regions}

    @property
    def of_node(self) -> dict[str, Region]:
        """Name of each decided node → its region."""
        return {node: region for region in self.regions for node in region.nodes}


@dataclass(frozen=True)
class Sensitivity:
    """What is lost by holding things in few bits, one at a time. Relative powers of noise: noise / signal, at least 0.

    Attributes:
        grade: "weights": from the weights alone; "local": of what the region, or the tensor, itself holds, weighted
            with how much of it reaches the outputs; "output": measured at the model's outputs.
        weights: (region, precision) → with its weights, and its arithmetic, in that precision.
        tensors: (border's tensor, form) → with the tensor rounded to that form for all its readers.
        forbidden: (region, precision) → why it can't have it: a value would overflow, or a sum.
        samples: how many were run; 0 without data.
    """

    grade: Grade
    weights: Mapping[tuple[str, str], float]
    tensors: Mapping[tuple[str, str], float]
    forbidden: Mapping[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    samples: int = 0


@dataclass(frozen=True)
class Costs:
    """What the regions take.

    Attributes:
        kind: "latency": seconds of a call; "size": bytes of stored weights, scales included; "bits":
            multiply-accumulates times the bits of their weights.
        regions: (region, precision) → its cost, what it carries included.
        conversions: (border's tensor, form) → making that form from the one that its writer writes.
        fixed: what no decision changes: (bytes of constants outside of regions, nodes of nested graphs …).
        source: where the figures come from: "profile of onnxruntime 1.31.1", "roofline of SM86, an estimate".
        estimated: nothing was measured.
    """

    kind: CostKind
    regions: Mapping[tuple[str, str], float]
    conversions: Mapping[tuple[str, str], float]
    fixed: float = 0.0
    source: str = ""
    estimated: bool = False


@dataclass(frozen=True)
class Problem:
    """What a solver is given.

    Attributes:
        regions: with what may be chosen for each.
        choices: region → precisions that are left to it: its own, without what is forbidden or what the user rules out;
            never empty.
        sensitivity: the errors.
        costs: the costs.
    """

    regions: Regions
    choices: Mapping[str, tuple[str, ...]]
    sensitivity: Sensitivity
    costs: Costs


@dataclass(frozen=True)
class Solution:
    """One assignment, with the error and the cost that the problem's tables give it.

    Attributes:
        precisions: of every region.
        error: relative power of noise; 10·log10(1 / error) is the SQNR that it predicts.
        cost: in the unit of the problem's costs, `fixed` included.
        proven: no assignment has a smaller error at this cost; False for a heuristic's, or where time ran out.
    """

    precisions: Assignment
    error: float
    cost: float
    proven: bool = True
