"""Bisection finds what was planted: the pass, the node, and a reproducer that fails alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

import graphopt
from graphopt.passes.presets import FLOAT
from graphopt.report.bisection import Bisection, bisection_page
from graphopt.report.document import to_text
from tests.support.planted import (
    Crash,
    FoldBatchNormScaled,
    InsertScales,
    MoveFactor,
    RewriteReluScaled,
    RuinRange,
)

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "calibration_data"
MODEL, SAMPLES, VALIDATION = (
    DIGITS / "digits_cnn.onnx",
    str(DIGITS / "calibration.npz"),
    str(DIGITS / "validation.npz"),
)
CONVS = ("/stem/stem.0/Conv", "/block1/first/first.0/Conv", "/down/pointwise/pointwise.0/Conv")


def blamed(found: Bisection) -> list[str]:
    """Names of the nodes that are to blame and are there still, then of removed ones."""
    assert found.blame is not None
    suspects = found.blame.suspects
    return sorted({text.split("'")[1] for s in suspects for text in (*s.changed, *s.removed)})


def reproduce(folder: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a reproducer as users do."""
    return subprocess.run(
        [sys.executable, str(Path(folder) / "reproduce.py")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def chain(*, shared: bool = False) -> onnx.ModelProto:
    """Four convolutions with Relus between; `shared`: the second and third have one weight."""
    rng = np.random.default_rng(3)
    weights = {f"w{k}": rng.normal(size=(4, 4, 3, 3)).astype(np.float32) / 6 for k in range(4)}
    biases = {f"b{k}": rng.normal(size=4).astype(np.float32) for k in range(4)}
    nodes: list[onnx.NodeProto] = []
    for k in range(4):
        weight = "w1" if shared and k == 2 else f"w{k}"
        reads = "x" if k == 0 else f"r{k - 1}"
        nodes.append(helper.make_node("Conv", [reads, weight, f"b{k}"], [f"h{k}"], name=f"conv{k}", pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"h{k}"], [f"r{k}" if k < 3 else "y"], name=f"relu{k}"))
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", floats, ["n", 4, 8, 8])],
        [helper.make_tensor_value_info("y", floats, ["n", 4, 8, 8])],
        [numpy_helper.from_array(v, n) for n, v in {**weights, **biases}.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


LOOP = """
<ir_version: 8, opset_import: ["": 17]>
nested (float[n, 4] x) => (float[n, 4] y)
<float[4, 4] w = {1, 2, 0, 1, 0, 1, -1, 1, 2, 0, 1, 0, -1, 1, 0, 1}, int64 count = {3}, bool go = {1}>
{
  [before] a = MatMul(x, w)
  [loop] b = Loop(count, go, a) <body = inside (int64 i, bool c, float[n, 4] s) => (bool d, float[n, 4] t)
    <float[4, 4] v = {0.1, 0.2, 0, 0.1, 0, 0.1, -0.1, 0.1, 0.2, 0, 0.1, 0, -0.1, 0.1, 0, 0.1}>
    {
      d = Identity(c)
      [inner] u = MatMul(s, v)
      [squash] t = Relu(u)
    }>
  [behind] y = Add(b, x)
}
"""


@pytest.mark.parametrize("element", [-1, 5])
def test_a_scaled_weight_is_found_by_default_and_fails_alone(element: int, tmp_path: Path) -> None:
    planted = RewriteReluScaled(node=CONVS[1], element=element)
    found = graphopt.bisect(MODEL, passes=[*FLOAT, planted, *FLOAT], output=tmp_path / "alone")
    assert found.boundary is not None
    assert (found.boundary.index, found.boundary.name) == (len(FLOAT) + 1, "rewrite-relu")
    assert blamed(found) == [CONVS[1]]
    (suspect,) = found.blame.suspects
    (value,) = suspect.values
    assert value.changed == (value.count if element < 0 else 1)
    assert found.reproducer is not None
    assert found.reproducer.nodes == 1
    assert onnx.load(tmp_path / "alone" / "before.onnx").graph.node[0].name == CONVS[1]


def test_the_reproducer_fails_until_the_pass_is_mended(tmp_path: Path) -> None:
    found = graphopt.bisect(MODEL, passes=[RewriteReluScaled(node=CONVS[1])], output=tmp_path)
    shown = reproduce(tmp_path)
    assert shown.returncode == 1, shown.stderr
    assert found.reproducer is not None
    assert f"{found.reproducer.sqnr_db:.1f} dB, {found.reproducer.least_db:.1f} are expected" in shown.stdout
    text = (tmp_path / "pipeline.toml").read_text()
    assert "tests.support.planted:RewriteReluScaled" in text
    (tmp_path / "pipeline.toml").write_text(text + "factor = 1.0\n")
    assert reproduce(tmp_path).returncode == 0


def test_several_nodes_are_all_found(tmp_path: Path) -> None:
    found = graphopt.bisect(MODEL, passes=[RewriteReluScaled(node="+".join(CONVS))], output=tmp_path)
    assert blamed(found) == sorted(CONVS)
    assert found.blame is not None
    assert found.blame.is_minimal
    assert found.blame.cured > 120
    assert found.reproducer is not None
    assert found.reproducer.nodes == 3


def test_nodes_that_the_pass_removes_and_mends_nobody_else_are_found(tmp_path: Path) -> None:
    found = graphopt.bisect(MODEL, passes=["fold-constants", FoldBatchNormScaled(node=CONVS[1])], output=tmp_path)
    assert found.boundary is not None
    assert found.boundary.name == "fold-batch-norm-scaled"
    (suspect,) = found.blame.suspects
    assert [text.split("'")[0] for text in suspect.removed] == ["BatchNormalization "]
    assert next(iter(suspect.changed)) == f"Conv '{CONVS[1]}'"
    assert found.reproducer is not None
    assert found.reproducer.nodes == 3


def test_nodes_that_the_pass_adds_are_found() -> None:
    found = graphopt.bisect(chain(), passes=[InsertScales(node="relu1")])
    (suspect,) = found.blame.suspects
    assert suspect.added == ("Mul 'r1_1_Mul'",)
    assert [text.split("'")[1] for text in suspect.changed] == ["conv2"]


def test_changes_that_make_up_for_each_other_are_not_blamed() -> None:
    found = graphopt.bisect(chain(), passes=[MoveFactor(node="conv3")])
    assert found.blame is not None
    # What conv2 has lost conv3 has too much of: they can only be taken back together.
    assert set(blamed(found)) == {"conv2", "conv3"}
    assert found.blame.cured > 120


def test_a_node_in_a_loop_is_found(tmp_path: Path) -> None:
    model = parser.parse_model(LOOP)
    found = graphopt.bisect(model, passes=["remove-dead", RewriteReluScaled(node="inner")], output=tmp_path)
    assert blamed(found) == ["inner"]
    assert found.reproducer is not None
    assert [node.name for node in onnx.load(tmp_path / "before.onnx").graph.node] == ["loop"]


def test_one_of_two_readers_of_a_weight_is_found() -> None:
    found = graphopt.bisect(chain(shared=True), passes=[RewriteReluScaled(node="conv2")])
    assert blamed(found) == ["conv2"]
    found = graphopt.bisect(chain(shared=True), passes=[RewriteReluScaled(node="conv1")])
    assert blamed(found) == ["conv1"]


def test_a_ruined_range_is_found_behind_the_pass_that_carries_it_out(tmp_path: Path) -> None:
    tensor = "/down/Clip_output_0"
    passes = [*FLOAT, "plan-quantization", "calibrate", RuinRange(tensor), "quantize-weights", "insert-qdq"]
    found = graphopt.bisect(
        MODEL, target="onnxruntime", passes=passes, calibration_data=SAMPLES, min_sqnr=30, output=tmp_path
    )
    assert found.boundary is not None
    assert found.boundary.name == "insert-qdq"
    (suspect,) = found.blame.suspects
    assert suspect.planned[tensor] == ("plan-quantization", "calibrate", "ruin-range")
    shown = reproduce(tmp_path)
    assert shown.returncode == 1, shown.stderr
    assert "ruin-range" in to_text(bisection_page(found))


def _least(runs, labels) -> float:
    """A metric of the user's: minus the largest |logit|."""
    return -max(float(np.abs(outputs["logits"]).max()) for _, outputs in runs)


def test_a_metric_of_the_users_is_asked() -> None:
    passes = ["fold-constants", RewriteReluScaled(node=CONVS[0], factor=3.0), "fold-batch-norm"]
    found = graphopt.bisect(MODEL, passes=passes, data=SAMPLES, metric=_least, max_drop=1.0)
    assert found.metric == "_least"
    assert found.boundary is not None
    assert found.boundary.index == 2
    assert blamed(found) == [CONVS[0]]


def test_top1_on_labelled_samples() -> None:
    passes = ["fold-batch-norm", RewriteReluScaled(node=CONVS[2], factor=-1.0)]
    found = graphopt.bisect(MODEL, passes=passes, data=VALIDATION, metric="top1", max_drop=1)
    assert found.boundary is not None
    assert found.boundary.name == "rewrite-relu"
    assert found.boundary.before - found.boundary.after > 1


def test_the_search_takes_few_models_and_its_boundary_is_real() -> None:
    harmless = [RewriteReluScaled(node="none")] * 12
    passes = [*harmless, RewriteReluScaled(node=CONVS[0]), *harmless, RewriteReluScaled(node=CONVS[1]), *harmless]
    found = graphopt.bisect(MODEL, passes=passes, min_sqnr=60)
    assert found.boundary is not None
    assert found.boundary.index in (13, 26)
    by_index = {e.index: e.holds for e in found.evaluations}
    assert by_index[found.boundary.index] is False
    assert by_index[found.boundary.last_good] is True
    assert len(found.evaluations) <= 2 + 6  # both ends, and log2 of 38


def test_the_pass_limit_that_is_named_is_the_first_that_fails() -> None:
    passes = ["fold-batch-norm", RewriteReluScaled(node=CONVS[0]), "remove-dead"]
    found = graphopt.bisect(MODEL, passes=passes)
    assert found.boundary is not None
    assert "--pass-limit 1 still holds it, --pass-limit 2 doesn't" in to_text(bisection_page(found))
    rng = np.random.default_rng(0)
    image = rng.normal(size=(4, 1, 8, 8)).astype(np.float32)
    last_good, first_bad = (graphopt.optimize(MODEL, passes=passes[:n]).model for n in (1, 2))
    assert graphopt.compare(MODEL, last_good, {"image": image}).outputs[0].sqnr_db > 100
    assert graphopt.compare(MODEL, first_bad, {"image": image}).outputs[0].sqnr_db < 60


def test_nothing_to_find() -> None:
    found = graphopt.bisect(MODEL, preset="float", output="never-made")
    assert not found.found
    assert found.reproducer is None
    assert not Path("never-made").exists()
    assert "nothing is lost: behind all passes" in to_text(bisection_page(found))
    assert found.to_dict()["found"] is False
    assert "--data" in found.notes[0]


def test_what_is_allowed_to_lose_something_is_said() -> None:
    found = graphopt.bisect(MODEL, target="onnxruntime", calibration_data=SAMPLES)
    assert not found.found
    assert found.result < 60
    assert "--min-sqnr" in found.notes[0]


def test_of_8_bits_the_changes_that_lose_most_are_named() -> None:
    found = graphopt.bisect(MODEL, target="onnxruntime", calibration_data=SAMPLES, min_sqnr=40)
    assert found.blame is not None
    assert found.blame.cured >= 40
    alone = [suspect.alone for suspect in found.blame.suspects]
    assert alone == sorted(alone)
    assert 0 < len(alone) < found.blame.changes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "f1", "max_drop": 1}, "there is no metric 'f1'"),
        ({"metric": "top1"}, "a metric is given without a limit"),
        ({"metric": "top1", "max_drop": 1, "data": SAMPLES}, "has no labels"),
        ({"min_sqnr": 40, "max_drop": 1}, "give one"),
        ({"preset": "int8", "target": "onnxruntime"}, "needs samples"),
    ],
)
def test_what_the_user_gets_wrong(options: dict[str, object], message: str) -> None:
    with pytest.raises(graphopt.GraphoptError, match=message):
        graphopt.bisect(MODEL, **{"preset": None if "preset" in options else "float", **options})


