import numpy as np
import pytest

from graphopt.calibration.observer import Job
from graphopt.calibration.rows import Batch
from graphopt.calibration.weights import detach
from graphopt.calibration.workers import WorkerPool
from graphopt.errors import CalibrationError, UnsupportedError
from tests.calibration.test_collector import NET, SAMPLES, observe, parse
from tests.calibration.test_collector_passes import NAMES, bits


@pytest.mark.parametrize("kind", ["minmax", "ema", "histogram"])
def test_workers_give_the_bits_of_one_process(kind):
    one = observe(NET, NAMES, SAMPLES, kind=kind, threads=2)
    assert bits(observe(NET, NAMES, SAMPLES, kind=kind, workers=3)) == bits(one)


def test_more_workers_than_samples():
    one = {"x": SAMPLES["x"][:1]}
    assert bits(observe(NET, NAMES, one, workers=2)) == bits(observe(NET, NAMES, one))


def test_errors_come_back_as_they_are():
    model = parse("g (float[1,2] x) => (float[1,2] y) { y = Log(x) }")
    x = np.ones((9, 2), np.float32)
    x[3, 0] = 0
    with pytest.raises(CalibrationError, match=r"sample 3: tensor 'y' .*\[-inf, 0.0\]"):
        observe(model, ["y"], {"x": x}, workers=2)
    model.graph.node[0].op_type = "Unheard"
    with pytest.raises((UnsupportedError, CalibrationError), match="Unheard"):
        observe(model, ["x"], {"x": x}, workers=2)


def test_a_worker_that_dies_is_reported():
    pool = WorkerPool(Job(detach(NET), ("x",), "minmax", "d"), 1)
    try:
        pool._workers[0]._process.kill()
        pool._workers[0]._process.wait()
        with pytest.raises(CalibrationError, match="worker ended with status -9"):
            pool.observe(Batch(0, ({"x": SAMPLES["x"][:1]},)))
    finally:
        pool.close()
