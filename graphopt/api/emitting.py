"""The file that a result is written to: ONNX, or the format of the target's engine. The name's suffix decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from graphopt.backends.litert_writer import Io, Written, open_sizes, write_tflite
from graphopt.errors import ConfigError
from graphopt.ir import Graph, check_output_path, load, save, to_proto
from graphopt.ir.files import data_path
from graphopt.ir.write import wants_data_file
from graphopt.report.units import counted
from graphopt.targets import TARGETS, Target

TFLITE = ".tflite"
# What is no ONNX model whatever its name says: formats of engines, and of what goes into graphopt.
_OTHERS = frozenset({TFLITE, ".engine", ".plan", ".trt", ".xml", ".bin", ".ort", ".npz", ".toml", ".json"})


@dataclass(frozen=True)
class Saved:
    """What was written.

    Attributes:
        files: the model's file, and its data file where it has one.
        notes: what the user has to know to run it.
    """

    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def emit(
    model: object,
    output: str | Path | None = None,
    *,
    io: Io = "float",
    keep_layout: bool = False,
    sizes: Mapping[str, int] | None = None,
    base_dir: str | Path | None = None,
) -> Written:
    """Write a float, Q/DQ or mixed model as .tflite for LiteRT, with the scales it has.

    Args:
        model: whatever `graphopt.load` takes.
        output: where to save it, a name that ends in .tflite; None: the result has the bytes.
        io: "int8": inputs and outputs that have a Q/DQ pair at the edge are int8, without the conversions.
        keep_layout: images keep ONNX's axis order (N, C, H, W) at the edges.
        sizes: numbers for symbolic sizes, by symbol ("height") or by input and axis ("x:2"). The batch may stay open.
        base_dir: folder of the external data of a model that isn't given as a path.

    Raises:
        ConfigError: `output` has another suffix or would overwrite the model, or `sizes` names what isn't there.
        UnsupportedError: LiteRT is not installed, a size is open, or nodes have no form in LiteRT: all are listed.
        LoadError: the model can't be read.
        EmitError: the file can't be written, or would be larger than 2 GiB.
    """
    if output is not None:
        if Path(output).suffix.lower() != TFLITE:
            raise ConfigError(f"{output}: emit writes .tflite files; give a name that ends in .tflite")
        check_output(output, (model,))
    graph = load(model, base_dir=base_dir)
    check_output(output, graph.facts.source_files)
    written = write_tflite(to_proto(graph), io=io, keep_layout=keep_layout, sizes=sizes)
    if output is not None:
        written.save(output)
    return written


def check_output(output: str | Path | None, inputs: Sequence[object]) -> None:
    """Refuse an output that can't be written, or that would overwrite one of the `inputs` that is a file.

    Raises:
        ConfigError: it is one of the inputs.
        EmitError: it can't be written.
    """
    if output is None:
        return
    check_output_path(Path(output), tuple(Path(i) for i in inputs if isinstance(i, (str, Path))))


def check_format(output: str | Path | None, target: Target | None) -> None:
    """Refuse a name that promises a format which isn't written for `target`.

    Raises:
        ConfigError: the name ends like another engine's format.
    """
    suffix = "" if output is None else Path(output).suffix.lower()
    if not suffix or (target is not None and suffix == target.own_format):
        return
    made_for = [t.name for t in TARGETS.values() if t.own_format == suffix]
    if made_for:
        found = "no target is given" if target is None else f"this result is for {target.name}"
        raise ConfigError(
            f"{output}: {suffix} files are written for the target {made_for[0]}, and {found}: "
            f"compile for {made_for[0]}, or choose a name that ends in .onnx"
        )
    if suffix in _OTHERS:
        raise ConfigError(f"{output}: the result is an ONNX model: give it a name that ends in .onnx")


def check_sizes(output: str | Path | None, graph: Graph) -> None:
    """Refuse, before any work is done, to write a model whose sizes are open in a format that has none.

    Raises:
        ConfigError: an input has a symbolic size besides the batch.
    """
    if output is not None and Path(output).suffix.lower() == TFLITE and (found := open_sizes(graph)):
        raise ConfigError(
            f"{output}: a .tflite needs every size but the batch's, and these are open: {', '.join(found)}. "
            "Write .onnx, and then `graphopt emit MODEL.onnx -o MODEL.tflite --size NAME=N`"
        )


def save_result(
    graph: Graph, path: str | Path, target: Target | None, *, external_data: bool | None = None
) -> Saved:  # fmt: skip
    """Write a compiled model in the format that the name asks for; it appears complete or not at all.

    Raises:
        ConfigError: `path` is one of the files that the model came from, or its format isn't written for `target`.
        UnsupportedError: nodes have no form in the engine's format: all are listed.
        EmitError: it can't be written.
    """
    path = Path(path)
    check_format(path, target)
    if path.suffix.lower() != TFLITE:
        save(graph, path, external_data=external_data)
        has_data = wants_data_file(graph) if external_data is None else external_data
        return Saved((path, data_path(path)) if has_data else (path,))
    check_output_path(path, graph.facts.source_files)
    model = to_proto(graph)
    written = write_tflite(model)
    written.save(path)
    return Saved((path,), (_described(written, path), *_moved_axes(written, model)))


def _described(written: Written, path: Path) -> str:
    parts = ", ".join(f"{n} {kind}" for kind, n in sorted(written.operators.items()))
    return f"{path.name} has {counted(sum(written.operators.values()), 'operator')}: {parts}"


def _moved_axes(written: Written, model: onnx.ModelProto) -> list[str]:
    """Which inputs and outputs are stored in another order than the ONNX model's."""
    ports = (
        *(("input", v.name, written.inputs.get(v.name)) for v in model.graph.input),
        *(("output", v.name, written.outputs.get(v.name)) for v in model.graph.output),
    )
    return [
        f"{kind} '{name}' has its channels last: axes {' '.join(map(str, order))} of the ONNX model's"
        for kind, name, order in ports
        if order is not None and list(order) != sorted(order)
    ]
