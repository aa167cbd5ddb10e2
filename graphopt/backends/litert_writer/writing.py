"""The whole way: read, choose axis orders, write operators, pack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onnx import ModelProto

from graphopt.backends.litert_writer import (
    lower_activations,
    lower_elementwise,
    lower_linear,
    lower_moves,
    lower_pools,
    lower_reductions,
    lower_resize,
)
from graphopt.backends.litert_writer.emitter import Emitter, Lowering
from graphopt.backends.litert_writer.facts import find_facts
from graphopt.backends.litert_writer.flat import Port
from graphopt.backends.litert_writer.layout import Order, channels_last, logical
from graphopt.backends.litert_writer.reading import Reader
from graphopt.backends.litert_writer.schema import schema
from graphopt.backends.litert_writer.values import Op, UnwritableError, Value
from graphopt.backends.litert_writer.wishes import find_wishes
from graphopt.errors import UnsupportedError
from graphopt.ir import Node, load
from graphopt.ir.files import replacing

Io = Literal["float", "int8"]

LOWERINGS: dict[str, Lowering] = {
    **lower_linear.LOWERINGS,
    **lower_pools.LOWERINGS,
    **lower_elementwise.LOWERINGS,
    **lower_activations.LOWERINGS,
    **lower_moves.LOWERINGS,
    **lower_reductions.LOWERINGS,
    **lower_resize.LOWERINGS,
}


@dataclass(frozen=True)
class Written:
    """A .tflite.

    Attributes:
        content: the file.
        inputs, outputs: name → order: axis k of the .tflite's tensor is axis order[k] of the ONNX model's.
        operators: how many of each kind there are.
    """

    content: bytes
    inputs: Mapping[str, Order]
    outputs: Mapping[str, Order]
    operators: Mapping[str, int]

    def save(self, path: str | Path) -> None:
        """Write the file; it appears complete or not at all.

        Raises:
            EmitError: it can't be written.
        """
        with replacing(Path(path)) as file:
            file.write(self.content)


def write_tflite(
    model: ModelProto | Path,
    *,
    io: Io = "float",
    keep_layout: bool = False,
    sizes: Mapping[str, int] | None = None,
) -> Written:
    """Write a float, Q/DQ or mixed model for LiteRT.

    Args:
        model: as `graphopt.optimize` gives it for the target tflite, or any other. uint8 is written as int8, with
            the zero point moved by 128.
        io: "int8" gives inputs and outputs that have a Q/DQ pair at the edge as int8, without the conversions.
        keep_layout: inputs and outputs keep ONNX's axis order; else images (rank 4) that the model computes with
            channels last come in and go out so: [N, C, H, W] becomes [N, H, W, C].
        sizes: numbers for symbolic sizes, by symbol ("height") or by input and axis ("x:2"). The batch may stay open.

    Raises:
        UnsupportedError: ai-edge-litert is not installed, a size is open, or nodes have no form in LiteRT: all of them
            are listed.
        LoadError: it isn't a valid model.
        ConfigError: `sizes` names what isn't there.
        EmitError: the file would be larger than 2 GiB.
    """
    schema()
    graph = load(model)
    reader = Reader(graph, find_facts(graph, sizes or {}), LOWERINGS.keys())
    reader.read()
    starts = {t.name: reader.start(t, integers=io == "int8") for t in graph.inputs}
    ends = {t.name: reader.end(t, integers=io == "int8") for t in graph.outputs}
    found = [value for value in ends.values() if value is not None]
    emitter = Emitter(find_wishes(reader.ops, found, keep_layout=keep_layout))
    inputs = {name: _begin(emitter, name, value, keep_layout) for name, value in starts.items()}
    for value in reader.missing:
        emitter.declare(value, logical(value.rank))
    failures = [*reader.failures, *_emit(emitter, reader.ops)]
    if failures:
        raise UnsupportedError(_refusal(failures, len(reader.dependent)))
    outputs = {name: _finish(emitter, name, value, keep_layout) for name, value in ends.items() if value is not None}
    emitter.flat.prune()
    content = emitter.flat.pack(graph.name, {"inputs": inputs, "outputs": outputs})
    return Written(content, inputs, outputs, Counter(o.kind for o in emitter.flat.operators))


def _begin(emitter: Emitter, name: str, value: Value, keep_layout: bool) -> Order:
    """Declare a graph input; its order."""
    as_image = not keep_layout and value.rank == 4 and emitter.wish(value) == channels_last(4)
    order = channels_last(4) if as_image else logical(value.rank)
    tensor = emitter.declare(value, order)
    emitter.flat.tensors[tensor].name = name
    emitter.flat.inputs.append(Port(name, tensor))
    return order


def _finish(emitter: Emitter, name: str, value: Value, keep_layout: bool) -> Order:
    """Declare a graph output; its order."""
    order = logical(value.rank)
    if not keep_layout and value.rank == 4 and order not in (known := emitter.orders(value)):
        order = channels_last(4) if channels_last(4) in known else order
    emitter.flat.outputs.append(Port(name, emitter.want(value, order)))
    return order


def _emit(emitter: Emitter, ops: Sequence[Op]) -> list[tuple[Node, str]]:
    """Write the operators; which nodes could not be, and why."""
    failures: list[tuple[Node, str]] = []
    for op in ops:
        try:
            LOWERINGS[op.kind](emitter, op)
        except UnwritableError as reason:
            failures.append((op.node, str(reason)))
            for value in op.outputs:
                if value is not None and not emitter.orders(value):
                    emitter.declare(value, logical(value.rank))
        emitter.close()
    return failures


def _refusal(failures: Sequence[tuple[Node, str]], dependent: int) -> str:
    lines = dict.fromkeys(f"  {node}: {reason}" for node, reason in failures)
    count = "1 node" if len(lines) == 1 else f"{len(lines)} nodes"
    behind = f" (nor {dependent} that depend on them)" if dependent else ""
    return "\n".join([f"{count} can't be written as .tflite{behind}; keep the model in ONNX, or replace:", *lines])
