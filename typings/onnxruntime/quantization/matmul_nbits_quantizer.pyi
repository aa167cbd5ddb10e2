# What benchmarks/ uses of it (onnxruntime 1.31.1 ships no types).
from onnx import ModelProto

from onnxruntime.quantization import CalibrationDataReader

class WeightOnlyQuantConfig: ...

class DefaultWeightOnlyQuantConfig(WeightOnlyQuantConfig):
    def __init__(self, block_size: int = ..., is_symmetric: bool = ...) -> None: ...

class GPTQWeightOnlyQuantConfig(WeightOnlyQuantConfig):
    def __init__(
        self, calibration_data_reader: CalibrationDataReader | None = ..., *, block_size: int = ..., actorder: bool = ...
    ) -> None: ...

class _Model:
    model: ModelProto

class MatMulNBitsQuantizer:
    model: _Model
    def __init__(
        self,
        model: ModelProto,
        *,
        block_size: int = ...,
        is_symmetric: bool = ...,
        algo_config: WeightOnlyQuantConfig | None = ...,
    ) -> None: ...
    def process(self) -> None: ...
