"""Digits as tokens: what the encoder of this folder reads."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVELS = 4
VOCABULARY = LEVELS**4


def tokenize(images: NDArray[Any]) -> dict[str, NDArray[np.int64]]:
    """Images as sequences: a 2×2 patch whose pixels have 4 levels each is one of 256 tokens; blank ones are masked.

    Args:
        images: float32 [n, 1, 8, 8] in [-1, 1].

    Returns:
        `input_ids` int64 [n, 16], 0 to 255, and `attention_mask` int64 [n, 16], 0 for a blank patch, else 1.
    """
    levels = np.clip((images[:, 0] + 1) * (LEVELS / 2), 0, LEVELS - 1).astype(np.int64)
    patches = levels.reshape(-1, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 16, 4)
    ids = patches @ LEVELS ** np.arange(4)
    return {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}
