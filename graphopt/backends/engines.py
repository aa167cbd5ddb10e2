"""The engines behind the targets, each under the name that the targets' tables call it by.

An engine says what became of the planned nodes, and runs the model where that can be done on this machine. Its library
is imported when it is used; a missing one is a line that names the `pip install`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

from numpy.typing import NDArray
from onnx import ModelProto

from graphopt.backends import (
    litert_engine,
    onnxruntime,
    onnxruntime_profile,
    openvino,
    openvino_profile,
    tensorrt,
)
from graphopt.backends.kernel_times import KernelTime
from graphopt.backends.precision import EnginePrecision, Planned
from graphopt.errors import ConfigError, UnsupportedError, nearest
from graphopt.targets import Target

Model: TypeAlias = ModelProto | Path
Feeds: TypeAlias = Iterable[Mapping[str, NDArray[Any]]]
Runs: TypeAlias = Iterator[Sequence[NDArray[Any]]]
Shapes: TypeAlias = Mapping[str, Sequence[int]]
Samples: TypeAlias = Sequence[Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class Engine:
    """What runs, or builds, the models of a target.

    Attributes:
        title: as its makers write it.
        library: the Python package that it is.
        extra: graphopt's extra that installs it; empty for what is always there.
        devices: what it can build for; the first is the default.
        precision: (model, planned nodes, device, shapes of inputs that are open) → what it makes of them.
        run: (model, feeds, threads) → all outputs in the model's order, for one feed after the other; None where the
            engine can't run on this machine.
        profile: (model, samples, threads, seconds to spend) → the time of each kernel; None where the engine can't run
            on this machine, or doesn't tell.
    """

    title: str
    library: str
    extra: str
    devices: tuple[str, ...]
    precision: Callable[[Model, Sequence[Planned], str, Shapes], EnginePrecision]
    run: Callable[[Model, Feeds, int | None], Runs] | None
    profile: Callable[[ModelProto, Samples, int | None, float], list[KernelTime]] | None = None

    def require(self) -> None:
        """Say early that the engine isn't installed.

        Raises:
            UnsupportedError: it isn't; the message names the mend.
        """
        if find_spec(self.library) is None:
            raise UnsupportedError(f"{self.title} is not installed: pip install 'graphopt[{self.extra}]'")

    def device(self, wanted: str | None) -> str:
        """The device to build for; `wanted` None means the default.

        Raises:
            ConfigError: the engine has no such device.
        """
        if wanted is None:
            return self.devices[0]
        if wanted not in self.devices:
            raise ConfigError(f"{self.title} has no device '{wanted}': {nearest(wanted, self.devices)}")
        return wanted


def find_engine(target: Target) -> Engine:
    """The engine that the target's table names.

    Raises:
        ConfigError: it names none, or there is none of that name.
    """
    if not target.engine:
        raise ConfigError(
            f"target '{target.name}' names no engine, so there is nothing to run its models in: `graphopt lint` checks "
            "them against its table"
        )
    if target.engine not in ENGINES:
        raise ConfigError(
            f"target '{target.name}' names the engine '{target.engine}': {nearest(target.engine, ENGINES)}"
        )
    return ENGINES[target.engine]


ONNXRUNTIME = Engine(
    "onnxruntime",
    "onnxruntime",
    "",
    ("CPU",),
    lambda model, planned, _device, _shapes: onnxruntime.precision(model, planned),
    lambda model, feeds, threads: onnxruntime.run(model, feeds, threads=threads),
    lambda model, feeds, threads, seconds: onnxruntime_profile.profile(model, feeds, threads=threads, seconds=seconds),
)
# What the Q/DQ model itself says, before any engine's rewrites: what the others are compared with.
AS_WRITTEN = Engine(
    "as written",
    "onnxruntime",
    "",
    ("CPU",),
    lambda model, planned, _device, _shapes: onnxruntime.precision(model, planned),
    lambda model, feeds, threads: onnxruntime.run(model, feeds, threads=threads, optimize=False),
)
OPENVINO = Engine(
    "OpenVINO",
    "openvino",
    "openvino",
    ("CPU",),
    lambda model, planned, _device, _shapes: openvino.precision(model, planned),
    lambda model, feeds, threads: openvino.run(model, feeds, threads=threads),
    lambda model, feeds, threads, seconds: openvino_profile.profile(model, feeds, threads=threads, seconds=seconds),
)

TENSORRT = Engine(
    "TensorRT-RTX",
    "tensorrt_rtx",
    "tensorrt",
    # Ampere on the desktop first: the oldest and most common one with the kernels that matter.
    ("SM86", *(c for c in tensorrt.CAPABILITIES if c != "SM86")),
    lambda model, planned, device, shapes: tensorrt.precision(model, planned, capability=device, shapes=shapes or None),
    None,
)
LITERT = Engine(
    "LiteRT",
    "ai_edge_litert",
    "tflite",
    ("CPU",),
    lambda model, planned, _device, shapes: litert_engine.precision(model, planned, shapes=shapes),
    lambda model, feeds, threads: litert_engine.run(model, feeds, threads=threads),
)

ENGINES: dict[str, Engine] = {
    "onnxruntime": ONNXRUNTIME,
    "openvino": OPENVINO,
    "tensorrt": TENSORRT,
    "litert": LITERT,
}
