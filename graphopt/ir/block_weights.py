"""Weights in blocks of 4 bits: DequantizeLinear with `block_size`, of stored integers, two of which share a byte."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from graphopt.ir.elements import Constant, Node, Tensor

INT4_WEIGHTS = "int4-weights"
"""The precision of a node that reads one (`quant.precision`)."""
FOUR_BITS: frozenset[np.dtype[Any]] = frozenset({np.dtype(ml_dtypes.int4), np.dtype(ml_dtypes.uint4)})


def block_weight(tensor: Tensor | None) -> Node | None:
    """The DequantizeLinear that makes `tensor` of stored 4-bit integers in blocks, perhaps turned over behind it."""
    node = None if tensor is None or not tensor.inputs else tensor.inputs[0]
    while node is not None and node.is_op("Transpose"):
        node = node.inputs[0].inputs[0] if node.inputs[0].inputs else None
    return node if node is not None and is_block_weight(node) else None


def is_block_weight(node: Node) -> bool:
    """Whether it is a DequantizeLinear of stored 4-bit integers in blocks."""
    if not node.is_op("DequantizeLinear") or not node.attr("block_size", 0):
        return False
    stored = node.input(0)
    return stored is not None and stored.dtype in FOUR_BITS and _is_stored(stored)


def _is_stored(tensor: Tensor) -> bool:
    """Whether it is an initializer, or made by a Constant node."""
    return isinstance(tensor, Constant) or (bool(tensor.inputs) and tensor.inputs[0].is_op("Constant"))
