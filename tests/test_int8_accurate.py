"""The preset int8-accurate on the bundled model: in 8 bits in every engine, as close as int8 or closer, repeatable."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.api.verifying import check_verifiable
from graphopt.errors import GraphoptError
from graphopt.targets import TARGETS, find_target
from tests.support.hash_seeds import printed_under_two_hash_seeds

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "calibration_data" / "digits_cnn.onnx"
SAMPLES = 64


def samples() -> dict[str, np.ndarray]:
    with np.load(ROOT / "calibration_data" / "calibration.npz") as file:
        return {"image": file["image"][:SAMPLES]}


@pytest.mark.parametrize("target", TARGETS)
def test_every_layer_runs_in_integers_and_no_accuracy_is_lost_over_int8(target: str) -> None:
    try:
        check_verifiable(find_target(target), True, None)
        verified = True
    except GraphoptError:  # its engine isn't installed here
        verified = False
    found = {
        preset: graphopt.optimize(
            MODEL,
            target=target,
            preset=preset,
            calibration_data=samples(),
            validation_data=ROOT / "calibration_data" / "validation.npz",
            verify=verified and preset == "int8-accurate",
        ).report
        for preset in ("int8", "int8-accurate")
    }
    sqnr: dict[str, float] = {}
    for preset, report in found.items():
        assert report.measurement is not None
        sqnr[preset] = report.measurement.agreement.outputs[0].sqnr_db
        assert (report.measurement.agreement.other_accuracy or 0) >= 0.98
    # 64 samples don't say everything about 360 others.
    assert sqnr["int8-accurate"] > sqnr["int8"] - 1
    integers = [{x.name for x in report.layers if x.integer} for report in found.values()]
    assert integers[0] == integers[1]


SCRIPT = """
from tests.test_int8_accurate import digest
print(digest())
"""


def digest() -> str:
    result = graphopt.optimize(MODEL, target="openvino", preset="int8-accurate", calibration_data=samples(), threads=1)
    return hashlib.sha256(result.model.SerializeToString(deterministic=True)).hexdigest()


def test_two_processes_with_different_hash_seeds_agree() -> None:
    assert len(printed_under_two_hash_seeds(SCRIPT)) == 1
