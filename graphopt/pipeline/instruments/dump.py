"""Write the graph as text after every pass, and every remark, into a folder.

    000_input.txt   001_fold-constants.txt   002_remove-noops.txt   …   remarks.jsonl

Numbers are places in the pipeline; 000 is the graph as it came. A pass that changed neither graph nor plan writes no
file: its text is that of the file before. When a pass fails, its number holds the graph as the failure left it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from graphopt.errors import ConfigError
from graphopt.ir import Graph
from graphopt.ir.printer import print_graph
from graphopt.ir.write import save
from graphopt.pipeline.instrument import Failure, Instrument, PassRecord
from graphopt.pipeline.passes import Context, Pass


class Dump(Instrument):
    """Writes into `folder`, which is made when it isn't there; files of the same names are replaced, others stay.

    `models`: also write each graph as a model, `NNN_pass.onnx`.
    """

    def __init__(self, folder: Path, *, models: bool = False) -> None:
        self.folder = folder
        self.models = models
        self._said = 0
        self._text = ""

    def start(self, passes: Sequence[Pass], graph: Graph, ctx: Context) -> None:
        """Make the folder and write the input.

        Raises:
            ConfigError: the folder can't be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "remarks.jsonl").write_text("", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"can't write into the dump folder '{self.folder}' ({error.strerror})") from error
        self._said = 0
        self._text = ""
        self._remarks(0, ctx)
        self._graph("000_input", graph, with_model=self.models)

    def after_pass(self, pass_: Pass, record: PassRecord, graph: Graph, ctx: Context) -> None:
        """Write the graph if the pass changed it or its plan, and what the pass said."""
        self._remarks(record.index, ctx)
        self._graph(f"{record.index:03}_{record.name}", graph, with_model=self.models and record.changed)

    def on_failure(self, pass_: Pass, index: int, graph: Graph, ctx: Context, error: Failure) -> None:
        """Write what the pass said, and the graph as it is, as text only: it may be no model any more."""
        self._remarks(index, ctx)
        (self.folder / f"{index:03}_{pass_.name}.txt").write_text(print_graph(graph), encoding="utf-8")

    def _graph(self, name: str, graph: Graph, *, with_model: bool) -> None:
        text = print_graph(graph)
        if text != self._text:
            (self.folder / f"{name}.txt").write_text(text, encoding="utf-8")
            self._text = text
        if with_model:
            save(graph, self.folder / f"{name}.onnx")

    def _remarks(self, index: int, ctx: Context) -> None:
        """Append the remarks made since last time, one JSON object a line."""
        with (self.folder / "remarks.jsonl").open("a", encoding="utf-8") as file:
            for remark in ctx.remarks.items[self._said :]:
                file.write(json.dumps({"index": index, **asdict(remark)}, ensure_ascii=False) + "\n")
        self._said = len(ctx.remarks.items)
