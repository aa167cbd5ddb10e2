"""onnx's own backend suite through the lossless passes.

Every model that onnxruntime runs gives the same outputs after the `float` preset, and no model at all ends in anything
but a GraphoptError. The second test makes every input a constant, so that everything is computed at compile time, and
holds the values to onnxruntime's.
"""

from __future__ import annotations

import traceback
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import graphopt
from graphopt.errors import GraphoptError
from graphopt.ir import Graph, from_proto, to_proto
from graphopt.ir.ops import is_random
from graphopt.passes.fold_constants import FoldConstants
from graphopt.pipeline import Context
from tests.support.backend_suite import Case, cases, in_one_worker

pytestmark = in_one_worker

CHUNKS = 16
SAME = "same"
# By the precision of the type: float16 has 11 bits, bfloat16 8. A constant may be rounded once more than at run time.
TOLERANCE = {"float64": 1e-5, "float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_float_preset_keeps_every_output(chunk: int) -> None:
    outcomes = {c.name: _float_preset(c) for c in cases()[chunk::CHUNKS]}
    _assert_all_same(outcomes, at_least=70)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_constants_get_the_values_of_onnxruntime(chunk: int) -> None:
    outcomes = {c.name: _all_constant(c) for c in cases()[chunk::CHUNKS]}
    _assert_all_same(outcomes, at_least=50)


def _assert_all_same(outcomes: dict[str, str | None], at_least: int) -> None:
    """An outcome is SAME, None when there was nothing to compare, else what went wrong."""
    wrong = {name: outcome for name, outcome in outcomes.items() if outcome not in (None, SAME)}
    assert not wrong, "\n".join(f"{name}: {outcome}" for name, outcome in wrong.items())
    assert sum(outcome == SAME for outcome in outcomes.values()) >= at_least


def _float_preset(case: Case) -> str | None:
    model, values = case.read()
    feeds = _feeds(model, values)
    try:
        result = graphopt.optimize(onnx.ModelProto.FromString(model.SerializeToString()), preset="float")
        after = result.model
    except GraphoptError:
        return None
    except Exception:  # whatever else: it is what this test looks for
        return traceback.format_exc(limit=-3)
    before = _run(model, feeds)
    if before is None:
        return None
    return _difference(before, _run(after, feeds), structure_only=_has_random(result.graph)) or SAME


def _all_constant(case: Case) -> str | None:
    """Everything folds: then the model holds its own results, which must be onnxruntime's."""
    model, values = case.read()
    feeds = _feeds(model, values)
    if not feeds or not all(isinstance(v, np.ndarray) and v.dtype != object for v in feeds.values()):
        return None
    fixed = onnx.ModelProto.FromString(model.SerializeToString())
    del fixed.graph.input[:]
    fixed.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in feeds.items())
    graph = from_proto(fixed)
    FoldConstants().run(graph, Context())
    graph.sort()
    if any(node.op != "Constant" for node in graph.nodes):
        return None  # declined, or folded in part
    before = _run(model, feeds)
    return None if before is None else _difference(before, _run(to_proto(graph), {})) or SAME


def _feeds(model: onnx.ModelProto, values: list[Any]) -> dict[str, Any]:
    stored = {i.name for i in model.graph.initializer}
    names = [i.name for i in model.graph.input if i.name not in stored]
    return dict(zip(names, values, strict=False))


def _run(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any] | None:
    """Outputs without onnxruntime's own optimizations; None when it doesn't run the model."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(None, feeds)
    except Exception:  # its exceptions have no common class
        return None


def _has_random(graph: Graph) -> bool:
    return any(is_random(node, graph.opset) for node in graph.nodes)


def _difference(before: Any, after: Any, structure_only: bool = False) -> str | None:
    if after is None and before is not None:
        return "onnxruntime doesn't run it any more"
    if isinstance(before, list):
        if not isinstance(after, list) or len(after) != len(before):
            return f"{after} instead of a list of {len(before)}"
        differences = (_difference(b, a, structure_only) for b, a in zip(before, after, strict=True))
        return next((d for d in differences if d is not None), None)
    if before is None or isinstance(before, dict):
        return None if before == after else f"{after} instead of {before}"
    old, new = np.asarray(before), np.asarray(after)
    if (old.dtype, old.shape) != (new.dtype, new.shape):
        return f"{new.dtype}{new.shape} instead of {old.dtype}{old.shape}"
    if structure_only:
        return None
    tolerance = TOLERANCE.get(str(old.dtype))
    if tolerance is None:
        return None if (old == new).all() else f"{new} instead of {old}"
    close = np.allclose(old.astype(np.float64), new.astype(np.float64), tolerance, tolerance, equal_nan=True)
    return None if close else f"{new} instead of {old}"
