"""Whole models: layouts, edges, sizes, opsets, what the file says of itself, and what is refused."""

import importlib
import json

import numpy as np
import onnx
import pytest
from onnx import helper

from graphopt.backends import litert
from graphopt.backends.litert_model import read_model
from graphopt.backends.litert_writer import write_tflite
from graphopt.errors import ConfigError, UnsupportedError
from tests.backends.litert_writer.support import between_pairs, noise, outcome, output_scale, parse, stored, weight
from tests.backends.litert_writer.test_int8_ops import IMAGE, ONE, Quantized, X
from tests.support.quantization import model, quantize_model
from tests.support.rewrite import random_feeds, run

CONV = {"w": noise(4, 6, 3, 3), "v": noise(5, 4 * 9 * 8)}


@pytest.mark.parametrize("batch", [1, 2])
def test_a_flatten_of_an_image_permutes_the_weights_behind_it(batch):
    found = outcome(
        parse(
            f"g (float[{batch},6,9,8] x) => (float[N,C] y) "
            "{ c = Conv<pads=[1,1,1,1]>(x, w) f = Flatten(c) y = Gemm<transB=1>(f, v) }",
            **CONV,
        )
    )
    assert dict(found.written.operators) == {"CONV_2D": 1, "RESHAPE": 1, "FULLY_CONNECTED": 1}
    assert found.worst() <= 1e-4 * np.abs(found.onnx["y"]).max()


def test_a_model_that_is_exported_channels_last_has_no_transposes():
    found = outcome(
        parse(
            "g (float[2,9,8,6] x) => (float[A,B,C,D] y) { t = Transpose<perm=[0,3,1,2]>(x) "
            "c = Conv<pads=[1,1,1,1]>(t, w) r = Relu(c) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) "
            "y = Transpose<perm=[0,2,3,1]>(p) }",
            **CONV,
        )
    )
    assert dict(found.written.operators) == {"CONV_2D": 1, "MAX_POOL_2D": 1}
    assert found.worst() <= 1e-4


def test_edges_keep_their_layout_when_told_to():
    source = parse("g (float[2,6,9,8] x) => (float[N,C,H,W] y) { y = Conv<pads=[1,1,1,1]>(x, w) }", **CONV)
    found = outcome(source, keep_layout=True)
    assert found.written.inputs == {"x": (0, 1, 2, 3)}
    assert found.written.operators["TRANSPOSE"] == 2
    assert found.worst() <= 1e-4


def test_integers_at_the_edges():
    text, constants = weight("w", 4, 6, 3, 3, axis=0)
    made = between_pairs(text + "r = Conv(dx, w)", ONE, {"x": X, "y": Quantized(0.5)}, **constants)
    written = write_tflite(made, io="int8")
    assert dict(written.operators) == {"CONV_2D": 1}
    lite = read_model(written.content)
    assert (lite.inputs["x"].dtype, lite.outputs["y"].dtype) == ("int8", "int8")
    assert (lite.inputs["x"].scales, lite.inputs["x"].zero_points) == (pytest.approx((X.scale,)), (X.zero_point,))
    feed = {"x": noise(*IMAGE)}
    (found,) = litert.run(written.content, [{"x": stored(feed["x"], written.inputs["x"])}])
    values = found["y"].astype(np.float32).transpose(np.argsort(written.outputs["y"])) * np.float32(0.5)
    assert np.abs(values - run(made, feed)[0]).max() <= 0.5001


def test_the_batch_may_stay_open():
    source = model(
        "c = Conv<pads=[1,1,1,1]>(x, w1) n = Relu(c) p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(n) "
        "f = Flatten(p) y = Gemm(f, w2)",
        "float[batch,3,8,8] x", "float[batch,5] y", w1=(8, 3, 3, 3), w2=(512, 5),
    )  # fmt: skip
    made = quantize_model(source, "tflite").after
    written = write_tflite(made)
    scale = output_scale(made)
    for batch in (1, 3):
        feed = {"x": noise(batch, 3, 8, 8, seed=batch)}
        (found,) = litert.run(written.content, [{"x": stored(feed["x"], written.inputs["x"])}])
        assert np.abs(found["y"] - run(made, feed)[0]).max() <= scale * 1.001


def test_other_open_sizes_need_a_number():
    source = parse("g (float[N,6,height,8] x) => (float[N,C,H,W] y) { y = Conv(x, w) }", **CONV)
    with pytest.raises(UnsupportedError, match=r"x:2 \('height'\)"):
        write_tflite(source)
    with pytest.raises(ConfigError, match="size 'width' fits no symbolic axis"):
        write_tflite(source, sizes={"height": 9, "width": 8})
    for sizes in ({"height": 9}, {"x:2": 9}):
        assert read_model(write_tflite(source, sizes=sizes).content).inputs["x"].shape == (1, 9, 8, 6)


def test_values_that_are_computed_from_the_open_batch_need_a_number():
    # A mask that is expanded to the batch, as shifted windows have it.
    body = "s = Shape(x) e = Expand(m, s) f = Add(m, e) y = Add(x, f)"
    source = parse(f"g (float[N,6] x) => (float[N,6] y) {{ {body} }}", m=noise(1, 6))
    with pytest.raises(UnsupportedError, match="its input 'f' is computed from the open batch: give that a number"):
        write_tflite(source)
    assert read_model(write_tflite(source, sizes={"N": 2}).content).inputs["x"].shape == (2, 6)


