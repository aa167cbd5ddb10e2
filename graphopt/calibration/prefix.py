"""Run a model piece by piece over all samples: the tensors asked for, in graph order, each node once.

    x → A → B → C → y        fetch B's result: runs A, B        change it: C reads what it was changed to

What lies in front of a layer runs once, however many layers are looked at, and a layer's result can be replaced before
anything reads it, or a constant before its node has run: that is how layers are corrected one after the other, each
seeing what the corrected ones before it make of the samples. Kept between pieces is only what nodes to come read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from graphopt.calibration.samples import Feed
from graphopt.calibration.session import Optimize, open_session, run_session
from graphopt.calibration.shapes import infer
from graphopt.calibration.weights import Detached, detach
from graphopt.errors import UnsupportedError
from graphopt.ir.reads import reads


class Prefix:
    """A model in the middle of its run over some samples.

    Attributes:
        samples: how many samples there are.
    """

    def __init__(
        self,
        model: ModelProto | Detached,
        feeds: Iterable[Feed],
        *,
        name: str = "the samples",
        threads: int | None = None,
        optimize: Optimize = True,
    ) -> None:
        """Start at the graph's inputs.

        Args:
            model: the model, all values inside or detached; it isn't changed.
            feeds: the samples. All are held, as long as nodes read them.
            name: of the samples, for messages.
            threads: as in `open_session`.
            optimize: as in `open_session`.
        """
        self._detached = detach(model)
        self._name, self._threads = name, threads
        self._optimize: Optimize = optimize
        graph = self._detached.model.graph
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._weights = dict(self._detached.weights)
        self._left: dict[int, NodeProto] = dict(enumerate(graph.node))
        self._reads = {number: tuple(reads(node)) for number, node in self._left.items()}
        self._producer = {output: number for number, node in self._left.items() for output in node.output if output}
        self._readers: dict[str, int] = {}
        for names in self._reads.values():
            for tensor in names:
                self._readers[tensor] = self._readers.get(tensor, 0) + 1
        held = list(feeds)
        self.samples = len(held)
        inputs = [value.name for value in graph.input if value.name not in self._initializers or value.name in held[0]]
        self._held: dict[str, list[NDArray[Any]]] = {
            tensor: [feed[tensor] for feed in held] for tensor in inputs if tensor in held[0]
        }

    def fetch(self, tensors: Sequence[str]) -> list[list[NDArray[Any]]]:
        """Run what the tensors still need; for each tensor, its value for each sample.

        Raises:
            ValueError: a tensor is unknown, or everything that reads it has run and it has been dropped.
            UnsupportedError: onnxruntime can't run this part of the model by itself.
            CalibrationError: a sample fails.
        """
        numbers = self._needed(tensors)
        wanted = [tensor for tensor in dict.fromkeys(tensors) if tensor not in self._held]
        if numbers:
            self._run(numbers, wanted)
        found = [self._held[tensor] for tensor in tensors]
        self._drop()
        return found

    def replace(self, tensor: str, values: Sequence[NDArray[Any]]) -> None:
        """What nodes to come read in place of a tensor, which has been fetched: one array a sample."""
        if tensor in self._held:
            self._held[tensor] = list(values)

    def set_constant(self, name: str, values: NDArray[Any]) -> None:
        """Another value, of the same type and shape, for an initializer whose readers haven't run.

        Raises:
            ValueError: there is no such initializer.
        """
        if name in self._weights:
            self._weights[name] = np.ascontiguousarray(values)
        elif name in self._initializers:
            self._initializers[name] = numpy_helper.from_array(np.asarray(values), name)
        else:
            raise ValueError(f"there is no initializer '{name}'")

    def _needed(self, tensors: Sequence[str]) -> list[int]:
        """Numbers of the nodes that have to run for the tensors, in graph order."""
        found: set[int] = set()
        todo = list(tensors)
        while todo:
            tensor = todo.pop()
            if tensor in self._held or tensor in self._initializers:
                continue
            number = self._producer.get(tensor)
            if number is None or number not in self._left:
                raise ValueError(f"tensor '{tensor}' isn't there any more, or never was")
            if number not in found:
                found.add(number)
                todo.extend(self._reads[number])
        return sorted(found)

    def _run(self, numbers: Sequence[int], wanted: Sequence[str]) -> None:
        """Run these nodes on every sample; hold the wanted tensors and what the nodes left to run read."""
        nodes = [self._left.pop(number) for number in numbers]
        made = [output for node in nodes for output in node.output if output]
        inside: dict[str, int] = {}
        for number in numbers:
            for tensor in self._reads[number]:
                inside[tensor] = inside.get(tensor, 0) + 1
        for tensor, count in inside.items():
            self._readers[tensor] -= count
        outputs = [tensor for tensor in made if tensor in wanted or self._readers.get(tensor, 0)]
        inputs = [tensor for tensor in inside if tensor in self._held]
        session = open_session(
            self._piece(nodes, inputs, outputs, inside), threads=self._threads, optimize=self._optimize
        )
        results: dict[str, list[NDArray[Any]]] = {tensor: [] for tensor in outputs}
        for number in range(self.samples):
            feed = {tensor: self._held[tensor][number] for tensor in inputs}
            values = run_session(session, feed, f"{self._name}, sample {number}", outputs)
            for tensor, value in zip(outputs, values, strict=True):
                results[tensor].append(value)
        self._held |= results

    def _piece(
        self, nodes: Sequence[NodeProto], inputs: Sequence[str], outputs: Sequence[str], read: Iterable[str]
    ) -> Detached:
        whole = self._detached.model
        piece = ModelProto(ir_version=whole.ir_version, opset_import=whole.opset_import, functions=whole.functions)
        piece.graph.name = whole.graph.name
        piece.graph.node.extend(nodes)
        piece.graph.input.extend(self._described(tensor) for tensor in inputs)
        piece.graph.output.extend(ValueInfoProto(name=tensor) for tensor in outputs)
        constants = [tensor for tensor in read if tensor in self._initializers and tensor not in self._held]
        piece.graph.initializer.extend(self._initializers[tensor] for tensor in constants)
        return Detached(piece, {tensor: self._weights[tensor] for tensor in constants if tensor in self._weights})

    def _described(self, tensor: str) -> ValueInfoProto:
        """An input of a piece: the type and, where all samples agree, the sizes that it has."""
        values = self._held[tensor]
        if not isinstance(values[0], np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance]  # sequences are lists
            raise UnsupportedError(f"'{tensor}' isn't a tensor, and the model can't be cut there")
        shapes = {value.shape for value in values}
        ranks = {len(shape) for shape in shapes}
        sizes = zip(*shapes, strict=True) if len(ranks) == 1 else ()
        shape = [next(iter(set(found))) if len(set(found)) == 1 else None for found in sizes]
        kind = helper.np_dtype_to_tensor_dtype(values[0].dtype)
        return helper.make_tensor_value_info(tensor, kind, shape if len(ranks) == 1 else None)

    def _drop(self) -> None:
        for tensor in [tensor for tensor in self._held if not self._readers.get(tensor, 0)]:
            del self._held[tensor]


def affordable(model: ModelProto, inputs: Mapping[str, tuple[int, ...]], budget: int) -> int:
    """How many samples a `Prefix` can hold at a time within a memory budget; at least one.

    Args:
        model: the model.
        inputs: the shapes of a sample.
        budget: bytes.
    """
    inferred = infer(model, inputs)
    order = list(model.graph.node)
    made = {value.name: -1 for value in model.graph.input}
    made |= {output: number for number, node in enumerate(order) for output in node.output if output}
    last: dict[str, int] = {}
    for number, node in enumerate(order):
        last.update(dict.fromkeys((tensor for tensor in reads(node) if tensor in made), number))
    sizes = inferred.sizes(list(last))
    change = [0] * (len(order) + 2)
    for tensor, end in last.items():
        change[made[tensor] + 1] += sizes[tensor]
        change[end + 2] -= sizes[tensor]
    held = most = 0
    for bytes_ in change:
        held += bytes_
        most = max(most, held)
    return max(1, budget // max(most, 1))
