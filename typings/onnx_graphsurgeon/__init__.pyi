# What ir/ uses of onnx-graphsurgeon 0.6.1 (it ships no types).
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

class Tensor:
    name: str
    def is_empty(self) -> bool: ...

class Variable(Tensor):
    def __init__(self, name: str, dtype: Any = ..., shape: Any = ..., type: str = ...) -> None: ...

class Constant(Tensor):
    _values: Any
    def __init__(self, name: str, values: Any, data_location: int | None = ..., export_dtype: Any = ...) -> None: ...
    @property
    def values(self) -> NDArray[Any]: ...
    @values.setter
    def values(self, values: Any) -> None: ...

class Node:
    op: str
    name: str
    attrs: dict[str, Any]
    domain: str
    def __init__(
        self,
        op: str,
        name: str | None = ...,
        attrs: dict[str, Any] | None = ...,
        inputs: Sequence[Any] | None = ...,
        outputs: Sequence[Any] | None = ...,
        domain: str | None = ...,
    ) -> None: ...

class Graph:
    nodes: list[Any]
    inputs: list[Any]
    outputs: list[Any]
    name: str
    doc_string: str
    opset: int
    import_domains: Any
    ir_version: int | None
    def __init__(
        self,
        nodes: Sequence[Any] | None = ...,
        inputs: Sequence[Any] | None = ...,
        outputs: Sequence[Any] | None = ...,
        name: str | None = ...,
        doc_string: str | None = ...,
        opset: int | None = ...,
        import_domains: Any = ...,
        producer_name: str | None = ...,
        producer_version: str | None = ...,
        functions: Any = ...,
        ir_version: int | None = ...,
    ) -> None: ...
