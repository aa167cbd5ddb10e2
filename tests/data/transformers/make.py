# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false
# Reason: torch and scikit-learn serve this script alone, so the development environment does not install them.
"""Train three small transformers on scikit-learn's digits and write them as ONNX.

    vit_opset17.onnx        pre-norm ViT; LayerNormalization is one node
    vit_opset11.onnx        the same weights; LayerNorm is ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div, Mul, Add
    encoder.onnx            post-norm encoder of token ids with an attention mask (Where, −inf); opset 13

Every source of randomness is seeded and torch runs on one thread. README.md has the command and what came out.
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

from tests.data.transformers.tokens import VOCABULARY, tokenize

SEED = 20240501
VALIDATION_SAMPLES = 360
EPOCHS = 80
BATCH = 64
PEAK_LEARNING_RATE = 2e-3
WIDTH, HEADS = 48, 4
TOKENS = 16


class Attention(nn.Module):
    """Softmax(Q·Kᵀ / √d + mask)·V, written out so that each exporter gives plain operators."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """[n, tokens, width], keep bool [n, 1, 1, tokens] → [n, tokens, width]."""
        split = self.qkv(x).reshape(-1, x.shape[1], 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        query, key, value = split[0], split[1], split[2]
        scores = query @ key.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5
        if keep is not None:
            scores = scores.masked_fill(~keep, float("-inf"))
        mixed = torch.softmax(scores, -1) @ value
        return self.out(mixed.permute(0, 2, 1, 3).reshape(-1, x.shape[1], WIDTH))


class Block(nn.Module):
    """x + f(LN(x)) (ViT, Dosovitskiy et al. 2020) or LN(x + f(x)) (BERT, Devlin et al. 2018), for attention and MLP."""

    def __init__(self, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attention = Attention()
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """[n, tokens, width] → the same shape."""
        if self.pre_norm:
            x = x + self.attention(self.norm1(x), keep)
            return x + self.mlp(self.norm2(x))
        x = self.norm1(x + self.attention(x, keep))
        return self.norm2(x + self.mlp(x))


class Vit(nn.Module):
    """image [batch, 1, 8, 8] in [-1, 1] → logits [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, 2, 2)
        self.position = nn.Parameter(torch.randn(1, TOKENS, WIDTH) * 0.02)
        self.blocks = nn.ModuleList(Block(pre_norm=True) for _ in range(3))
        self.norm = nn.LayerNorm(WIDTH)
        self.classifier = nn.Linear(WIDTH, 10)

    def forward(self, image: Tensor) -> Tensor:
        """[n, 1, 8, 8] → unnormalised class scores [n, 10]."""
        x = self.patches(image).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.norm(x).mean(1))


class Encoder(nn.Module):
    """input_ids int64 [batch, 16], attention_mask int64 [batch, 16] → logits [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(TOKENS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.blocks = nn.ModuleList(Block(pre_norm=False) for _ in range(2))
        self.classifier = nn.Linear(WIDTH, 10)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and which of them count → unnormalised class scores [n, 10]."""
        x = self.norm(self.words(input_ids) + self.positions(torch.arange(TOKENS)))
        keep = (attention_mask != 0)[:, None, None, :]
        for block in self.blocks:
            x = block(x, keep)
        weight = attention_mask[:, :, None].to(x.dtype)
        return self.classifier((x * weight).sum(1) / weight.sum(1))


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


def arguments_of(model: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """What `model` takes for these images."""
    if isinstance(model, Vit):
        return (images,)
    return tuple(torch.from_numpy(a) for a in tokenize(images.numpy()).values())


def train(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> None:
    """Fit the network with AdamW, a one-cycle learning rate and label smoothing; it ends in eval mode."""
    generator = torch.Generator().manual_seed(SEED)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), PEAK_LEARNING_RATE, weight_decay=1e-2)
    batches = len(x) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=EPOCHS * batches)
    for _ in range(EPOCHS):
        order = torch.randperm(len(x), generator=generator)[: batches * BATCH]
        for index in order.split(BATCH):
            logits = model(*arguments_of(model, augment(x[index], generator)))
            loss = functional.cross_entropy(logits, y[index], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    model.eval()


def export(model: nn.Module, path: Path, opset: int, example: tuple[Tensor, ...], names: list[str]) -> None:
    """Write the model with a symbolic batch."""
    torch.onnx.export(
        model,
        example,
        str(path),
        dynamo=False,
        opset_version=opset,
        input_names=names,
        output_names=["logits"],
        dynamic_axes={name: {0: "batch"} for name in [*names, "logits"]},
    )
    onnx.checker.check_model(str(path), full_check=True)


def top1(path: Path, feeds: dict[str, np.ndarray], labels: np.ndarray) -> int:
    """How many of the samples onnxruntime classifies correctly with the model at `path`."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], feeds)
    return int((np.asarray(logits).argmax(axis=1) == labels).sum())


def main() -> None:
    """Make the three models in the folder given by --out (default: beside this script)."""
    parser = argparse.ArgumentParser(description="Train the digits transformers.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    pixels, target = load_digits(return_X_y=True)
    images, labels = preprocess(pixels.reshape(-1, 8, 8)), target.astype(np.int64)
    held = images[-VALIDATION_SAMPLES:], labels[-VALIDATION_SAMPLES:]
    for kind in (Vit, Encoder):
        torch.manual_seed(SEED)
        model = kind()
        train(model, images[:-VALIDATION_SAMPLES], labels[:-VALIDATION_SAMPLES])
        example = arguments_of(model, torch.zeros(2, 1, 8, 8))
        feeds = {"image": held[0]} if kind is Vit else tokenize(held[0])
        opsets = {"vit_opset17.onnx": 17, "vit_opset11.onnx": 11} if kind is Vit else {"encoder.onnx": 13}
        for file, opset in opsets.items():
            export(model, out / file, opset, example, list(feeds))
            correct = top1(out / file, feeds, held[1])
            print(f"{file}: {(out / file).stat().st_size} bytes, validation {correct}/{VALIDATION_SAMPLES}")


if __name__ == "__main__":
    main()