def test_a_metric_that_the_original_does_not_hold_either() -> None:
    """Each model is worse than the one before, whatever it is: no pass is to blame."""
    values = iter(range(100, 0, -10))
    with pytest.raises(graphopt.AccuracyError, match="isn't held by the model as it is before any pass"):
        graphopt.bisect(MODEL, passes=["fold-batch-norm"], metric=lambda runs, labels: next(values), max_drop=1)


def test_a_pipeline_that_fails_names_the_pass() -> None:
    with pytest.raises(graphopt.InternalError, match="pass 'crash' failed with RuntimeError: planted"):
        graphopt.bisect(MODEL, passes=["fold-batch-norm", Crash()])


def test_the_model_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "before.onnx").write_bytes(MODEL.read_bytes())
    with pytest.raises(graphopt.ConfigError, match="would overwrite the input"):
        graphopt.bisect(tmp_path / "before.onnx", preset="float", output=tmp_path)


def test_json_has_all_of_it(tmp_path: Path) -> None:
    found = graphopt.bisect(MODEL, passes=[RewriteReluScaled(node=CONVS[0])], output=tmp_path)
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["boundary"]["name"] == "rewrite-relu"
    assert told["blame"]["suspects"][0]["values"][0]["node"] == CONVS[0]
    assert told["reproducer"]["folder"] == str(tmp_path)


