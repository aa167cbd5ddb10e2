"""4-bit weights of real models, by real inputs: onnxruntime reads them, and gptq is worth its samples."""

from __future__ import annotations

import numpy as np
import pytest

import graphopt
from graphopt.backends import open_session
from graphopt.backends.measures import Tally
from tests.zoo.conftest import ROOT, entry

pytestmark = pytest.mark.skipif(not ROOT, reason="needs the models that GRAPHOPT_ZOO points at")

# Of 6.7 and 3.3 dB, measured with 64 samples.
GAINED = {"silero_vad_v2_mini": 3.0, "mobilenetv1_025_imagenet_bn": 1.0}


@pytest.mark.parametrize("name", GAINED)
def test_gptq_errs_less_than_rounding_to_nearest_on_new_samples(name: str) -> None:
    feeds, calibration = entry(name).validation(20)[0], entry(name).calibration(24)
    plain = graphopt.optimize(str(entry(name).path), preset="float", threads=1).model
    exact = [open_session(plain, threads=1).run(None, feed)[0] for feed in feeds]
    found: dict[str, float] = {}
    for method in ("rtn", "gptq"):
        passes = f"quantize-weights{{bits=4, method={method}}}"
        made = graphopt.optimize(plain, target="onnxruntime", passes=passes, calibration_data=calibration).model
        session, tally = open_session(made, threads=1), Tally()
        for feed, expected in zip(feeds, exact, strict=True):
            tally.add(expected, np.asarray(session.run(None, feed)[0]))
        found[method] = tally.sqnr_db
    assert graphopt.verify(made, target="onnxruntime").ok
    assert found["gptq"] > found["rtn"] + GAINED[name]
