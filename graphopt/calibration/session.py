"""onnxruntime sessions on the CPU, opened one way, with errors a user can read."""

from __future__ import annotations

import math
import re
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from graphopt.calibration.brain_floats import has_bfloat16, in_float32
from graphopt.calibration.weights import Detached, detach
from graphopt.errors import CalibrationError, ConfigError, UnsupportedError, nearest, one_line
from graphopt.ir.cancelling import check_cancelled

# True: everything onnxruntime has; "basic": only rewrites that stay in standard ONNX; False: the model as it is.
Optimize = bool | Literal["basic"]

_LEVELS: dict[Optimize, ort.GraphOptimizationLevel] = {
    True: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    False: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_CPU = ["CPUExecutionProvider"]
_LAYOUT_REWRITES = ["NchwcTransformer", "NhwcTransformer"]
# From opset 21 on onnxruntime 1.31 states the type int8 in a QuantizeLinear that it adds itself (around the Reshape
# that makes a Gemm of MatMul + Add), then turns its zero point into uint8, and refuses the model for it.
_INT8_TO_UINT8 = "QDQS8ToU8Transformer"
_OWN_FAULT = "output_dtype INT8 does not match y_zero_point type UINT8"
# Protobuf can't serialize more than 2 GiB. Weights beyond this go through files; the rest is for what the
# estimate doesn't count (attributes, subgraphs).
MAX_INLINE_BYTES = 1 << 30
_FATAL = 4  # onnxruntime's log level: what it says at lower levels it also raises


def open_session(
    model: ModelProto | Detached | Path,
    *,
    threads: int | None = None,
    optimize: Optimize = True,
    optimized_path: Path | None = None,
    base_dir: Path | None = None,
    layouts: bool = True,
    providers: Sequence[str] | None = None,
    integers: bool = True,
    profile: Path | None = None,
) -> ort.InferenceSession:
    """A session for the model, on the CPU unless `providers` says otherwise. There bfloat16 nodes compute in float32.

    Args:
        model: the model, with its weights inside or detached, or the path of its file.
        threads: threads within an operator; None lets onnxruntime take the cores.
        optimize: how far onnxruntime may rewrite the graph.
        optimized_path: where to save the rewritten graph; large weights go to `<its name>.data` beside it.
        base_dir: the folder that external data of a ModelProto is relative to.
        layouts: whether it may change memory layouts (NCHWc, NHWC), which renames the nodes concerned.
        providers: onnxruntime's execution providers in order of preference; None means the CPU.
        integers: whether operators between Q/DQ may become integer kernels; else they compute in float.
        profile: how the name of a file begins that the time of each kernel is written to (`end_profiling`); None: none.

    Raises:
        UnsupportedError: onnxruntime can't load or run the model; the message has its reason on one line.
        ConfigError: onnxruntime has no such execution provider here.
    """
    chosen = _providers(providers)
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    options.graph_optimization_level = _LEVELS[optimize]
    options.intra_op_num_threads = threads or 0
    if not integers:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if optimized_path is not None:
        options.optimized_model_filepath = str(optimized_path)
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{optimized_path.name}.data"
        )
    if isinstance(model, Path):
        try:
            return _create(str(model), options, layouts, chosen)
        except UnsupportedError:
            loaded = _with_bfloat16(model) if chosen == _CPU else None
            if loaded is None:
                raise
        base_dir, model = model.parent, loaded
    detached = detach(model)
    if chosen == _CPU:
        detached = replace(detached, model=in_float32(detached.model))
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in detached.weights.values()]
    options.add_external_initializers(list(detached.weights), values)
    if inline_bytes(detached.model) <= MAX_INLINE_BYTES:
        if base_dir is not None:
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", str(base_dir.resolve())
            )
        session = _create(detached.model.SerializeToString(), options, layouts, chosen)
    else:
        with tempfile.TemporaryDirectory(prefix="graphopt-", ignore_cleanup_errors=True) as folder:
            path = Path(folder) / "model.onnx"
            _save_large(detached, path, base_dir)
            session = _create(str(path), options, layouts, chosen)
    # The session reads the arrays in place and doesn't keep them alive.
    weakref.finalize(session, values.clear)
    return session


def _with_bfloat16(path: Path) -> ModelProto | None:
    """The model of a file where it computes in bfloat16; None for others, and for what is no model."""
    try:
        model = onnx.load(path, load_external_data=False)  # pyright: ignore[reportUnknownMemberType]  # its PathLike has no parameter
    except Exception:  # protobuf's errors share no base class; onnxruntime has said what is wrong with the file
        return None
    return model if has_bfloat16(model) else None


def run_session(
    session: ort.InferenceSession, feed: Mapping[str, Any], where: str, outputs: Sequence[str] | None = None
) -> list[NDArray[Any]]:
    """Run one sample; `outputs` names what to fetch, None fetches every output.

    Raises:
        CalibrationError: onnxruntime failed on it; the message starts with `where`.
        Cancelled: the run shall end before.
    """
    check_cancelled()
    try:
        return session.run(outputs, feed)
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise CalibrationError(f"{where}: onnxruntime failed: {_reason(error)}") from error


def inline_bytes(model: ModelProto) -> int:
    """Bytes of the initializers that are stored in the model itself, computed from their shapes."""
    return sum(
        math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        for tensor in model.graph.initializer
        if tensor.data_location != TensorProto.EXTERNAL
    )


def _reason(error: Exception) -> str:
    """An onnxruntime message without its code, source locations and line breaks."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", one_line(error))
    return re.sub(r"/onnxruntime_src/\S+ .*?\) ", "", text).strip()


def _providers(providers: Sequence[str] | None) -> list[str]:
    chosen = list(providers or _CPU)
    available = ort.get_available_providers()
    for name in chosen:
        if name not in available:  # onnxruntime would warn, and run on the CPU
            raise ConfigError(f"onnxruntime has no execution provider '{name}' here: {nearest(name, available)}")
    return chosen


def _create(
    source: str | bytes, options: ort.SessionOptions, layouts: bool, providers: list[str]
) -> ort.InferenceSession:
    disabled = [] if layouts else _LAYOUT_REWRITES
    try:
        try:
            return ort.InferenceSession(source, options, providers=providers, disabled_optimizers=disabled)
        except Exception as error:  # onnxruntime's exceptions share no base class
            if _OWN_FAULT not in str(error):
                raise
            return ort.InferenceSession(
                source, options, providers=providers, disabled_optimizers=[*disabled, _INT8_TO_UINT8]
            )
    except Exception as error:  # likewise
        raise UnsupportedError(f"onnxruntime can't load the model: {_reason(error)}") from error


def _save_large(detached: Detached, path: Path, base_dir: Path | None) -> None:
    """Save what is left in the model with its weights in a file of their own."""
    copy = ModelProto()
    copy.CopyFrom(detached.model)
    declared = [tensor for tensor in copy.graph.initializer if tensor.name in detached.weights]
    left = [tensor for tensor in copy.graph.initializer if tensor.name not in detached.weights]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(left)
    if base_dir is not None:
        onnx.load_external_data_for_model(copy, str(base_dir))
    copy.graph.initializer.extend(declared)
    onnx.save_model(  # pyright: ignore[reportUnknownMemberType]  # its PathLike has no parameter
        copy, path, save_as_external_data=True, location=f"{path.name}.data"
    )
