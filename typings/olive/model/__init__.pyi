from pathlib import Path
from typing import Any

class ONNXModelHandler:
    inference_settings: dict[str, Any] | None
    def __init__(
        self,
        model_path: str | Path,
        onnx_file_name: str | None = None,
        inference_settings: dict[str, Any] | None = None,
    ) -> None: ...
    @property
    def model_path(self) -> str: ...
