"""onnxruntime.quantization's MatMulNBitsQuantizer: 4-bit weights of MatMul nodes in blocks, as MatMulNBits."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import onnx

from benchmarks._common import Feeds
from benchmarks._peer import Reader, said

Method = Literal["default", "gptq"]


def blocks(path: Path, feeds: Feeds, method: Method, block: int, *, symmetric: bool) -> onnx.ModelProto | str:
    """The model with 4-bit weights as the peer makes it, or why it can't.

    Args:
        path: the float model.
        feeds: calibration samples, for gptq.
        method: "default" takes the largest weight of a block; "gptq" takes its own scales per block.
        block: weights that share a scale.
        symmetric: the default method's zero points are all the same.
    """
    try:
        from onnxruntime.quantization.matmul_nbits_quantizer import (
            DefaultWeightOnlyQuantConfig,
            GPTQWeightOnlyQuantConfig,
            MatMulNBitsQuantizer,
        )
    except ImportError as error:
        return f"pip install onnx-ir: {error}"
    # It says a line about every node.
    logging.getLogger(MatMulNBitsQuantizer.__module__).setLevel(logging.WARNING)
    try:
        model = onnx.ModelProto.FromString(path.read_bytes())
        if method == "gptq":
            config = GPTQWeightOnlyQuantConfig(Reader(feeds), block_size=block, actorder=True)
        else:
            config = DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=symmetric)
        quantizer = MatMulNBitsQuantizer(model, block_size=block, is_symmetric=symmetric, algo_config=config)
        quantizer.process()
        return onnx.ModelProto.FromString(quantizer.model.model.SerializeToString())
    except Exception as error:  # its functions raise whatever is underneath
        return said(error)
