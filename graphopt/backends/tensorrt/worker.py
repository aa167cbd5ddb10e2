"""The process that parses and builds: `python -m graphopt.backends.tensorrt.worker`.

One process a build, for two reasons: after a build that failed, the next one in the same process silently had float
convolutions (1.7.1.116), and a builder that crashes or runs out of memory must not take the caller with it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict

import onnx
import tensorrt_rtx as trt
from onnx import ModelProto, ValueInfoProto

from graphopt.backends.tensorrt.messages import Answer, Request

_WORST = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)
_MOST_REFUSALS = 1000


class _Log(trt.ILogger):
    """Keeps errors and warnings, each once."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: dict[str, None] = {}
        self.warnings: dict[str, None] = {}

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """Called by the library."""
        if severity in _WORST:
            self.errors[msg] = None
        elif severity == trt.ILogger.Severity.WARNING:
            self.warnings[msg] = None


def main() -> None:
    """Read a request from the standard input, write the answer to the standard output."""
    # What libraries print must not get into the answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = Request(**json.load(sys.stdin))
    started = time.perf_counter()
    # The library takes one logger per process.
    log = _Log()
    answer = _build(request, log) if request.plan else _refusals(request, log)
    json.dump({**asdict(answer), "seconds": time.perf_counter() - started}, answers)
    answers.close()


def _build(request: Request, log: _Log) -> Answer:
    builder = trt.Builder(log)
    network, parser = _parse(builder, log, request)
    if parser.num_errors:
        return _refusals(request, log)
    if network.num_outputs == 0:
        return Answer(errors=list(log.errors) or ["its parser gave no network"], warnings=list(log.warnings))
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, request.capability), 0)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.is_shape_tensor:
            return Answer(errors=[f"the values of input '{tensor.name}' decide shapes: make it a constant"])
        if -1 in tuple(tensor.shape):
            size = request.sizes[tensor.name]
            profile.set_shape(tensor.name, size, size, size)
    if request.sizes:
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return Answer(errors=list(log.errors) or ["no reason given"], warnings=list(log.warnings))
    with open(request.plan, "wb") as file:
        file.write(plan)
    return Answer(warnings=list(log.warnings))


def _refusals(request: Request, log: _Log) -> Answer:
    """The parser stops at the first node that it refuses: cut it out, and look on.

    Its results become inputs of the model, which needs their types; without them the look ends there.
    """
    with open(request.model, "rb") as file:
        model = ModelProto.FromString(file.read())
    types = _types(model)
    found: list[tuple[str, str]] = []
    while len(found) < _MOST_REFUSALS:
        # The parser borrows the network's memory, and the network the builder's: all three stay in scope.
        builder = trt.Builder(log)
        network, parser = _parse(builder, log, request, model)
        refused = _errors(parser)
        found += refused
        if not refused or not _cut_out(model, {name for name, _ in refused}, types):
            break
        del parser, network
    return Answer(found, warnings=list(log.warnings))


def _types(model: ModelProto) -> dict[str, ValueInfoProto]:
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except onnx.shape_inference.InferenceError:
        inferred = model
    return {v.name: v for v in (*inferred.graph.value_info, *inferred.graph.output)}


def _parse(
    builder: trt.Builder, log: _Log, request: Request, model: ModelProto | None = None
) -> tuple[trt.INetworkDefinition, trt.OnnxParser]:
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if model is None:
        with open(request.model, "rb") as file:
            parser.parse(file.read(), request.weights)
    else:
        parser.parse(model.SerializeToString(), request.weights)
    return network, parser


def _errors(parser: trt.OnnxParser) -> list[tuple[str, str]]:
    """(name of the node, or "", message) of each error of the parser, each node once."""
    found: dict[str, str] = {}
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        # Of an operator that it doesn't know at all it says only that a condition was "false".
        told = error.desc() if error.desc() != "false" else f"TensorRT has no such operator ({error.code().name})"
        found.setdefault(error.node_name(), told)
    return list(found.items())


def _cut_out(model: ModelProto, names: set[str], types: dict[str, ValueInfoProto]) -> bool:
    """Replace the results of the nodes by inputs; False when there is nothing to cut, or a type is unknown."""
    # A nested node's name starts with that of its owner: gonode3x0x5_ in gonode3_.
    owners = {f"{name.split('x')[0].rstrip('_')}_" for name in names}
    cut = [node for node in model.graph.node if node.name in owners]
    results = [output for node in cut for output in node.output if output]
    if not results or any(not types[r].type.tensor_type.HasField("shape") for r in results if r in types):
        return False
    if any(r not in types for r in results):
        return False
    for node in cut:
        model.graph.node.remove(node)
    for output in [o for o in model.graph.output if o.name in results]:
        model.graph.output.remove(output)
    model.graph.input.extend(types[r] for r in results)
    return True


if __name__ == "__main__":
    main()
