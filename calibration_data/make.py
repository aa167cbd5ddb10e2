# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false
# Reason: torch and scikit-learn serve this script alone, so the development environment does not install them.
"""Train the bundled digit classifier and write it with its samples.

    scikit-learn digits ─▶ split ─┬─▶ train ─▶ digits_cnn.onnx      (BatchNormalization left in the graph)
                                  ├─▶ calibration.npz               (from the training split)
                                  └─▶ validation.npz                (held out, with labels)

Every source of randomness is seeded and torch runs on one thread: two runs in one environment write the same
bytes. README.md has the command, the versions and what came out. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

SEED = 20240501
VALIDATION_SAMPLES = 360
CALIBRATION_SAMPLES = 128
EPOCHS = 60
BATCH = 64
PEAK_LEARNING_RATE = 4e-3
OPSET = 17


def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution with "same" padding and no bias, then BatchNorm, which brings the bias."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class Residual(nn.Module):
    """y = Relu(x + BN(Conv(Relu(BN(Conv(x)))))): the basic block of ResNet-18 (He et al. 2015)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = convolution(channels, channels)
        self.second = convolution(channels, channels)
        # The block starts as the identity (Goyal et al. 2017), so that the skip branch stays worth something.
        normalization = self.second[1]
        assert isinstance(normalization, nn.BatchNorm2d)
        nn.init.zeros_(normalization.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, h, w] → the same shape."""
        return functional.relu(x + self.second(functional.relu(self.first(x))))


class Separable(nn.Module):
    """y = Relu(BN(Pointwise(Relu6(BN(Depthwise(x)))))), stride 2: MobileNet's block (Howard et al. 2017)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depthwise = convolution(inputs, inputs, stride=2, groups=inputs)
        self.pointwise = convolution(inputs, outputs, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, h, w] → [n, outputs, ⌈h/2⌉, ⌈w/2⌉]."""
        return functional.relu(self.pointwise(functional.relu6(self.depthwise(x))))


class DigitsCnn(nn.Module):
    """image [batch, 1, 8, 8] in [-1, 1] → logits [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(1, 16)
        self.block1 = Residual(16)
        self.down = Separable(16, 32)
        self.block2 = Residual(32)
        self.classifier = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        """[n, 1, 8, 8] → unnormalised class scores [n, 10]."""
        x = functional.relu(self.stem(image))
        x = self.block2(self.down(self.block1(x)))
        return self.classifier(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


def preprocess(pixels: np.ndarray) -> np.ndarray:
    """Integer pixels 0..16 [n, 8, 8] → float32 [n, 1, 8, 8] in [-1, 1], in exact steps of 1/8."""
    return (pixels.astype(np.float32) / 8.0 - 1.0)[:, np.newaxis]


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Small random shear, rotation, scale (all ±12 %) and shift (±1 pixel); paper (-1) comes in at the edges."""
    theta = torch.eye(2, 3).repeat(len(images), 1, 1)
    theta[:, :, :2] += (torch.rand(len(images), 2, 2, generator=generator) * 2 - 1) * 0.12
    theta[:, :, 2] = (torch.rand(len(images), 2, generator=generator) * 2 - 1) * 0.25
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images + 1, grid, align_corners=False) - 1


def train(images: np.ndarray, labels: np.ndarray) -> DigitsCnn:
    """Fit the network with AdamW, a one-cycle learning rate and label smoothing; return it in eval mode."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    model = DigitsCnn().train()
    optimizer = torch.optim.AdamW(model.parameters(), PEAK_LEARNING_RATE, weight_decay=1e-3)
    batches = len(x) // BATCH  # the last, shorter batch is left out: its BatchNorm statistics are noise
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=EPOCHS * batches)
    for _ in range(EPOCHS):
        order = torch.randperm(len(x), generator=generator)[: batches * BATCH]
        for index in order.split(BATCH):
            logits = model(augment(x[index], generator))
            loss = functional.cross_entropy(logits, y[index], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def export(model: DigitsCnn, path: Path) -> None:
    """Write the model in inference mode with each BatchNormalization as its own node.

    TrainingMode.EVAL would fold BatchNorm into the convolutions, which is the compiler's job here; PRESERVE takes
    the mode from the module, so the nodes come out with training_mode = 0. The newer exporter (dynamo=True)
    starts at opset 18.
    """
    torch.onnx.export(
        model,
        (torch.zeros(1, 1, 8, 8),),
        str(path),
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )
    onnx.checker.check_model(str(path), full_check=True)


def top1(path: Path, images: np.ndarray, labels: np.ndarray) -> int:
    """How many of the images onnxruntime classifies correctly with the model at `path`."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images})
    return int((np.asarray(logits).argmax(axis=1) == labels).sum())


def main() -> None:
    """Make the three files in the folder given by --out (default: beside this script)."""
    parser = argparse.ArgumentParser(description="Train the bundled digits model and write its samples.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    pixels, target = load_digits(return_X_y=True)
    images, labels = preprocess(pixels.reshape(-1, 8, 8)), target.astype(np.int64)
    # The last samples in file order, unshuffled: neighbours in the file look alike, so a shuffled split is easier.
    train_x, validation_x = images[:-VALIDATION_SAMPLES], images[-VALIDATION_SAMPLES:]
    train_y, validation_y = labels[:-VALIDATION_SAMPLES], labels[-VALIDATION_SAMPLES:]
    drawn = np.random.default_rng(SEED).choice(len(train_x), CALIBRATION_SAMPLES, replace=False)
    path = out / "digits_cnn.onnx"
    export(train(train_x, train_y), path)
    np.savez_compressed(out / "calibration.npz", image=train_x[drawn])
    np.savez_compressed(out / "validation.npz", image=validation_x, labels=validation_y)

    correct = top1(path, validation_x, validation_y)
    fitted = top1(path, train_x, train_y)
    print(f"training   {fitted}/{len(train_y)} = {100 * fitted / len(train_y):.2f} %")
    print(f"validation {correct}/{len(validation_y)} = {100 * correct / len(validation_y):.2f} %")
    for file in ("digits_cnn.onnx", "calibration.npz", "validation.npz"):
        print(f"{file}: {(out / file).stat().st_size} bytes")


if __name__ == "__main__":
    main()
