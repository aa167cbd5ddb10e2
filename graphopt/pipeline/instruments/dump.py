"""Write the graph as text after every pass, what changed, and every remark, into a folder.

    index.html              all passes on one page: time, memory, what changed, what was done and declined, and why
    000_input.txt           the graph as it came
    001_fold-constants.txt  the graph after pass 1      001_fold-constants.diff   against the text before
    passes.jsonl            figures of every pass       remarks.jsonl             every remark, one JSON object a line

Numbers are places in the pipeline. A pass that changed neither graph nor plan writes no text: it is that of the file
before. When a pass fails, its number holds the graph as the failure left it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from graphopt.errors import ConfigError
from graphopt.ir import Graph
from graphopt.ir.printer import ValueTexts, print_graph
from graphopt.ir.write import save
from graphopt.pipeline.instrument import Failure, Instrument, PassRecord
from graphopt.pipeline.instruments.dump_page import DumpedPass, dump_page
from graphopt.pipeline.instruments.numerics import Numerics
from graphopt.pipeline.instruments.text_diff import text_diff
from graphopt.pipeline.memory import peak_memory
from graphopt.pipeline.passes import Context, Pass
from graphopt.pipeline.remarks import Remark


class Dump(Instrument):
    """Writes into `folder`, which is made when it isn't there; files of the same names are replaced, others stay.

    Args:
        folder: where to.
        models: also write each graph as a model, `NNN_pass.onnx`.
        numerics: the instrument of the same run that compares outputs, whose results go into the pages.
    """

    def __init__(self, folder: Path, *, models: bool = False, numerics: Numerics | None = None) -> None:
        self.folder = folder
        self.models = models
        self.numerics = numerics
        self._begin()

    def start(self, passes: Sequence[Pass], graph: Graph, ctx: Context) -> None:
        """Make the folder and write the input.

        Raises:
            ConfigError: the folder can't be made.
        """
        self._begin()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in ("remarks.jsonl", "passes.jsonl"):
                (self.folder / name).write_text("", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"can't write into the dump folder '{self.folder}' ({error.strerror})") from error
        self._title = graph.name
        self._remarks(0, ctx)
        self._graph("000_input", graph)
        if self.models:
            save(graph, self.folder / "000_input.onnx")

    def after_pass(self, pass_: Pass, record: PassRecord, graph: Graph, ctx: Context) -> None:
        """Write the graph if the pass changed it or its plan, and what the pass said."""
        began = time.perf_counter()
        remarks = self._remarks(record.index, ctx)
        stem = f"{record.index:03}_{record.name}"
        # Passes that only change the plan move no revision.
        diff = self._graph(stem, graph) if record.changed or graph.plan or self._planned else ""
        if self.models and record.changed:
            save(graph, self.folder / f"{stem}.onnx")
        seconds = time.perf_counter() - began
        self._passes.append(DumpedPass(record, remarks, stem if diff else "", diff, peak_memory(), seconds))

    def finish(self, graph: Graph, ctx: Context) -> None:
        """Write the page."""
        self._page("")

    def on_failure(self, pass_: Pass, index: int, graph: Graph, ctx: Context, error: Failure) -> None:
        """Write what the pass said, and the graph as it is, as text only: it may be no model any more."""
        self._remarks(index, ctx)
        self._page(f"pass {index}, {pass_.name}, failed: {error}")
        (self.folder / f"{index:03}_{pass_.name}.txt").write_text(print_graph(graph), encoding="utf-8")

    def _begin(self) -> None:
        self._said = 0
        self._text = self._title = ""
        self._planned = False  # the last text has a plan
        self._passes: list[DumpedPass] = []
        self._values = ValueTexts()

    def _graph(self, name: str, graph: Graph) -> str:
        """Write the text if it isn't the last one; returns how it differs from that."""
        text, last = print_graph(graph, self._values), self._text
        self._planned = bool(graph.plan)
        diff = ""
        if text != last:
            (self.folder / f"{name}.txt").write_text(text, encoding="utf-8")
            self._text = text
            if last:
                diff = text_diff(last, text, name)
                (self.folder / f"{name}.diff").write_text(diff, encoding="utf-8")
        return diff

    def _remarks(self, index: int, ctx: Context) -> tuple[Remark, ...]:
        """Append the remarks made since last time, one JSON object a line."""
        new = tuple(ctx.remarks.items[self._said :])
        with (self.folder / "remarks.jsonl").open("a", encoding="utf-8") as file:
            for remark in new:
                file.write(json.dumps({"index": index, **vars(remark)}, ensure_ascii=False) + "\n")
        self._said = len(ctx.remarks.items)
        return new

    def _page(self, failure: str) -> None:
        # Outputs of a pass are compared after this instrument has seen it, so that a failure has its graph here.
        checked = set[int]() if self.numerics is None else self.numerics.checked
        lines = [json.dumps(p.to_dict(checked), ensure_ascii=False, default=str) for p in self._passes]
        (self.folder / "passes.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        (self.folder / "index.html").write_text(
            dump_page(self._title, self._passes, checked, failure), encoding="utf-8"
        )
