"""Small Q/DQ models as other tools write them, made by hand: what differs between the tools, not their every habit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Values = dict[str, Any]
IMAGE = "float[N,4,8,8] x"


def build(
    body: str, inputs: str, outputs: str, values: Mapping[str, Any], opset: int = 17, ir: int = 8
) -> onnx.ModelProto:
    """A model of `body` with `values` as initializers."""
    text = f'<ir_version: {ir}, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) {{ {body} }}'
    parsed = onnx.parser.parse_model(text)
    parsed.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in values.items())
    onnx.checker.check_model(parsed)
    return parsed


def noise(*shape: int) -> NDArray[Any]:
    """Weights; the same for the same shape."""
    return np.random.default_rng(sum(shape)).normal(0, 0.3, shape).astype(np.float32)


def grid(name: str, scale: float, zero: int, dtype: Any, shape: tuple[int, ...] = (), real: Any = np.float32) -> Values:
    """Scale and zero point of an activation."""
    return {f"{name}_s": np.full(shape, scale, real), f"{name}_z": np.full(shape, zero, dtype)}


def channels(name: str, weight: NDArray[Any], dtype: Any = np.int8, zero: int = 0, real: Any = np.float32) -> Values:
    """Scales and zero points per output channel."""
    scale = np.abs(weight).reshape(len(weight), -1).max(axis=1) / 127
    return {f"{name}_s": scale.astype(real), f"{name}_z": np.full(len(weight), zero, dtype)}


def stored_unsigned(name: str, weight: NDArray[Any]) -> Values:
    """A weight as uint8 with one scale and zero point."""
    low, high = min(float(weight.min()), 0.0), max(float(weight.max()), 0.0)
    scale = (high - low) / 255
    zero = round(-low / scale)
    integers = np.clip(np.rint(weight / scale) + zero, 0, 255).astype(np.uint8)
    return {name: integers, f"{name}_s": np.float32(scale), f"{name}_z": np.uint8(zero)}


def pair(tensor: str, name: str, made: str, axis: int | None = None) -> str:
    """Text of a Q/DQ pair."""
    attr = "" if axis is None else f"<axis={axis}>"
    return (
        f"{made}_q = QuantizeLinear{attr}({tensor}, {name}_s, {name}_z)\n"
        f"{made} = DequantizeLinear{attr}({made}_q, {name}_s, {name}_z)\n"
    )


def modelopt() -> onnx.ModelProto:
    """Symmetric int8, one scale as a vector of one, float weights with pairs behind them, Q/DQ before layers only."""
    values: Values = {"W1": noise(8, 4, 3, 3), "b1": noise(8), "W2": noise(8, 8, 3, 3), "b2": noise(8)}
    values |= {"W3": noise(5, 8), "b3": noise(5)}
    for name in ("W1", "W2", "W3"):
        values |= channels(name, values[name])
    for name, scale in (("x", 0.04), ("r1", 0.1), ("r2", 0.2), ("f", 0.05)):
        values |= grid(name, scale, 0, np.int8, (1,))
    weights = "".join(pair(w, w, f"{w}d", 0) for w in ("W1", "W2", "W3"))
    body = f"""
        {weights}
        {pair("x", "x", "xd")}
        c1 = Conv<pads=[1,1,1,1]>(xd, W1d, b1)
        r1 = Relu(c1)
        {pair("r1", "r1", "r1d")}
        c2 = Conv<pads=[1,1,1,1]>(r1d, W2d, b2)
        a = Add(c2, r1d)
        r2 = Relu(a)
        {pair("r2", "r2", "r2d")}
        p = GlobalAveragePool(r2d)
        f = Flatten(p)
        {pair("f", "f", "fd")}
        y = Gemm<transB=1>(fd, W3d, b3)
    """
    return build(body, IMAGE, "float[N,5] y", values)


def pytorch() -> onnx.ModelProto:
    """A quantized graph of PyTorch's: uint8 weights with a zero point, one pair for several readers, pairs everywhere,
    a Linear as DequantizeLinear → Transpose → MatMul → Add.
    """
    values: Values = {"b1": noise(8), "b2": noise(8), "b3": noise(5)}
    values |= {"axes": np.array([-1, -2]), "shape": np.array([-1, 8])}
    for name, shape in (("W1", (8, 4, 3, 3)), ("W2", (8, 8, 3, 3)), ("W3", (5, 8))):
        values |= stored_unsigned(name, noise(*shape))
    for name, scale, zero in (
        ("x", 0.04, 128), ("r1", 0.05, 0), ("c2", 0.16, 120), ("r2", 0.12, 0), ("p", 0.03, 0), ("l", 0.08, 128)
    ):  # fmt: skip
        values |= grid(name, scale, zero, np.uint8)
    weights = "".join(f"{w}d = DequantizeLinear({w}, {w}_s, {w}_z)\n" for w in ("W1", "W2", "W3"))
    body = f"""
        {weights}
        {pair("x", "x", "xd")}
        c1 = Conv<pads=[1,1,1,1]>(xd, W1d, b1)
        r1 = Relu(c1)
        {pair("r1", "r1", "r1d")}
        c2 = Conv<pads=[1,1,1,1]>(r1d, W2d, b2)
        {pair("c2", "c2", "c2d")}
        a = Add(c2d, r1d)
        r2 = Relu(a)
        {pair("r2", "r2", "r2d")}
        p = ReduceMean<keepdims=1>(r2d, axes)
        {pair("p", "p", "pd")}
        f = Reshape(pd, shape)
        {pair("f", "p", "fd")}
        t = Transpose<perm=[1,0]>(W3d)
        m = MatMul(fd, t)
        l = Add(m, b3)
        {pair("l", "l", "y")}
    """
    return build(body, IMAGE, "float[N,5] y", values, opset=18)


def nncf(weights: Any = np.int8, zero: int = 0) -> onnx.ModelProto:
    """int8 activations with one scale before a Concat that a convolution reads; pairs behind float weights."""
    values: Values = {"W1": noise(8, 4, 3, 3), "b1": noise(8), "W2": noise(8, 4, 1, 1), "b2": noise(8)}
    values |= {"W3": noise(8, 16, 3, 3), "b3": noise(8)}
    for name in ("W1", "W2", "W3"):
        values |= channels(name, values[name], weights, zero)
    values |= grid("x", 0.04, 0, np.int8) | grid("j", 0.1, 0, np.int8)
    body = f"""
        {"".join(pair(w, w, f"{w}d", 0) for w in ("W1", "W2", "W3"))}
        {pair("x", "x", "xd")}
        c1 = Conv<pads=[1,1,1,1]>(xd, W1d, b1)
        c2 = Conv(xd, W2d, b2)
        {pair("c1", "j", "c1d")}
        {pair("c2", "j", "c2d")}
        j = Concat<axis=1>(c1d, c2d)
        y = Conv<pads=[1,1,1,1]>(j, W3d, b3)
    """
    return build(body, IMAGE, "float[N,8,8,8] y", values, opset=13)


def nncf_unsigned_weights() -> onnx.ModelProto:
    """A FakeQuantize of weights with 256 levels, as uint8 with a zero point per channel."""
    return nncf(np.uint8, 128)


def opset_10() -> onnx.ModelProto:
    """The first opset with Q/DQ: scalars only."""
    integers = np.random.default_rng(0).integers(-127, 128, (8, 4, 3, 3)).astype(np.int8)
    values: Values = {"W": integers, "W_s": np.float32(0.005), "W_z": np.int8(0), "b": noise(8)}
    values |= grid("x", 0.04, 128, np.uint8) | grid("r", 0.06, 0, np.uint8)
    body = f"""
        Wd = DequantizeLinear(W, W_s, W_z)
        {pair("x", "x", "xd")}
        c = Conv<pads=[1,1,1,1]>(xd, Wd, b)
        r = Relu(c)
        {pair("r", "r", "rd")}
        y = GlobalAveragePool(rd)
    """
    return build(body, IMAGE, "float[N,8,1,1] y", values, opset=10, ir=5)


def float16() -> onnx.ModelProto:
    """A strongly typed model that computes in float16 around its integers."""
    values: Values = {"b": noise(8).astype(np.float16)}
    for name, shape in (("W1", (8, 4, 3, 3)), ("W2", (5, 8, 1, 1))):
        weight = noise(*shape)
        values |= channels(name, weight, real=np.float16)
        values[name] = np.rint(weight / values[f"{name}_s"].astype(np.float32).reshape(-1, 1, 1, 1)).astype(np.int8)
    values |= grid("x", 0.04, 0, np.int8, real=np.float16) | grid("r", 0.1, 0, np.int8, real=np.float16)
    body = f"""
        W1d = DequantizeLinear<axis=0>(W1, W1_s, W1_z)
        W2d = DequantizeLinear<axis=0>(W2, W2_s, W2_z)
        {pair("x", "x", "xd")}
        c = Conv<pads=[1,1,1,1]>(xd, W1d, b)
        r = Relu(c)
        {pair("r", "r", "rd")}
        y = Conv(rd, W2d)
    """
    return build(body, "float16[N,4,8,8] x", "float16[N,5,8,8] y", values, opset=19, ir=9)


def branches() -> onnx.ModelProto:
    """Q/DQ in the bodies of an If: a vector of one scale, uint8, and a layer of which only the weight is quantized."""
    weight = noise(8, 4, 3, 3)
    values: Values = channels("W", weight) | grid("x", 0.04, 120, np.uint8, (1,))
    values["W"] = np.rint(weight / values["W_s"].reshape(-1, 1, 1, 1)).astype(np.int8)
    body = f"""
        y = If(c) <then_branch = t () => (float[N,8,8,8] ty) {{
            {pair("x", "x", "xd")}
            Wd = DequantizeLinear<axis=0>(W, W_s, W_z)
            ty = Conv<pads=[1,1,1,1]>(xd, Wd)
        }}, else_branch = e () => (float[N,8,8,8] ey) {{
            We = DequantizeLinear<axis=0>(W, W_s, W_z)
            ey = Conv<pads=[1,1,1,1]>(x, We)
        }}>
    """
    return build(body, f"{IMAGE}, bool c", "float[N,8,8,8] y", values, opset=13)


def loose_ends() -> onnx.ModelProto:
    """Q and DQ that nobody reads, that make an output of the model, and that read an input of it."""
    made = modelopt()
    graph = made.graph
    graph.node.insert(0, helper.make_node("QuantizeLinear", ["x", "x_s", "x_z"], ["nobody"], "read_by_nobody"))
    graph.node.append(helper.make_node("QuantizeLinear", ["y", "x_s", "x_z"], ["yq"], "makes_an_output"))
    graph.node.append(helper.make_node("DequantizeLinear", ["qx", "x_s", "x_z"], ["qy"], "reads_an_input"))
    graph.input.append(helper.make_tensor_value_info("qx", onnx.TensorProto.INT8, ["N", 5]))
    graph.output.append(helper.make_tensor_value_info("yq", onnx.TensorProto.INT8, ["N", 5]))
    graph.output.append(helper.make_tensor_value_info("qy", onnx.TensorProto.FLOAT, ["N", 5]))
    onnx.checker.check_model(made)
    return made


STYLES = {
    maker.__name__: maker
    for maker in (
        modelopt, pytorch, nncf, nncf_unsigned_weights, opset_10, float16, branches, loose_ends
    )
}  # fmt: skip


def feeds(model: onnx.ModelProto, seed: int = 0, batch: int = 2) -> dict[str, NDArray[Any]]:
    """Normal noise for floats, small integers, and True."""
    rng = np.random.default_rng(seed)
    stored = {i.name for i in model.graph.initializer}
    found: dict[str, NDArray[Any]] = {}
    for value in model.graph.input:
        if value.name in stored:
            continue
        shape = [d.dim_value or batch for d in value.type.tensor_type.shape.dim]
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
        made = rng.normal(size=shape) if dtype.kind == "f" else rng.integers(1, 9, shape)
        found[value.name] = np.asarray(made).astype(dtype)
    return found
