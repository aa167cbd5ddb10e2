from typing import Any

from numpy.typing import NDArray

class LazyValues:
    tensor: Any
    shape: tuple[int, ...]
    dtype: Any
    nbytes: int
    def __init__(self, tensor: Any) -> None: ...
    def load(self) -> NDArray[Any]: ...
