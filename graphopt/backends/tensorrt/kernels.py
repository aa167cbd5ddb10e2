"""What a plan runs: kernels with the types of the tensors they read and write, and the ONNX nodes that they compute."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graphopt.backends.tensorrt.plan_text import Block, Item, Value, sections, unreadable

# Statements that multiply matrices; their first two inputs are the activation and the weight, in this order.
MATRIX_KINDS = frozenset({"corrltn", "deconvolution", "fully_connected"})
# A fusion that is compiled on the GPU ("runtime_fusion") names its nodes, and so do the statements of the section of
# its own in which what it computes stands.
_SYNCHRONIZE = frozenset({"signal", "wait"})
_READS = ("input", "input_args")
_WRITES = ("output", "output_args")
# A node that is computed in another way than it is written has that behind its name: a 1 × 1 convolution that became a
# matrix product is "[ONNX Layer: conv]__gemm_from_conv1x1".
_LAYER = re.compile(r"\[ONNX Layer: (.+)\](?:__\w+)?")
_SEPARATOR = "\x1f"
_OWNERS = " | "
_NEEDED_BLOCKS = ("header", "descriptors", "main")
_HEADER_VERSIONS = ("4", "5")


@dataclass(frozen=True)
class PlanTensor:
    """A tensor of the plan.

    Attributes:
        name: the engine's.
        type: the engine's word: int8, float, half, bfloat16, int32 …
        stored_bytes: of its values in the plan; 0 for what is computed.
    """

    name: str
    type: str
    stored_bytes: int = 0

    @property
    def constant(self) -> bool:
        """Whether its values are stored in the plan."""
        return self.stored_bytes > 0


@dataclass(frozen=True)
class Kernel:
    """A statement of the plan that computes something.

    Attributes:
        kind: corrltn (convolution), deconvolution, fully_connected, maxpool, avgpool, function (generated code) …
        name: the engine's; for a convolution that of its ONNX node.
        nodes: names of the ONNX nodes that it computes, wholly or in part.
        inputs: what it reads, in its order.
        outputs: what it writes.
    """

    kind: str
    name: str
    nodes: Sequence[str]
    inputs: Sequence[PlanTensor]
    outputs: Sequence[PlanTensor]

    @property
    def is_matrix(self) -> bool:
        """Whether it multiplies matrices."""
        return self.kind in MATRIX_KINDS

    @property
    def operands(self) -> tuple[str, str]:
        """Types of the activation and the weight of a matrix kernel."""
        return self.inputs[0].type, self.inputs[1].type


def read_kernels(plan: bytes, version: str) -> list[Kernel]:
    """All kernels of a plan that know which ONNX nodes they compute, in the order in which they run.

    Raises:
        UnsupportedError: the plan isn't in the form that is known.
    """
    found: list[Kernel] = []
    for blocks in sections(plan, version):
        found += _Section(blocks, version).kernels()
    if not found:
        raise unreadable(version, "no kernel names the nodes that it computes")
    return found


@dataclass(frozen=True)
class _Section:
    blocks: Sequence[Block]
    version: str

    def kernels(self) -> Iterator[Kernel]:
        by_name = {block.name: block for block in self.blocks}
        missing = [name for name in _NEEDED_BLOCKS if name not in by_name]
        if missing:
            raise unreadable(self.version, f"a section has no part '{missing[0]}'", " ".join(by_name))
        header = dict(by_name["header"].items)
        if header.get("version") not in _HEADER_VERSIONS:
            raise unreadable(self.version, "a section of an unknown version", str(header.get("version")))
        tensors = {t.name: t for t in self._tensors(by_name["descriptors"])}
        for kind, value in by_name["main"].items:
            attributes = _attributes(value)
            if kind in _SYNCHRONIZE:
                continue
            if "layers" in attributes:
                yield self._kernel(kind, attributes, tensors)
            elif kind in MATRIX_KINDS:
                raise unreadable(self.version, f"a '{kind}' that names no nodes", str(value))

    def _tensors(self, descriptors: Block) -> Iterator[PlanTensor]:
        for kind, value in descriptors.items:
            attributes = _attributes(value)
            name, type_, stored = (attributes.get(k, "0") for k in ("name", "type", "const_payload_size"))
            if not (kind in ("tensor", "sub_tensor") and isinstance(name, str) and isinstance(type_, str)):
                raise unreadable(self.version, "a descriptor that isn't a tensor", f"{kind}={value}")
            if not (isinstance(stored, str) and stored.isdecimal() and {"name", "type"} <= attributes.keys()):
                raise unreadable(self.version, "a descriptor without name, type or size", f"{kind}={value}")
            yield PlanTensor(name, type_, int(stored))

    def _kernel(self, kind: str, attributes: dict[str, Value], tensors: dict[str, PlanTensor]) -> Kernel:
        layers, name = attributes["layers"], attributes.get("name")
        if not isinstance(layers, str) or not isinstance(name, str):
            raise unreadable(self.version, f"a '{kind}' without a name", str(attributes))
        reads, writes = ([self._names(kind, attributes, key) for key in keys] for keys in (_READS, _WRITES))
        inputs, outputs = ([n for names in lists for n in names] for lists in (reads, writes))
        unknown = [n for n in (*inputs, *outputs) if n not in tensors]
        if unknown:
            raise unreadable(self.version, f"'{name}' reads or writes a tensor without a descriptor", unknown[0])
        if kind in MATRIX_KINDS and len(inputs) < 2:
            raise unreadable(self.version, f"a '{kind}' with fewer than two inputs", name)
        return Kernel(
            kind, name, self._nodes(layers), tuple(tensors[n] for n in inputs), tuple(tensors[n] for n in outputs)
        )

    def _names(self, kind: str, attributes: dict[str, Value], key: str) -> list[str]:
        value = attributes.get(key, [])
        if isinstance(value, str) or any(name or not isinstance(item, str) for name, item in value):
            raise unreadable(self.version, f"a '{kind}' whose '{key}' isn't a list of names", str(value))
        return [str(item) for _, item in value]

    def _nodes(self, layers: str) -> tuple[str, ...]:
        found: list[str] = []
        for layer in layers.split(_SEPARATOR):
            known = _LAYER.fullmatch(layer)
            if layer and known is None:
                raise unreadable(self.version, "a layer's name in an unknown form", layer)
            if known is not None:
                # A node in a branch or body: "name | graph (then_branch) | name of the owner (If)".
                found.append(known[1].split(_OWNERS)[0])
        return tuple(found)


def _attributes(value: Value) -> dict[str, Value]:
    items: Sequence[Item] = [] if isinstance(value, str) else value
    return {name: item for name, item in items if name}
