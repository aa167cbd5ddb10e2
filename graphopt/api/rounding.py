"""How much rounding alone moves a model's outputs: the least loss that says anything about a rewrite.

Every weight is moved at random by up to half a unit in its last place, which is what a rewrite does that computes them
anew, and the model is compared with itself. Measured on eleven trained models (SQNR): 119 to 147 dB in float32, where
folding BatchNormalization cost within 5 dB of the same; 31 dB on a detector whose outputs jump.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.api.metrics import SQNR, Demand, Judge
from graphopt.calibration import Dataset
from graphopt.errors import GraphoptError
from graphopt.ir import Constant, Graph, to_proto

# Half a unit in the last place, relative to the value; ml_dtypes has bfloat16.
_HALF_UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
# Rewrites round more than once, and activations are rounded as well: a factor of three.
MARGIN_DB = 10.0
# Where rounding can't be measured, or moves nothing. Any that was measured in float32 is far above it.
USUAL_DB = 100.0


def rounding_demand(graph: Graph, samples: Dataset, threads: int | None, only: Collection[str] | None = None) -> Demand:
    """What outputs hold where nothing but rounding tells them from those of `graph`.

    Args:
        graph: the model; its weights are moved.
        samples: what it runs on.
        threads: as in `open_session`.
        only: names of the constants that were rounded; None: all weights.
    """
    exact = to_proto(graph)
    judge = Judge(Demand(SQNR, 0.0), exact, samples, threads)
    for constant, values in _moved(graph, only):
        graph.set_values(constant, values)
    try:
        floor = judge.score(to_proto(graph))
    except GraphoptError:  # a size was computed from what is no weight, and moved
        floor = math.inf
    return Demand(SQNR, USUAL_DB if math.isinf(floor) else round(floor - MARGIN_DB, 1))


def _moved(graph: Graph, only: Collection[str] | None) -> list[tuple[Constant, NDArray[Any]]]:
    rng = np.random.default_rng(0)
    found: list[tuple[Constant, NDArray[Any]]] = []
    for scope in graph.walk():
        for constant in scope.constants:
            unit = _HALF_UNIT.get(constant.dtype.name)
            # Vectors may be sizes: the scales of a Resize.
            wanted = len(constant.shape) >= 2 if only is None else constant.name in only
            if unit is not None and wanted and not constant.is_input:
                values = constant.values.astype(np.float64)
                rounded = values * (1 + unit * rng.uniform(-1, 1, values.shape))
                found.append((constant, rounded.astype(constant.dtype)))
    return found
