"""Parse or build a model with TensorRT-RTX, without a GPU, in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from onnx import ModelProto

from graphopt.backends.tensorrt.messages import Answer, Request
from graphopt.backends.tensorrt.names import NodeNames, rename_nodes
from graphopt.backends.tensorrt.sizes import input_sizes
from graphopt.calibration.session import MAX_INLINE_BYTES, inline_bytes
from graphopt.errors import ConfigError, UnsupportedError, nearest, one_line
from graphopt.ir.cancelling import run_process
from graphopt.ir.read import read_source

PACKAGE = "tensorrt-rtx"
VERSION = "1.7.1.116"
CAPABILITIES = ("SM80", "SM86", "SM89", "SM120", "SM121")
"""GPUs that can be built for ahead of time. SM75, too, can be, but its convolutions are in float whatever the model."""
TIMEOUT_SECONDS = 600.0

# What its messages add for its own developers, and that there is no GPU.
_NOISE = (
    re.compile(r"\[checkMacros\.cpp.*?\)\)\n?", re.DOTALL),
    re.compile(r" In \w+ at /_src/[^\s)]+"),
    re.compile(r"^Invalid Node - \S+\n"),
    re.compile(r"^Assertion failed: "),
)


@dataclass(frozen=True)
class Refusal:
    """A node that TensorRT's ONNX parser refuses.

    Attributes:
        node: its name, or its first output's where it has none; empty when the model as a whole is refused.
        op_type: its operator.
        message: the parser's, on one line.
    """

    node: str
    op_type: str
    message: str


@dataclass(frozen=True)
class Built:
    """What came of a build.

    Attributes:
        names: the model's nodes by the names that they have in the plan.
        plan: the serialized engine; None when the parser refused the model.
        refusals: name of a node in `names` (or "") → what the parser said, where there is no plan; see `as_refusal`.
        warnings: of the parser and the builder.
        seconds: that parsing and building took, without starting the process.
    """

    names: NodeNames
    plan: bytes | None
    refusals: Mapping[str, str]
    warnings: Sequence[str]
    seconds: float


def build(
    model: ModelProto | Path,
    capability: str,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    base_dir: Path | None = None,
    timeout: float = TIMEOUT_SECONDS,
) -> Built:
    """Build a strongly typed engine for one kind of GPU.

    Raises:
        UnsupportedError: TensorRT-RTX is missing, is another version, or can't build the model.
        ConfigError: there is no such capability, or `shapes` doesn't fit the model.
        LoadError: the model can't be read.
    """
    with _Workspace(model, capability, shapes, base_dir, timeout) as workspace:
        answer, plan = workspace.ask(build=True)
        names = workspace.names
        if answer.errors:
            raise UnsupportedError(workspace.failure(answer.errors))
        return Built(
            names,
            plan,
            dict(answer.refusals),
            [one_line(names.restore(w)) for w in answer.warnings],
            answer.seconds,
        )


def refusals(
    model: ModelProto | Path,
    capability: str = "SM86",
    *,
    base_dir: Path | None = None,
    timeout: float = TIMEOUT_SECONDS,
) -> list[Refusal]:
    """Every node that TensorRT's ONNX parser refuses, in the model's order; empty when it takes the model.

    The parser itself stops at the first; here it goes on behind each, as long as the types of that node's results
    can be inferred. What fails only when the engine is built isn't found.

    Raises:
        UnsupportedError: TensorRT-RTX is missing or is another version, or its parser crashes.
        LoadError: the model can't be read.
    """
    with _Workspace(model, capability, None, base_dir, timeout) as workspace:
        answer, _ = workspace.ask(build=False)
        return [as_refusal(workspace.names, name, message) for name, message in answer.refusals]


def as_refusal(names: NodeNames, name: str, message: str) -> Refusal:
    """A refusal in the user's words; `name` is the node's in the model that was parsed."""
    message = _clean(names.restore(message))
    node = names.nodes.get(name)
    return Refusal("", "", message) if node is None else Refusal(names.original(name), node.op_type, message)


def check_installed() -> None:
    """Whether the one version that graphopt can read is there.

    Raises:
        UnsupportedError: it isn't; the message says how to get it.
    """
    mend = "pip install 'graphopt[tensorrt]'"
    try:
        found = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        raise UnsupportedError(f"TensorRT-RTX is not installed: {mend}") from None
    if found != VERSION:
        raise UnsupportedError(
            f"TensorRT-RTX {found} is installed; graphopt reads what {VERSION} writes, which has no stable form: {mend}"
        )


class _Workspace:
    """A folder with the renamed model, and the way to the process that reads it."""

    def __init__(
        self,
        model: ModelProto | Path,
        capability: str,
        shapes: Mapping[str, Sequence[int]] | None,
        base_dir: Path | None,
        timeout: float,
    ) -> None:
        if capability not in CAPABILITIES:
            known = nearest(capability, CAPABILITIES)
            raise ConfigError(f"TensorRT-RTX has no 8-bit kernels for a capability '{capability}': {known}")
        check_installed()
        source = read_source(model, base_dir)
        proto = source.model
        if inline_bytes(proto) > MAX_INLINE_BYTES:
            raise UnsupportedError("the model is too large for TensorRT's parser: store its weights as external data")
        renamed, self.names = rename_nodes(proto)
        self._timeout = timeout
        self._folder = tempfile.TemporaryDirectory(prefix="graphopt-", ignore_cleanup_errors=True)
        folder = Path(self._folder.name)
        self._plan = folder / "engine.plan"
        (folder / "model.onnx").write_bytes(renamed.SerializeToString())
        # The parser wants a file beside the external data; it doesn't read it.
        beside = (Path(source.base_dir) / "model.onnx").resolve()
        self._request = Request(str(folder / "model.onnx"), str(beside), capability, input_sizes(proto, shapes))

    def __enter__(self) -> _Workspace:
        return self

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()

    def failure(self, errors: Sequence[str]) -> str:
        """The message for a build that failed."""
        told = "; ".join(dict.fromkeys(_clean(self.names.restore(error)) for error in errors))
        sizes = ", ".join(f"'{name}' {size}" for name, size in self._request.sizes.items())
        mend = f" (built for {sizes}: give shapes that the model can take)" if sizes else ""
        return f"TensorRT-RTX can't build the model for {self._request.capability}: {told}{mend}"

    def ask(self, build: bool) -> tuple[Answer, bytes | None]:
        """The worker's answer, and the plan that it wrote."""
        request = {**asdict(self._request), "plan": str(self._plan) if build else ""}
        # What this process can import, the worker can.
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        command = [sys.executable, "-m", "graphopt.backends.tensorrt.worker"]
        try:
            done = run_process(command, json.dumps(request).encode(), env, self._timeout)
        except subprocess.TimeoutExpired:
            raise UnsupportedError(
                f"TensorRT-RTX didn't end within {self._timeout:g} s: give it more time, or a smaller model"
            ) from None
        if done.returncode:
            raise UnsupportedError(f"TensorRT-RTX {_end(done.returncode, done.stderr)}")
        try:
            answer = Answer(**json.loads(done.stdout))
        except (ValueError, TypeError):
            raise UnsupportedError("TensorRT-RTX failed to run: it gave no answer") from None
        return answer, self._plan.read_bytes() if self._plan.exists() else None


def _end(code: int, stderr: bytes) -> str:
    """How the process ended."""
    if code == -signal.SIGKILL:
        return "was killed while it built the model: out of memory?"
    if code < 0:
        return f"crashed while it built the model ({signal.Signals(-code).name})"
    last = stderr.decode(errors="replace").strip().splitlines()[-1:]
    return f"failed to run: {''.join(last) or f'exit status {code}'}"


def _clean(message: str) -> str:
    """A message on one line, without what is only for the engine's developers."""
    for noise in _NOISE:
        message = noise.sub("", message)
    return one_line(message)
