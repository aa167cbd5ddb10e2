# What benchmarks/calibration.py uses of onnxruntime 1.31.1's quantization tools (they ship no types).
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

class CalibrationMethod(Enum):
    MinMax = ...
    Entropy = ...
    Percentile = ...

class CalibrationDataReader:
    def get_next(self) -> dict[str, object] | None: ...

class CalibraterBase:
    def collect_data(self, data_reader: CalibrationDataReader) -> None: ...
    def compute_data(self) -> object: ...

def create_calibrator(
    model: str | Path,
    *,
    augmented_model_path: str,
    calibrate_method: CalibrationMethod,
    extra_options: Mapping[str, int],
) -> CalibraterBase: ...
