# What backends/litert.py uses of the interpreter of ai-edge-litert 2.3.0.
from collections.abc import Sequence
from enum import Enum
from typing import Any, TypedDict

from numpy.typing import NDArray

class OpResolverType(Enum):
    AUTO = 0
    BUILTIN = 1
    BUILTIN_REF = 2
    BUILTIN_WITHOUT_DEFAULT_DELEGATES = 3

class QuantizationParameters(TypedDict):
    scales: NDArray[Any]
    zero_points: NDArray[Any]
    quantized_dimension: int

class TensorDetails(TypedDict):
    name: str
    index: int
    shape: NDArray[Any]
    shape_signature: NDArray[Any]
    dtype: type[Any]
    quantization_parameters: QuantizationParameters

class Interpreter:
    def __init__(
        self,
        model_path: str | None = ...,
        model_content: bytes | None = ...,
        *,
        num_threads: int | None = ...,
        experimental_op_resolver_type: OpResolverType = ...,
    ) -> None: ...
    def allocate_tensors(self) -> None: ...
    def get_input_details(self) -> list[TensorDetails]: ...
    def get_output_details(self) -> list[TensorDetails]: ...
    def resize_tensor_input(self, input_index: int, tensor_size: Sequence[int]) -> None: ...
    def set_tensor(self, tensor_index: int, value: NDArray[Any]) -> None: ...
    def invoke(self) -> None: ...
    def get_tensor(self, tensor_index: int) -> NDArray[Any]: ...
