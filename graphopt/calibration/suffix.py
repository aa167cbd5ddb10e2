"""The rest of a model behind some tensors, with a linear map along one axis of each in front of what reads it.

    x → A → t → B → C → y        the suffix of t, mapped for B:        t → × matrix + shift → B → C → y
                x → D ↗                                                                       D's result ↗

What doesn't depend on the mapped tensors is fed with the values that the whole model gives it, so that a try costs what
lies behind, and the maps are inputs, so that one session serves for all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from graphopt.calibration.channel_prediction import ChannelMap
from graphopt.calibration.session import open_session, run_session
from graphopt.calibration.weights import Detached, detach
from graphopt.ir.reads import reads


@dataclass(frozen=True)
class MappedTensor:
    """A tensor to map.

    Attributes:
        name: of the tensor.
        axis: along which, ≥ 0.
        rank: of the tensor.
        readers: names of the nodes that read what the map gives; others read the tensor as it is.
    """

    name: str
    axis: int
    rank: int
    readers: frozenset[str]


class Suffix:
    """What lies behind the mapped tensors.

    Attributes:
        fed: the tensors that it is fed with, under the names that they have in the whole model.
        outputs: the model's outputs that depend on the mapped tensors.
    """

    def __init__(self, model: ModelProto, mapped: Sequence[MappedTensor], *, threads: int | None = None) -> None:
        """Cut it out.

        Args:
            model: all values inside, nodes sorted and named; it isn't changed.
            mapped: what to map, each tensor with its readers once.
            threads: as in `open_session`.
        """
        self._detached, self._threads, self._session = detach(model), threads, None
        graph = self._detached.model.graph
        self._mapped = {f"graphopt.mapped{number}": m for number, m in enumerate(mapped)}
        self._nodes = self._behind(graph.node)
        made = {output for node in self._nodes for output in node.output}
        made |= {name for new in self._mapped for name in _map_inputs(new)}
        stored = {tensor.name for tensor in graph.initializer}
        read = dict.fromkeys(name for node in self._nodes for name in reads(node))
        self._constants = [name for name in read if name in stored]
        self.fed = tuple(name for name in read if name not in made and name not in stored)
        self.outputs = tuple(value.name for value in graph.output if value.name in made)

    def run(
        self, samples: Sequence[Mapping[str, NDArray[Any]]], maps: Sequence[ChannelMap]
    ) -> list[list[NDArray[Any]]]:
        """The values of `outputs` for each sample.

        Args:
            samples: for each, the values of `fed`.
            maps: of the mapped tensors, in their order.

        Raises:
            UnsupportedError: onnxruntime can't run this part of the model by itself.
            CalibrationError: a sample fails.
        """
        if self._session is None:
            self._session = open_session(self._piece(samples[0]), threads=self._threads)
        given: dict[str, NDArray[Any]] = {}
        for name, channel_map in zip(self._mapped, maps, strict=True):
            parts = (channel_map.matrix, channel_map.shift)
            given |= {n: part.astype(np.float32) for n, part in zip(_map_inputs(name), parts, strict=True)}
        return [
            run_session(self._session, {**{n: s[n] for n in self.fed}, **given}, f"sample {i}", self.outputs)
            for i, s in enumerate(samples)
        ]

    def _behind(self, nodes: Collection[NodeProto]) -> list[NodeProto]:
        """The nodes that depend on a mapped tensor, those that read it reading its map."""
        found: list[NodeProto] = []
        made: set[str] = set()
        for node in nodes:
            renamed = {m.name: new for new, m in self._mapped.items() if node.name in m.readers}
            if not renamed and made.isdisjoint(reads(node)):
                continue
            for tensor, new in renamed.items():
                if new not in made:
                    found += _mapping(tensor, new, self._mapped[new])
                    made.add(new)
            copy = NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = [renamed.get(name, name) for name in node.input]
            found.append(copy)
            made.update(node.output)
        return found

    def _piece(self, sample: Mapping[str, NDArray[Any]]) -> Detached:
        whole = self._detached
        piece = ModelProto(
            ir_version=whole.model.ir_version, opset_import=whole.model.opset_import, functions=whole.model.functions
        )
        piece.graph.name = whole.model.graph.name
        piece.graph.node.extend(self._nodes)
        piece.graph.input.extend(
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(sample[n].dtype), [None] * sample[n].ndim)
            for n in self.fed
        )
        for new in self._mapped:
            for name, rank in zip(_map_inputs(new), (2, 1), strict=True):
                piece.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank))
        piece.graph.output.extend(ValueInfoProto(name=name) for name in self.outputs)
        wanted = set(self._constants)
        piece.graph.initializer.extend(t for t in whole.model.graph.initializer if t.name in wanted)
        return Detached(piece, {name: whole.weights[name] for name in self._constants if name in whole.weights})


def _map_inputs(new: str) -> tuple[str, str]:
    """Names of the inputs for the matrix and the shift of a mapped tensor."""
    return f"{new}.matrix", f"{new}.shift"


def _mapping(tensor: str, new: str, mapped: MappedTensor) -> list[NodeProto]:
    """Tensor → channels last → × matrix + shift → channels back."""
    matrix, shift = _map_inputs(new)
    last = [*(a for a in range(mapped.rank) if a != mapped.axis), mapped.axis]
    back = np.argsort(last).tolist()
    return [
        helper.make_node("Transpose", [tensor], [f"{new}.last"], perm=last),
        helper.make_node("MatMul", [f"{new}.last", matrix], [f"{new}.product"]),
        helper.make_node("Add", [f"{new}.product", shift], [f"{new}.sum"]),
        helper.make_node("Transpose", [f"{new}.sum"], [new], perm=back),
    ]
