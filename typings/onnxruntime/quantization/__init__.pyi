# What benchmarks/ uses of onnxruntime.quantization 1.31.1 (it ships no types).
from enum import Enum
from pathlib import Path

class CalibrationDataReader:
    def get_next(self) -> dict[str, object] | None: ...

class CalibrationMethod(Enum):
    MinMax = ...

class QuantFormat(Enum):
    QDQ = ...

class QuantType(Enum):
    QInt8 = ...
    QUInt8 = ...

def quant_pre_process(
    input_model: Path, output_model_path: Path, *, skip_symbolic_shape: bool = ...
) -> None: ...
def quantize_static(
    model_input: Path,
    model_output: Path,
    calibration_data_reader: CalibrationDataReader,
    *,
    quant_format: QuantFormat = ...,
    per_channel: bool = ...,
    activation_type: QuantType = ...,
    weight_type: QuantType = ...,
    calibrate_method: CalibrationMethod = ...,
) -> None: ...
