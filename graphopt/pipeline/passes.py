"""What a pass is, and what it is given."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from onnx import ModelProto

from graphopt.ir import Graph
from graphopt.ir.cancelling import check_cancelled
from graphopt.pipeline.remarks import Remarks
from graphopt.quant import Range
from graphopt.targets.spec import Target

if TYPE_CHECKING:  # calibration brings onnxruntime in, which lossless passes don't need
    from graphopt.analysis.precision.record import PrecisionChoice
    from graphopt.analysis.pruning.elimination_record import Elimination
    from graphopt.calibration import DataHash, Dataset, Statistic

Progress = Callable[[str, int, int | None], None]
"""(what is being done, steps done, steps in all or None) → nothing."""

_Item = TypeVar("_Item")

_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass(frozen=True)
class Resources:
    """What calibration may use. The ranges don't depend on any of it.

    Attributes:
        workers: processes that share the samples.
        batch_size: samples in a model call, where the model gives the same bits for them; None chooses.
        providers: onnxruntime's execution providers in order of preference; empty means the CPU.
        memory_budget: bytes that observed tensors may take at a time; None means a quarter of what is available.
        checkpoint: a file that an interrupted calibration goes on from.
    """

    workers: int = 1
    batch_size: int | None = None
    providers: tuple[str, ...] = ()
    memory_budget: int | None = None
    checkpoint: Path | None = None


@dataclass
class Context:
    """What a pass may use besides the graph. `target`, `calibration` and `ranges` are None when the user gave none.

    `histograms` asks for histograms of the observed tensors whatever the method needs; `statistics` is what `calibrate`
    observed, for whoever wants to save or draw it, and `data` takes in the samples that it ran. `kept` is what passes
    before it chose by the samples, under names of their own: it is saved with the ranges, which depend on it, and comes
    back among `ranges`. `reference` is the float model as it was before a pass first changed a weight at the expense of
    the outputs; None until then. `elimination` is what `eliminate-channels` did, `precision` what
    `assign-precision` did. `progress` is told what goes on in `report`.
    """

    remarks: Remarks = field(default_factory=Remarks)
    target: Target | None = None
    calibration: Dataset | None = None
    ranges: dict[str, Range] | None = None
    threads: int | None = None
    resources: Resources = Resources()
    histograms: bool = False
    statistics: dict[str, Statistic] = field(default_factory=dict[str, "Statistic"])
    data: DataHash | None = None
    kept: dict[str, Range] = field(default_factory=dict[str, Range])
    reference: ModelProto | None = None
    elimination: Elimination | None = None
    precision: PrecisionChoice | None = None
    progress: Progress | None = None

    def report(self, what: str, done: int, total: int | None = None) -> None:
        """Say how far work has come, between two steps of it.

        Raises:
            Cancelled: the run shall end here.
        """
        check_cancelled()
        if self.progress is not None:
            self.progress(what, done, total)

    def steps(self, what: str, items: Sequence[_Item]) -> Iterator[_Item]:
        """The items, with a report before each and at the end. Raises as `report` does."""
        for done, item in enumerate(items):
            self.report(what, done, len(items))
            yield item
        self.report(what, len(items), len(items))


@dataclass(frozen=True)
class Pass:
    """A rewrite. Subclasses are frozen dataclasses; their fields are the pass's options (CLI, TOML and help read them).

    `name` is the pass's name in pipelines, `lossless` promises the same outputs up to float rounding (the Numerics
    instrument holds it to that), `summary` is one line of help. A class that gives neither is named as it is called
    (DropClips: "drop-clips") and described by the first line of its docstring. No state survives `run`.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    lossless: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not hasattr(cls, "name"):
            cls.name = _WORDS.sub("-", cls.__name__).lower()
        if not hasattr(cls, "summary"):
            cls.summary = (cls.__doc__ or "").strip().partition("\n")[0].rstrip(".")

    def run(self, graph: Graph, ctx: Context) -> None:
        """Rewrite `graph` in place; say what was done and declined in `ctx.remarks`."""
        raise TypeError(f"{type(self).__name__} defines no run()")
