"""Does a change of the float model pay? Both are quantized the fast way and run on a few calibration samples."""

from __future__ import annotations

from dataclasses import replace
from math import log10

import numpy as np

from graphopt.backends.agreement import compare_models
from graphopt.calibration import Dataset
from graphopt.ir import Graph, from_proto, to_proto
from graphopt.passes.calibrate import Calibrate
from graphopt.passes.insert_qdq import InsertQdq
from graphopt.passes.plan_quantization import PlanQuantization
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.pipeline import Context, PassManager, Remarks
from graphopt.pipeline.passes import Resources


def trial_sqnr(graph: Graph, ctx: Context, samples: Dataset) -> float:
    """SQNR (dB) of the outputs in 8 bits, the mean of all outputs' shares of noise; the graph isn't changed.

    Args:
        graph: the float model.
        ctx: has the target.
        samples: what to calibrate on, and to measure on.

    Raises:
        GraphoptError: it can't be quantized or run.
    """
    copy = from_proto(to_proto(graph))
    fresh = replace(
        ctx, remarks=Remarks(), calibration=samples, ranges=None, histograms=False, data=None, reference=None,
        resources=Resources(providers=ctx.resources.providers), statistics={}, kept={},
    )  # fmt: skip
    PassManager([PlanQuantization(), Calibrate(), QuantizeWeights(), InsertQdq()]).run(copy, fresh)
    outputs = compare_models(to_proto(graph), to_proto(copy), samples, threads=ctx.threads).outputs
    shares = [10 ** (-min(output.sqnr_db, 120.0) / 10) for output in outputs if not np.isnan(output.sqnr_db)]
    return -10 * log10(max(sum(shares) / max(len(shares), 1), 1e-12))
