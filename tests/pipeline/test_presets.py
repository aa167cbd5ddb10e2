"""The float preset on real models: valid after every pass, done in one go, and the same in every process."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from graphopt.ir import to_proto
from graphopt.ir.io import load
from graphopt.passes import find_pass
from graphopt.passes.presets import FLOAT
from graphopt.pipeline import Context, PassManager
from graphopt.pipeline.instruments import Numerics, Verify
from graphopt.pipeline.spec import passes_from_text
from tests.support.hash_seeds import printed_under_two_hash_seeds

ROOT = Path(__file__).parents[2]
BUNDLED = ROOT / "calibration_data" / "digits_cnn.onnx"
ZOO = os.environ.get("GRAPHOPT_ZOO")
MODELS = [BUNDLED, *(sorted(Path(ZOO).glob("models/**/*.onnx")) if ZOO else [])]


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_float_is_done_after_one_run(path: Path) -> None:
    graph = load(path)
    passes = passes_from_text(",".join(FLOAT), find_pass)
    PassManager(passes, [Verify()]).run(graph, Context())
    second = PassManager(passes).run(graph, Context())
    assert [r.name for r in second if r.changed] == []


def test_every_pass_keeps_the_bundled_models_outputs() -> None:
    ctx = Context()
    records = PassManager(passes_from_text(",".join(FLOAT), find_pass), [Numerics()]).run(load(BUNDLED), ctx)
    assert any(r.changed for r in records)
    assert not [r.message for r in ctx.remarks.items if "numerics" in r.message]


SCRIPT = f"""
from tests.pipeline.test_presets import digest
print(digest({str(BUNDLED)!r}))
"""


def digest(path: str) -> str:
    graph = load(path)
    ctx = Context()
    PassManager(passes_from_text(",".join(FLOAT), find_pass)).run(graph, ctx)
    remarks = "\n".join(str(r) for r in ctx.remarks.items)
    return hashlib.sha256(to_proto(graph).SerializeToString(deterministic=True) + remarks.encode()).hexdigest()


def test_two_processes_with_different_hash_seeds_agree() -> None:
    assert len(printed_under_two_hash_seeds(SCRIPT)) == 1