@dataclass(frozen=True)
class ScaleLast(graphopt.Pass):
    """Scales the weight of the last convolution, if there are four: alone it does something else."""

    name: ClassVar[str] = "scale-last"
    summary: ClassVar[str] = "looks at the whole model"
    lossless: ClassVar[bool] = True

    def run(self, graph: graphopt.Graph, ctx: graphopt.Context) -> None:
        convs = [node for node in graph.nodes if node.is_op("Conv")]
        if len(convs) == 4:
            weight = graph.own_constant(convs[-1], 1)
            graph.set_values(weight, weight.values * np.float32(1.01))


def test_a_loss_that_only_shows_in_the_whole_model(tmp_path: Path) -> None:
    found = graphopt.bisect(chain(), passes=[ScaleLast()], output=tmp_path)
    assert blamed(found) == ["conv3"]
    assert found.reproducer is not None
    # Relus before the first and behind the last convolution aren't needed: growing stops short of the whole.
    assert sum(n.op_type == "Conv" for n in onnx.load(tmp_path / "before.onnx").graph.node) == 4
    assert reproduce(tmp_path).returncode == 1


def test_a_target_of_ones_own_is_taken_into_the_reproducer(tmp_path: Path) -> None:
    target = replace(graphopt.find_target("onnxruntime"), name="mine")
    found = graphopt.bisect(MODEL, target=target, calibration_data=SAMPLES, min_sqnr=41, output=tmp_path / "alone")
    assert found.reproducer is not None
    assert (tmp_path / "alone" / "target.toml").is_file()
    assert reproduce(tmp_path / "alone").returncode == 1
