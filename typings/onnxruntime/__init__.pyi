# What calibration/ and backends/ use of onnxruntime 1.31.1 (it ships no types).
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from numpy.typing import NDArray

__version__: str

def get_available_providers() -> list[str]: ...

class GraphOptimizationLevel(Enum):
    ORT_DISABLE_ALL = ...
    ORT_ENABLE_BASIC = ...
    ORT_ENABLE_EXTENDED = ...
    ORT_ENABLE_ALL = ...

class OrtValue:
    @classmethod
    def ortvalue_from_numpy(cls, numpy_obj: NDArray[Any]) -> OrtValue: ...

class SessionOptions:
    graph_optimization_level: GraphOptimizationLevel
    log_severity_level: int
    intra_op_num_threads: int
    inter_op_num_threads: int
    optimized_model_filepath: str
    enable_profiling: bool
    profile_file_prefix: str
    def add_session_config_entry(self, key: str, value: str) -> None: ...
    def add_external_initializers(self, names: Sequence[str], values: Sequence[OrtValue]) -> None: ...

class NodeArg:
    name: str
    type: str
    shape: list[int | str | None]

class InferenceSession:
    def __init__(
        self,
        path_or_bytes: str | bytes,
        sess_options: SessionOptions | None = ...,
        providers: Sequence[str] | None = ...,
        *,
        disabled_optimizers: Sequence[str] = ...,
    ) -> None: ...
    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any]) -> list[Any]: ...
    def get_inputs(self) -> list[NodeArg]: ...
    def get_outputs(self) -> list[NodeArg]: ...
    def end_profiling(self) -> str: ...
