"""Calibration: samples → statistics of tensors → ranges → ranges file.

Dataset ──▶ collect (onnxruntime, in batches) ──▶ Statistic ──▶ solver ──▶ Range ──▶ ranges file
"""

from graphopt.calibration.collector import Progress, collect
from graphopt.calibration.dataset import Dataset, Source, load_dataset
from graphopt.calibration.preprocess import Preprocess
from graphopt.calibration.ranges_file import DataHash, data_hash, load_ranges, model_hash, save_ranges
from graphopt.calibration.samples import Feed, InputSpec, input_specs
from graphopt.calibration.solvers import SOLVERS, Solver, minmax, solver
from graphopt.calibration.statistics import MinMax, Statistic

__all__ = [
    "SOLVERS",
    "DataHash",
    "Dataset",
    "Feed",
    "InputSpec",
    "MinMax",
    "Preprocess",
    "Progress",
    "Solver",
    "Source",
    "Statistic",
    "collect",
    "data_hash",
    "input_specs",
    "load_dataset",
    "load_ranges",
    "minmax",
    "model_hash",
    "save_ranges",
    "solver",
]
