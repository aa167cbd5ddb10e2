"""Groups of full-size architectures, counted from their papers. The graphs come with the onnx package."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from graphopt.analysis.coupling.find import couple
from graphopt.analysis.coupling.groups import Coupling
from graphopt.ir import from_proto, infer

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"


def coupled(name: str) -> Coupling:
    graph = from_proto(onnx.load(LIGHT / f"light_{name}.onnx"))
    infer(graph)
    return couple(graph)


def fires() -> list[int]:
    """SqueezeNet 1.0: squeeze, and both halves of expand."""
    squeezes, expands = (16, 16, 32, 32, 48, 48, 64, 64), (64, 64, 128, 128, 192, 192, 256, 256)
    return [64, *(n for s, e in zip(squeezes, expands, strict=True) for n in (s, e, e))]


def bottlenecks() -> list[int]:
    """ResNet-50: the stem, the stream of each stage, and the two inner layers of each block."""
    stages = ((64, 3), (128, 4), (256, 6), (512, 3))
    return [64, *(4 * width for width, _ in stages), *(width for width, blocks in stages for _ in range(2 * blocks))]


def dense() -> list[int]:
    """DenseNet-121: each layer's bottleneck and what it adds, the stem, and the transitions."""
    return [64, 128, 256, 512, *(n for _ in range(6 + 12 + 24 + 16) for n in (128, 32))]


def vgg() -> list[int]:
    """VGG-19: 16 convolutions, 2 hidden layers behind Flatten."""
    return [64, 64, 128, 128, *[256] * 4, *[512] * 8, 4096, 4096]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("squeezenet", fires()), ("resnet50", bottlenecks()), ("densenet121", dense()), ("vgg19", vgg())],
)
def test_all_channels_but_those_of_input_and_output(name: str, wanted: list[int]) -> None:
    coupling = coupled(name)
    assert sorted(group.units for group in coupling.removable) == sorted(wanted)


def test_alexnet_normalizes_over_the_first_two_layers() -> None:
    # conv3, conv4, conv5 and two hidden layers are left; the convolutions behind them, or they, are in two groups.
    coupling = coupled("bvlc_alexnet")
    assert [group.units for group in coupling.removable] == [384 // 2, 384 // 2, 256 // 2, 4096, 4096]
    told = [g.frozen.reason for g in coupling.groups if g.frozen is not None]
    assert told.count("LRN normalizes over windows of it") == 2


def test_shufflenet_in_groups_of_4() -> None:
    """Between a unit's grouped layers go 4·4 channels, those that the shuffle brings together in all 4 groups.

    That works where 4 divides a quarter of them: 28, 68 and 136, not 34.
    """
    coupling = coupled("shufflenet")
    inner = [group.units for group in coupling.removable[1:] if len(group.members) < 30]
    assert inner == [28 // 4, *[68 // 4] * 8, *[136 // 4] * 3]
    alone = [g for g in coupling.groups if g.frozen is not None and len(g.members) > 5]
    assert all(group.units == 1 for group in alone)
    # 24 channels of the stem and 112 behind it are 136 = 4·34; 10 of the 34 places have one in each of the 4·28, and of
    # the other 24, four places at a time have three in each.
    streams = [group.units for group in coupling.removable if len(group.members) >= 30]
    assert streams == [6, 10]
