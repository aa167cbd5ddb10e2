"""A classifier with one layer that 8 bits destroy, and samples for it: for what finds out, and mends it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

import graphopt
from tests.support.quantization import model


def fragile_net() -> onnx.ModelProto:
    """A classifier whose convolution `narrow[1]` 8 bits destroy: one channel that it reads is 3000 times the others."""
    body = """
        a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w1)
        ra = Relu(a)
        wide = Conv<kernel_shape=[1,1]>(ra, spread)
        b = Conv<kernel_shape=[1,1]>(wide, w2)
        c = Conv<kernel_shape=[3,3]>(b, w3)
        rc = Relu(c)
        p = GlobalAveragePool(rc)
        f = Flatten(p)
        y = Gemm(f, w4)
    """
    shapes: dict[str, Sequence[int]] = {
        "w1": (4, 3, 3, 3),
        "spread": (4, 4, 1, 1),
        "w2": (4, 4, 1, 1),
        "w3": (16, 4, 3, 3),
        "w4": (16, 10),
    }
    net = model(body, "float[1,3,8,8] x", "float[1,10] y", 0, **shapes)
    scale = np.asarray([3000, 1, 1, 1], np.float32)
    for value in net.graph.initializer:
        array = onnx.numpy_helper.to_array(value)
        if value.name == "spread":
            value.CopyFrom(onnx.numpy_helper.from_array(array * scale.reshape(4, 1, 1, 1), value.name))
        if value.name == "w2":
            value.CopyFrom(onnx.numpy_helper.from_array(array / scale.reshape(1, 4, 1, 1) ** 2, value.name))
    names = ["first", "relu", "wide", "narrow[1]", "last*", "relu2", "pool", "flat", "head"]
    for node, name in zip(net.graph.node, names, strict=True):
        node.name = name
    return net


def classified_noise(net: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Noise, with the float model's own classes: its accuracy is 100 %."""
    x = np.random.default_rng(3).normal(size=(40, 3, 8, 8)).astype(np.float32)
    session = graphopt.backends.open_session(net)
    labels = [int(np.argmax(session.run(None, {"x": row[None]})[0])) for row in x]
    return {"x": x, "labels": np.asarray(labels)}
