"""What lies behind mapped tensors: the whole model where the maps change nothing, an edited model where they do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx.parser

from graphopt.calibration.channel_prediction import ChannelMap, zeroed
from graphopt.calibration.prefix import Prefix
from graphopt.calibration.suffix import MappedTensor, Suffix
from tests.support.rewrite import random_feeds, run

IDENTITY = ChannelMap(np.eye(4), np.zeros(4))


def residual() -> onnx.ModelProto:
    """Two outputs: one in front of the second block, one behind it."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 13]> g (float[1, 3, 5, 5] x)
                => (float[1, 2, 5, 5] early, float[1, 2, 5, 5] y) {
            [stem] a = Conv(x, w0)
            [relu0] s = Relu(a)
            [side] early = Conv(s, w1)
            [inner] b = Conv(s, w2)
            [relu1] c = Relu(b)
            [outer] d = Conv(c, w3)
            [add] t = Add(s, d)
            [head] y = Conv(t, w1)
        }"""
    )
    rng = np.random.default_rng(0)
    for name, shape in {"w0": (4, 3, 1, 1), "w1": (2, 4, 1, 1), "w2": (4, 4, 1, 1), "w3": (4, 4, 1, 1)}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    return model


def suffix_outputs(
    model: onnx.ModelProto, mapped: Sequence[MappedTensor], maps: Sequence[ChannelMap]
) -> tuple[Suffix, list[dict[str, np.ndarray]], list[dict[str, np.ndarray]]]:
    feeds = [random_feeds(model, seed) for seed in range(2)]
    suffix = Suffix(model, mapped, threads=1)
    values = Prefix(model, feeds).fetch(suffix.fed)
    samples = [{name: value[i] for name, value in zip(suffix.fed, values, strict=True)} for i in range(2)]
    results = [dict(zip(suffix.outputs, found, strict=True)) for found in suffix.run(samples, maps)]
    return suffix, feeds, results


def test_with_identities_it_is_the_model_and_feeds_on_what_lies_in_front() -> None:
    model = residual()
    mapped = [MappedTensor("c", 1, 4, frozenset({"outer"})), MappedTensor("t", 1, 4, frozenset({"head"}))]
    suffix, feeds, results = suffix_outputs(model, mapped, [IDENTITY, IDENTITY])
    assert set(suffix.fed) == {"c", "s"}
    assert suffix.outputs == ("y",)
    for feed, result in zip(feeds, results, strict=True):
        np.testing.assert_allclose(result["y"], run(model, feed)[1], atol=1e-5)


def test_only_the_named_readers_read_the_map() -> None:
    model = residual()
    stays = np.array([True, False, True, False])
    _, feeds, results = suffix_outputs(model, [MappedTensor("s", 1, 4, frozenset({"inner"}))], [zeroed(stays)])
    weight = next(t for t in model.graph.initializer if t.name == "w2")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[:, ~stays] = 0
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "w2"))
    for feed, result in zip(feeds, results, strict=True):
        np.testing.assert_allclose(result["y"], run(model, feed)[1], atol=1e-5)
        assert set(result) == {"y"}


def test_a_linear_map_is_the_same_as_other_weights() -> None:
    model = residual()
    rng = np.random.default_rng(1)
    given = ChannelMap(rng.normal(size=(4, 4)), rng.normal(size=4))
    readers = frozenset({"inner", "side"})
    _, feeds, results = suffix_outputs(model, [MappedTensor("s", 1, 4, readers)], [given])
    for name in ("inner", "side"):
        node = next(node for node in model.graph.node if node.name == name)
        weight = onnx.numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == node.input[1]))[
            ..., 0, 0
        ]
        for new, values in (("w", (weight @ given.matrix.T)[..., None, None]), ("b", weight @ given.shift)):
            model.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), f"{name}_{new}"))
        node.input[1:] = [f"{name}_w", f"{name}_b"]
    for feed, result in zip(feeds, results, strict=True):
        for found, expected in zip((result["early"], result["y"]), run(model, feed), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-4)
