"""What is in a model: operators, parameters, multiply-accumulates, interface, quantized share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod

from graphopt.analysis.macs import INTEGER_LINEAR, linear_kind, node_macs
from graphopt.ir import Constant, Graph, Node, Shape, Tensor
from graphopt.ir.block_weights import block_weight, is_block_weight
from graphopt.ir.ops import MOVES_VALUES
from graphopt.ir.to_proto import value_bytes


@dataclass(frozen=True)
class Port:
    """One input or output: a dimension is a size, a symbol or "?"."""

    name: str
    type: str
    shape: tuple[int | str, ...] | None


@dataclass(frozen=True)
class Inspection:
    """What a model holds.

    Attributes:
        ops: operator → number of nodes, most frequent first; nested graphs included.
        parameters: values in initializers.
        weight_bytes: bytes of the initializers as a file holds them.
        macs: multiply-accumulates of Conv, ConvTranspose, Gemm and MatMul for one call; an unknown first dimension
            (the batch) counts as 1.
        macs_unknown: layers of these kinds whose shapes aren't known; they are not in `macs`.
        linear_layers, quantized_layers: layers of these kinds, and those of them that read integers.
        quantized_macs: the part of `macs` that the quantized layers have.
        block_layers: layers in float whose weights are stored in blocks of 4 bits.
        external_data: whether values are stored outside of the model file.
        notes: what loading had to change.
    """

    source: str
    producer: str
    ir_version: int
    opsets: dict[str, int]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    nodes: int
    ops: dict[str, int]
    parameters: int
    weight_bytes: int
    macs: int
    macs_unknown: int
    linear_layers: int
    quantized_layers: int
    quantized_macs: int
    block_layers: int
    external_data: bool
    files: tuple[str, ...]
    notes: tuple[str, ...]


def inspect_model(graph: Graph, source: str) -> Inspection:
    """Count what is in `graph`; `source` names it. Linear in the number of nodes, values are not read."""
    nodes = [(scope, node) for scope in graph.walk() for node in scope.nodes]
    ops = Counter(node.op if node.is_standard else f"{node.domain}.{node.op}" for _, node in nodes)
    layers = [(node, node_macs(node), _is_quantized(scope, node)) for scope, node in nodes if linear_kind(node)]
    facts = graph.facts
    return Inspection(
        source=source,
        producer=f"{facts.producer_name} {facts.producer_version}".strip(),
        ir_version=facts.ir_version,
        opsets={domain or "ai.onnx": version for domain, version in facts.opset_imports.items()},
        inputs=tuple(_port(t) for t in graph.inputs),
        outputs=tuple(_port(t) for t in graph.outputs),
        nodes=len(nodes),
        ops=dict(sorted(ops.items(), key=lambda item: (-item[1], item[0]))),
        parameters=sum(prod(c.shape) for scope in graph.walk() for c in scope.constants),
        weight_bytes=value_bytes(graph),
        macs=sum(macs or 0 for _, macs, _ in layers),
        macs_unknown=sum(macs is None for _, macs, _ in layers),
        linear_layers=len(layers),
        quantized_layers=sum(quantized for _, _, quantized in layers),
        quantized_macs=sum(macs or 0 for _, macs, quantized in layers if quantized),
        block_layers=sum(any(block_weight(t) is not None for t in node.inputs[:2]) for node, _, _ in layers),
        external_data=facts.has_external_data,
        files=tuple(str(f) for f in facts.source_files),
        notes=tuple(facts.notes),
    )


def _is_quantized(graph: Graph, node: Node) -> bool:
    """An integer operator, or one whose activation and weight both come out of DequantizeLinear."""
    return node.op in INTEGER_LINEAR or all(_from_integers(graph, tensor) for tensor in node.inputs[:2])


def _from_integers(graph: Graph, tensor: Tensor) -> bool:
    """Whether its values are dequantized ones, at most moved, as engines move the integers (DQ → Flatten → Gemm)."""
    pending, seen = [tensor], {tensor}
    while pending:
        producer = graph.producer(pending.pop())
        if producer is None or is_block_weight(producer):
            return False
        if producer.is_op(*MOVES_VALUES):
            new = set(producer.inputs if producer.is_op("Concat") else producer.inputs[:1]) - seen
            pending += new
            seen |= new
        elif not producer.is_op("DequantizeLinear"):
            return False
    return True


def _port(tensor: Tensor) -> Port:
    kind = "" if tensor.dtype is None else str(tensor.dtype)
    if not isinstance(tensor, Constant) and tensor.type_proto is not None:
        kind = str(tensor.type_proto.WhichOneof("value")).removesuffix("_type")
    return Port(tensor.name, kind, _port_shape(tensor.shape))


def _port_shape(shape: Shape | None) -> tuple[int | str, ...] | None:
    return None if shape is None else tuple("?" if dim is None else dim for dim in shape)
