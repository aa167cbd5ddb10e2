# pyright: basic
# Reason: torch's own annotations are incomplete.
"""From a PyTorch model to int8, for each way that torch.onnx.export has.

    a small CNN ─ train ─┬─ static:      dynamo=True, one size ─────────────────▶ ONNXProgram ─┐
                         ├─ dynamic:     dynamo=True, batch, height, width open ▶ ONNXProgram ─┼─▶ optimize ─▶ int8
                         └─ torchscript: dynamo=False, batch open ──────────────▶ .onnx file ──┘

    pip install graphopt torch==2.13.0 onnxscript==0.7.2
    python examples/export_torch.py OUT_DIR

Calibration samples come from the torch DataLoader of the training. The model is trained on two thirds of the bundled
labelled digits, in about two seconds, and judged on the rest.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import graphopt

DIGITS = Path(__file__).resolve().parents[1] / "calibration_data" / "validation.npz"
TRAINED_ON = 240  # of the 360 labelled images
EPOCHS = 40


class SmallCnn(nn.Module):
    """image [batch, 1, height, width] in [-1, 1] → logits [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.block = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16),
        )  # fmt: skip
        self.down = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU())
        self.classifier = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        """[n, 1, h, w] → unnormalised class scores [n, 10]."""
        x = self.stem(image)
        x = self.down(functional.relu(x + self.block(x)))
        return self.classifier(x.mean((2, 3)))


def train(loader: DataLoader) -> SmallCnn:
    """Fit the network; the same weights each time."""
    model = SmallCnn().train()
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    for _ in range(EPOCHS):
        for image, label in loader:
            loss = functional.cross_entropy(model(image), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def exports(model: nn.Module, image: Tensor, folder: Path) -> dict[str, object]:
    """The model in the forms that torch can export it in. `image` is an example of its input."""
    inputs, outputs = ["image"], ["logits"]
    static = torch.onnx.export(
        model, (image[:1],), dynamo=True, verbose=False, input_names=inputs, output_names=outputs
    )
    sizes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    dynamic = torch.onnx.export(
        model, (image,), dynamo=True, verbose=False, input_names=inputs, output_names=outputs, dynamic_shapes=(sizes,)
    )
    path = folder / "torchscript.onnx"
    batch = {"image": {0: "batch"}, "logits": {0: "batch"}}
    with warnings.catch_warnings():  # this exporter says that it is deprecated
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            model, (image,), path, dynamo=False, input_names=inputs, output_names=outputs, dynamic_axes=batch
        )
    return {"static": static, "dynamic": dynamic, "torchscript": path}


def main(folder: Path) -> None:
    """Train, export, compile, and say how often float and int8 are right."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    digits = np.load(DIGITS)
    images, labels = torch.from_numpy(digits["image"]), torch.from_numpy(digits["labels"])
    loader = DataLoader(TensorDataset(images[:TRAINED_ON], labels[:TRAINED_ON]), batch_size=32, shuffle=True)
    held_out = {"image": digits["image"][TRAINED_ON:], "labels": digits["labels"][TRAINED_ON:]}
    model = train(loader)
    with torch.no_grad():
        right = (model(images[TRAINED_ON:]).argmax(1) == labels[TRAINED_ON:]).float().mean().item()
    print(f"{'torch':12} float32 {right:.2%}")
    for name, exported in exports(model, images[:2], folder).items():
        result = graphopt.optimize(
            exported, target="onnxruntime", calibration_data=loader, validation_data=held_out, max_drop=2.0
        )
        result.save(folder / f"{name}_int8.onnx")
        measured = result.report.measurement
        assert measured is not None  # there are validation data
        found, layers = measured.agreement, result.report.layers
        print(
            f"{name:12} float32 {found.reference_accuracy:.2%}  int8 {found.other_accuracy:.2%}  "
            f"{found.outputs[0].sqnr_db:.1f} dB  {sum(n.integer for n in layers)} of {len(layers)} layers in 8 bits"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "exported"))
