"""The input sizes that a model is built for, where it leaves them open.

TensorRT wants a range for each open axis; here it is one size. Which kernels exist in 8 bits doesn't depend on it, but
sizes that the model can't take end the build, so that the caller may say them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import ModelProto, TensorShapeProto

from graphopt.errors import ConfigError, nearest

# A multiple of 32: what networks with five halvings, and joins between their levels, can take.
_OTHER_AXES = 256


def input_sizes(model: ModelProto, given: Mapping[str, Sequence[int]] | None = None) -> dict[str, list[int]]:
    """Sizes of every input that has open axes, by its name.

    An axis with a symbol has the same size wherever the symbol stands. Axis 0, and axes with the symbol of one, are
    batches of 1; all others get 256.

    Args:
        model: the model.
        given: input → its whole shape, for inputs that need other sizes.

    Raises:
        ConfigError: `given` names no input, or contradicts the model or itself.
    """
    stored = {i.name for i in model.graph.initializer}
    shapes = {i.name: i.type.tensor_type.shape.dim for i in model.graph.input if i.name not in stored}
    for name in given or {}:
        if name not in shapes:
            raise ConfigError(f"the model has no input '{name}' to give a shape: {nearest(name, shapes)}")
    symbols = {dims[0].dim_param: 1 for dims in shapes.values() if len(dims) and dims[0].dim_param}
    for name, shape in (given or {}).items():
        _take_given(name, shape, list(shapes[name]), symbols)
    return {
        name: list(given[name]) if given and name in given else [_size(k, d, symbols) for k, d in enumerate(dims)]
        for name, dims in shapes.items()
        if not all(d.HasField("dim_value") for d in dims)
    }


def _take_given(
    name: str, shape: Sequence[int], dims: Sequence[TensorShapeProto.Dimension], symbols: dict[str, int]
) -> None:
    wanted = [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in dims]
    if len(shape) != len(dims) or any(
        d.HasField("dim_value") and d.dim_value != s for d, s in zip(dims, shape, strict=True)
    ):
        raise ConfigError(f"shape {list(shape)} doesn't fit input '{name}', which is {wanted}")
    symbols.update({d.dim_param: size for d, size in zip(dims, shape, strict=True) if d.dim_param})


def _size(axis: int, dim: TensorShapeProto.Dimension, symbols: Mapping[str, int]) -> int:
    if dim.HasField("dim_value"):
        return dim.dim_value
    return symbols.get(dim.dim_param, 1 if axis == 0 else _OTHER_AXES)
