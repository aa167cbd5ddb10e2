"""What TensorRT-RTX makes of a model: the kernel that computes each planned node, and the type that it reads.

For a matrix product (Conv, Gemm, MatMul …) that is the type of both operands of the matrix kernel; its result is float
before the next Q in any case. Other operators are generated code that computes in float and reads and writes integers:
there it is int8 when the kernel reads integers, or rounds to them on its way from its neighbour. What is planned in a
float type is in `float_types`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from onnx import ModelProto, NodeProto

from graphopt.backends.precision import EnginePrecision, NodePrecision, Planned
from graphopt.backends.tensorrt.build import TIMEOUT_SECONDS, VERSION, Built, as_refusal, build
from graphopt.backends.tensorrt.float_types import FLOAT_TYPES, OTHER_TYPE, UNEXPECTED, float_type
from graphopt.backends.tensorrt.generated import multiplies, multiplies_integers
from graphopt.backends.tensorrt.kernels import Kernel, read_kernels
from graphopt.backends.tensorrt.plan_text import unreadable
from graphopt.backends.tensorrt.reasons import Reader
from graphopt.errors import ConfigError
from graphopt.ir.block_weights import INT4_WEIGHTS
from graphopt.ir.read import read_source

ENGINE = "TensorRT-RTX"
# The engine's words for types that matrices and activations have.
_TYPES = {"int8": "int8", **FLOAT_TYPES}


def precision(
    model: ModelProto | Path,
    planned: Sequence[Planned],
    *,
    capability: str = "SM86",
    shapes: Mapping[str, Sequence[int]] | None = None,
    base_dir: Path | None = None,
    timeout: float = TIMEOUT_SECONDS,
) -> EnginePrecision:
    """Build the model for a GPU and say what its planned nodes are computed in; the GPU needn't be there.

    Where the parser refuses the model there is no engine: then every node is "unknown", and the reason of the nodes
    concerned is what the parser said.

    Args:
        model: a Q/DQ model, or the path of its file.
        planned: its nodes that should be computed in 8 bits, matched by their first output.
        capability: of the GPU, one of `CAPABILITIES`.
        shapes: input → shape, for inputs with open axes that can't be 1 (batch) or 256 (others).
        base_dir: the folder that external data of a ModelProto is relative to.
        timeout: seconds that the build may take.

    Raises:
        UnsupportedError: TensorRT-RTX is missing, is another version than the one whose plans can be read, can't build
            the model, or wrote a plan in another form.
        ConfigError: there is no such capability, `shapes` doesn't fit the model, or `planned` isn't of this model.
        LoadError: the model can't be read.
    """
    source = read_source(model, base_dir)
    built = build(source.model, capability, shapes=shapes, base_dir=Path(source.base_dir), timeout=timeout)
    reader = Reader.of(source.model, built.names)
    found = _identify(planned, built)
    if built.plan is None:
        nodes = [NodePrecision(p, "", "unknown", _refused(built, reader, node)) for p, _, node in found]
        return EnginePrecision(ENGINE, VERSION, capability, nodes, _refusal_notes(built))
    kernels = read_kernels(built.plan, VERSION)
    by_node: dict[str, list[Kernel]] = defaultdict(list)
    for kernel in kernels:
        for name in kernel.nodes:
            by_node[name].append(kernel)
    judged = {name: _judge(p, node, by_node[name], built, reader) for p, name, node in found}
    merged = [k for k, n in judged.items() if not (n.layer or n.planned.in_8_bits or n.planned.linear)]
    nodes = [node for name, node in judged.items() if name not in merged]
    notes = [*built.warnings, *_merged_notes(merged, built)]
    notes += _float_notes(kernels, {name for _, name, _ in found}, built)
    return EnginePrecision(ENGINE, VERSION, capability, nodes, notes)


def _identify(planned: Sequence[Planned], built: Built) -> list[tuple[Planned, str, NodeProto]]:
    """Each planned node with its name for the engine, and the node."""
    by_output = built.names.by_output
    for node in planned:
        if node.output not in by_output:
            raise ConfigError(f"the model has no node '{node.name}' with output '{node.output}': plan this very model")
    return [(p, by_output[p.output], built.names.nodes[by_output[p.output]]) for p in planned]


def _refused(built: Built, reader: Reader, node: NodeProto) -> str:
    """What the parser said about the node or its Q/DQ nodes, or else where it stopped."""
    related = reader.related(node)
    for name, message in built.refusals.items():
        if name in related:
            refusal = as_refusal(built.names, name, message)
            return f"TensorRT's parser refuses {refusal.op_type} '{refusal.node}': {refusal.message}"
    first = as_refusal(built.names, *next(iter(built.refusals.items())))
    where = f"at '{first.node}'" if first.node else f"as a whole: {first.message}"
    return f"there is no engine: TensorRT's parser refuses the model {where}"


def _refusal_notes(built: Built) -> list[str]:
    refused = [as_refusal(built.names, name, message) for name, message in built.refusals.items()]
    told = [f"{r.op_type} '{r.node}': {r.message}" if r.node else r.message for r in refused]
    return [*built.warnings, *(f"refused: {text}" for text in told)]


def _judge(planned: Planned, node: NodeProto, kernels: Sequence[Kernel], built: Built, reader: Reader) -> NodePrecision:
    """One planned node, by the kernels that name it."""
    if planned.precision == INT4_WEIGHTS:
        found = _four_bits(kernels) or _matrix(node, kernels, reader)
    elif not planned.in_8_bits:
        found = float_type(planned, reader.stored_elements(node) if planned.linear else 0, kernels)
    else:
        found = _matrix(node, kernels, reader) if planned.linear else _other(node, kernels, reader)
    if found is None:
        named = f": only {_layer(kernels[0], built)} names it" if kernels else ""
        return NodePrecision(
            planned,
            "",
            "unknown",
            f"no kernel of the plan computes it (it is folded, or merged into an equal one){named}",
        )
    kernel, type_ = found
    if not planned.in_8_bits:
        reason = "" if type_ == planned.precision else OTHER_TYPE.get(planned.precision, UNEXPECTED)
        return NodePrecision(planned, _layer(kernel, built), type_, reason)
    unsigned = reader.unsigned(node)
    if type_ != "int8":
        return NodePrecision(planned, _layer(kernel, built), type_, reader.float_reason(node))
    if unsigned is not None:
        return NodePrecision(planned, _layer(kernel, built), "unknown", unsigned)
    return NodePrecision(planned, _layer(kernel, built), "int8")


def _four_bits(kernels: Sequence[Kernel]) -> tuple[Kernel, str] | None:
    """The kernel that reads the stored 4-bit weights: it multiplies, or dequantizes them for several that do."""
    found = (k for k in kernels if any(t.type == "int4" and t.constant for t in k.inputs))
    return next(((kernel, INT4_WEIGHTS) for kernel in found), None)


def _matrix(node: NodeProto, kernels: Sequence[Kernel], reader: Reader) -> tuple[Kernel, str] | None:
    """The kernel that multiplies for the node, and in what; of several, one in float."""
    found = [(k, _type(t, k)) for k in kernels if k.is_matrix for t in k.operands]
    for kernel in kernels:
        if multiplies(kernel):
            integers = multiplies_integers(kernel, reader.weight_elements(node))
            found.append((kernel, "int8" if integers else "float32"))
    return min(found, key=lambda kernel_type: kernel_type[1] == "int8") if found else None


def _other(node: NodeProto, kernels: Sequence[Kernel], reader: Reader) -> tuple[Kernel, str] | None:
    """The kernel that computes the node, and what its operands are: read as int8, or rounded to int8 on the way."""
    quantizers = reader.quantizers(node)
    for kernel in kernels if any(map(reader.dequantize, node.input)) else ():
        if any(t.type == "int8" for t in kernel.inputs) or any(q in kernel.nodes for q in quantizers):
            return kernel, "int8"
    for kernel in kernels:
        types = [_TYPES[t.type] for t in kernel.inputs if t.type in _TYPES]
        if types:
            return kernel, types[0]
    return None


def _type(name: str, kernel: Kernel) -> str:
    if name not in _TYPES:
        raise unreadable(VERSION, f"'{kernel.name}' reads an unknown type", name)
    return _TYPES[name]


def _layer(kernel: Kernel, built: Built) -> str:
    return f"{kernel.kind} '{built.names.restore(kernel.name)}'"


def _merged_notes(names: Sequence[str], built: Built) -> list[str]:
    """Pointwise nodes planned in a float type whose kernel computes others too, and doesn't say in what."""
    shown = ", ".join(built.names.original(name) for name in names)
    return [f"fused with their neighbours, in a type that the kernel doesn't tell: {shown}"] if names else []


def _float_notes(kernels: Sequence[Kernel], planned: set[str], built: Built) -> list[str]:
    """Matrix products in float that nobody planned in 8 bits."""
    names = [
        built.names.restore(k.name) for k in kernels if k.is_matrix and k.operands != ("int8", "int8")
        and not planned.intersection(k.nodes)
    ]  # fmt: skip
    return [f"not planned in 8 bits, and in float: {', '.join(names)}"] if names else []