def test_one_initializer_can_be_weight_and_operand():
    body = "c = Conv<pads=[1,1,1,1]>(x, w) a = Add(x, w) y = Add(c, a)"
    found = outcome(parse(f"g (float[6,6,3,3] x) => (float[N,C,H,W] y) {{ {body} }}", w=noise(6, 6, 3, 3)))
    assert found.worst() <= 1e-4


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 12, 13, 15, 17, 18, 20, 21, 22])
def test_opsets(opset):
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "v": rng.normal(size=(36, 5)).astype(np.float32),
        "b": rng.normal(size=5).astype(np.float32),
    }
    axes = "<axes=[2]>(q)" if opset < 13 else "(q, axes)"
    clip = "Clip<min=0.0, max=6.0>(c)" if opset < 11 else "Clip(c, low, high)"
    if opset >= 11:
        constants |= {"low": np.float32(0), "high": np.float32(6)}
    if opset >= 13:
        constants |= {"axes": np.array([2])}
    body = f"""c = Conv<pads=[1,1,1,1]>(x, w) r = {clip} p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
        q = Flatten(p) u = Unsqueeze{axes} s = Squeeze{axes.replace("(q", "(u")} g = Gemm(s, v, b)
        y = Softmax<axis=1>(g)"""
    source = parse(f"g (float[2,3,6,6] x) => (float[2,5] y) {{ {body} }}", opset=opset, **constants)
    found = outcome(source)
    assert found.worst() <= 1e-5
    made = quantize_model(source, "tflite").after
    # One step of the scores in front of the Softmax moves a probability by 1.3 % of it at most.
    assert outcome(made).worst() <= 0.02


def test_signature_metadata_and_versions():
    written = write_tflite(
        parse("g (float[N,6,9,8] image) => (float[N,4,7,6] scores) { scores = Conv(image, w) }", **CONV)
    )
    schema = importlib.import_module("ai_edge_litert.schema_py_generated")
    packed = schema.ModelT.InitFromPackedBuf(written.content, 0)
    (signature,) = packed.signatureDefs
    assert signature.signatureKey == b"serving_default"
    assert [(t.name, t.tensorIndex) for t in signature.inputs] == [(b"image", packed.subgraphs[0].inputs[0])]
    assert [(t.name, t.tensorIndex) for t in signature.outputs] == [(b"scores", packed.subgraphs[0].outputs[0])]
    entries = {m.name: bytes(packed.buffers[m.buffer].data) for m in packed.metadata}
    assert entries[b"min_runtime_version"] == b"1.14.0".ljust(16, b"\0")
    facts = json.loads(entries[b"graphopt"])
    assert (facts["inputs"], facts["outputs"]) == ({"image": [0, 2, 3, 1]}, {"scores": [0, 2, 3, 1]})
    assert packed.subgraphs[0].tensors[packed.subgraphs[0].inputs[0]].shapeSignature.tolist() == [-1, 9, 8, 6]


def test_one_message_lists_every_node_that_has_no_form_and_none_that_only_follows():
    source = parse(
        """g (float[2,3,6] x) => (float[A,B,C] y, float[D,E,F,G] z) {
            h, l, c = LSTM<hidden_size=4>(x, wi, wh) s = Squeeze(h, axes) d = Det(m) t = Tanh(s)
            u = NonZero(t) v = Cast<to=1>(u) y = Unsqueeze(v, axis)
            r = Resize<mode="cubic">(k, , sizes) z = Relu(r) }""",
        wi=noise(1, 16, 6), wh=noise(1, 16, 4), axes=np.array([1]), axis=np.array([0]), m=noise(3, 3),
        k=noise(1, 2, 4, 4), sizes=np.array([1, 1, 2, 2], np.float32),
    )  # fmt: skip
    # Both of these are constants; as outputs of an operator that reads an input they aren't.
    source.graph.node.insert(0, helper.make_node("Add", ["k0", "x0"], ["k"]))
    source.graph.node.insert(0, helper.make_node("ReduceSum", ["x"], ["x0"], keepdims=0))
    for initializer in source.graph.initializer:
        if initializer.name == "k":
            initializer.name = "k0"
    with pytest.raises(UnsupportedError) as caught:
        write_tflite(source)
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("3 nodes can't be written as .tflite (nor 2 that depend on them)")
    assert [line.split()[0] for line in lines] == ["LSTM", "NonZero", "Resize"]
    assert "LSTM has no form in LiteRT" in lines[0]
    assert "no 'cubic' interpolation" in lines[2]


def test_other_types_of_floats_are_refused():
    source = parse("g (float16[2,6] x) => (float16[N,C] y) { y = Relu(x) }")
    with pytest.raises(UnsupportedError, match="its input 'x' is float16: only float32 is written"):
        write_tflite(source)


def test_the_engine_takes_what_was_written_twice_the_same():
    source = parse("g (float[2,6,9,8] x) => (float[N,C,H,W] y) { y = Conv(x, w) }", **CONV)
    assert write_tflite(source).content == write_tflite(onnx.ModelProto.FromString(source.SerializeToString())).content
    assert outcome(source, random_feeds(source)).worst() <= 1e-4
