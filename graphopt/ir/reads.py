"""What a node of an ONNX model reads."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto, NodeProto


def reads(node: NodeProto) -> Iterator[str]:
    """Names of the tensors that a node reads, each once, those that its nested graphs read from outside included."""
    yield from dict.fromkeys((*(name for name in node.input if name), *_captured(node)))


def _captured(node: NodeProto) -> Iterator[str]:
    for attribute in node.attribute:
        for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from _free(body)


def _free(body: GraphProto) -> Iterator[str]:
    inside = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
    inside |= {tensor.values.name for tensor in body.sparse_initializer}
    inside |= {output for node in body.node for output in node.output}
    for name in (*(name for node in body.node for name in reads(node)), *(value.name for value in body.output)):
        if name not in inside:
            yield name
