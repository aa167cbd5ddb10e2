"""What torch.onnx.export writes, by both exporters: outputs stay torch's, layers go into 8 bits, lint is content."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.targets import TARGETS
from tests.support.rewrite import run

torch = pytest.importorskip("torch", reason="the exporters of torch (extra test)")
nn, functional = torch.nn, torch.nn.functional

pytestmark = pytest.mark.xdist_group("torch")  # it is imported once


class Segmentation(nn.Module):
    """Down and up again: BatchNorm, SiLU, a transposed convolution, a Resize to the size of another tensor, Concat."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.SiLU())
        self.deep = nn.Conv2d(8, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.last = nn.Conv2d(24, 2, 1)

    def forward(self, x: Any) -> Any:
        a = self.first(x)
        b = functional.relu(self.deep(functional.max_pool2d(a, 2)))
        return self.last(torch.cat([a, self.up(b), functional.interpolate(b[:, :8], size=a.shape[-2:])], 1))


class Attention(nn.Module):
    """Self-attention over a sequence of any length, its weights cut from one, its heads from one product."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.widen, self.narrow = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: Any) -> Any:
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.narrow(functional.gelu(self.widen(x)))


NETWORKS: dict[str, tuple[Callable[[], Any], tuple[int, ...], dict[int, str]]] = {
    "segmentation": (Segmentation, (3, 16, 24), {0: "batch", 2: "height", 3: "width"}),
    "attention": (Attention, (10, 32), {0: "batch", 1: "length"}),
}
# How each is exported: its name, and what torch.onnx.export is given.
FORMS: dict[str, dict[str, Any]] = {
    "dynamo, as traced": {"dynamo": True, "opset_version": 20, "optimize": False},
    "dynamo, opset 23": {"dynamo": True, "opset_version": 23},
    "TorchScript": {"dynamo": False, "opset_version": 17},
    "TorchScript, functions": {
        "dynamo": False,
        "opset_version": 17,
        "export_modules_as_functions": {nn.SiLU, nn.Linear},
    },
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Iterator[tuple[str, Any]]:
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield request.param, NETWORKS[request.param][0]().eval()
    torch.set_num_threads(threads)


def exported(name: str, model: Any, form: str, folder: Path) -> onnx.ModelProto:
    _, shape, names = NETWORKS[name]
    options = FORMS[form] | {"input_names": ["x"], "output_names": ["y"]}
    if FORMS[form]["dynamo"]:
        options |= {"dynamic_shapes": (dict.fromkeys(names, torch.export.Dim.DYNAMIC),), "verbose": False}
    else:
        options |= {"dynamic_axes": {"x": names, "y": names}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (torch.zeros(2, *shape),), folder / "model.onnx", **options)
    return onnx.load(folder / "model.onnx")


def noise(name: str, seed: int, *, grown: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A batch; with `grown`, other sizes than those of the export along the open axes."""
    shape = [2, *NETWORKS[name][1]]
    for axis in NETWORKS[name][2]:
        shape[axis] += grown * (2 if name == "segmentation" else 1)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def sqnr(signal: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> float:
    return float(10 * np.log10((signal**2).sum() / max(((signal - found) ** 2).sum(), 1e-30)))


@pytest.mark.parametrize("form", FORMS)
def test_an_export(network: tuple[str, Any], form: str, tmp_path: Path) -> None:
    name, model = network
    source = exported(name, model, form, tmp_path)
    # Tracing has fixed the sizes in the Reshapes of nn.MultiheadAttention.
    fixed = name == "attention" and not FORMS[form]["dynamo"]
    feed = noise(name, 7, grown=0 if fixed else 1)
    with torch.no_grad():
        expected = model(torch.from_numpy(feed)).numpy()
    assert bool(source.functions) == ("functions" in form)
    simplified = graphopt.optimize(source, preset="float").model
    assert sqnr(expected, run(simplified, {"x": feed})[0]) > 110
    samples = [{"x": noise(name, seed)} for seed in range(4)]
    for target in TARGETS if form == "dynamo, opset 23" else ("onnxruntime",):
        result = graphopt.optimize(source, target=target, calibration_data=samples)
        assert [str(finding) for finding in graphopt.lint(result.model, target)] == []
        assert sqnr(expected, run(result.model, {"x": feed})[0]) > 25
        integer = {layer.op for layer in result.report.layers if layer.integer}
        assert integer >= ({"Conv", "MaxPool"} if name == "segmentation" else {"MatMul"})
        # Of MatMul, products of two activations alone stay in float.
        whole = [n for n in result.report.layers if n.op in ("Conv", "Gemm", "MatMul") and not n.integer]
        assert [n.reason for n in whole if "its weight is not a constant" not in n.reason] == []
