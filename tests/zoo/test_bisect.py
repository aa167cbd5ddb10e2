"""A planted bug on SqueezeNet: `graphopt bisect` names the pass and the node, and its reproducer fails alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import graphopt
from graphopt.passes.presets import FLOAT
from tests.support.planted import RewriteReluScaled
from tests.zoo.conftest import ROOT, entry

pytestmark = pytest.mark.skipif(not ROOT, reason="needs the models that GRAPHOPT_ZOO points at")
REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("element", [-1, 77])
def test_one_weight_of_squeezenet(element: int, tmp_path: Path) -> None:
    squeezenet = entry("squeezenet_imagenet")
    node = [n.name for n in graphopt.load(squeezenet.path).nodes if n.is_op("Conv")][13]
    passes = [*FLOAT, RewriteReluScaled(node=node, element=element), *FLOAT, "remove-dead"]
    assert len(passes) >= 30
    found = graphopt.bisect(squeezenet.path, passes=passes, output=tmp_path)
    assert found.boundary is not None
    assert found.boundary.index == len(FLOAT) + 1
    assert found.blame is not None
    (suspect,) = found.blame.suspects
    assert list(suspect.changed) == [f"Conv '{node}'"]
    assert found.blame.cured > 120
    shown = subprocess.run(
        [sys.executable, tmp_path / "reproduce.py"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 1, shown.stderr
    assert f"{found.reproducer.sqnr_db:.1f} dB" in shown.stdout
